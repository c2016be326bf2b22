"""Candidate operations of a cell: the table of all, by name.

Reference: arXiv:2106.02229; the code of its authors (google/brain_autorl,
  rl_darts/policies/darts_ops.py). The README lists the differences.
"""

import dataclasses
import functools
from collections.abc import Callable

import jax.numpy as jnp
from flax import linen as nn
from jax import lax
from jaxtyping import Array, Float

from nas.rl_darts import candidates, convolutions

__all__ = [
  'OPERATIONS',
  'ZERO',
  'average_pool',
  'get',
  'normalize',
  'parameters',
]

ZERO = 'Zero'

# Added to a variance, in squared units of the normalised activations.
_EPS = 1e-5


def average_pool(
  x: Float[Array, 'b h w c'], size: int, stride: int
) -> Float[Array, 'b i j c']:
  """Means over windows; pixels beyond the border do not count."""
  return nn.avg_pool(
    x, (size, size), (stride, stride), 'SAME', count_include_pad=False
  )


def _smaller(x: Float[Array, '... c'], stride: int) -> Float[Array, '... c']:
  """The input of operations without a stride of their own."""
  return x if stride == 1 else average_pool(x, 3, stride)


@dataclasses.dataclass(frozen=True)
class Pointwise:
  """A function of each number; with a stride, after a 3x3 average pooling.

  Attributes:
    function: of an array.
  """

  function: Callable[[Array], Array]

  def value(self, x: Array, stride: int) -> Array:
    """See `Feature`."""
    return self.function(_smaller(x, stride))


@dataclasses.dataclass(frozen=True)
class Pooling:
  """The largest, or the mean, of windows.

  Attributes:
    size: of the windows.
    largest: which of the two.
  """

  size: int
  largest: bool

  def value(self, x: Array, stride: int) -> Array:
    """See `Feature`."""
    if not self.largest:
      return average_pool(x, self.size, stride)
    return nn.max_pool(x, (self.size,) * 2, (stride,) * 2, 'SAME')


@dataclasses.dataclass(frozen=True)
class Normalization:
  """Mean 0 and deviation 1, then a scale and a shift for each channel.

  Attributes:
    batch: over examples and pixels, of each channel; otherwise over channels.
  """

  batch: bool

  def parameters(
    self, channels: int, targets: int
  ) -> dict[str, candidates.Parameter]:
    """See `Operation`."""
    shape = (targets, channels)
    return {
      'scale': candidates.Parameter(shape, nn.initializers.ones_init()),
      'bias': candidates.zeros(*shape),
    }

  def __call__(
    self,
    params: candidates.Params,
    x: Array,
    weight: Array,
    form: candidates.Form,
  ) -> Array:
    """See `Operation`; the weights are in scale and shift."""
    axes = tuple(range(x.ndim - 1)) if self.batch else -1
    y = normalize(_smaller(x, form.stride), axes)[..., None, :]
    return (y * params['scale'] + params['bias']) * weight[:, None]


def normalize(
  x: Float[Array, '... c'], axes: int | tuple[int, ...]
) -> Float[Array, '... c']:
  """To mean 0 and deviation 1 over some axes; statistics in float32 or wider."""
  wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
  centred = wide - wide.mean(axes, keepdims=True)
  variance = jnp.mean(centred**2, axes, keepdims=True)
  return (centred * lax.rsqrt(variance + _EPS)).astype(x.dtype)


@dataclasses.dataclass(frozen=True)
class Dense:
  """A function of a dense layer, of vectors.

  Attributes:
    function: after the layer; None: none.
  """

  function: Callable[[Array], Array] | None = None

  def parameters(
    self, channels: int, targets: int
  ) -> dict[str, candidates.Parameter]:
    """See `Operation`."""
    shape = (channels, targets, channels)
    return {
      'kernel': candidates.kernel(shape, (0,)),
      'bias': candidates.zeros(targets, channels),
    }

  def __call__(
    self,
    params: candidates.Params,
    x: Array,
    weight: Array,
    form: candidates.Form,
  ) -> Array:
    """See `Operation`."""
    del form
    kernel = params['kernel'].astype(x.dtype)
    y = jnp.einsum('...c,ctd->...td', x, kernel) + params['bias']
    y = y if self.function is None else self.function(y)
    return y * weight[:, None]


@dataclasses.dataclass(frozen=True)
class Highway:
  """Of vectors: s f(W h) + (1 - s) h with s = sigmoid(W_c h), without biases.

  Attributes:
    function: f; None: identity.
  """

  function: Callable[[Array], Array] | None = None

  def parameters(
    self, channels: int, targets: int
  ) -> dict[str, candidates.Parameter]:
    """See `Operation`."""
    shape = (channels, targets, channels)
    return {
      'gate': candidates.kernel(shape, (0,)),
      'kernel': candidates.kernel(shape, (0,)),
    }

  def __call__(
    self,
    params: candidates.Params,
    x: Array,
    weight: Array,
    form: candidates.Form,
  ) -> Array:
    """See `Operation`."""
    del form
    layer = lambda name: jnp.einsum(
      '...c,ctd->...td', x, params[name].astype(x.dtype)
    )
    open_ = nn.sigmoid(layer('gate'))
    new = layer('kernel')
    new = new if self.function is None else self.function(new)
    return (open_ * new + (1 - open_) * x[..., None, :]) * weight[:, None]


def _identity(x: Array) -> Array:
  return x


_POINTWISE = {
  'Relu': nn.relu,
  'Tanh': nn.tanh,
  'Sigmoid': nn.sigmoid,
  'Elu': nn.elu,
  'Gelu': functools.partial(nn.gelu, approximate=False),
  'Selu': nn.selu,
  'Silu': nn.silu,
}


def _pictures() -> dict[str, candidates.Operation | candidates.Feature]:
  """Convolutions and poolings by name."""
  found: dict[str, candidates.Operation | candidates.Feature] = {}
  for relu in (False, True):
    for size in (3, 5):
      name = f'{size}x{size}' + 'Relu' * relu
      found |= {
        f'Conv{name}': convolutions.Convolution(size, relu=relu),
        f'DilConv{name}': convolutions.Convolution(size, dilation=2, relu=relu),
        f'DepthConv{name}': convolutions.DepthConvolution(size, relu=relu),
        f'DepthSepConv{name}': convolutions.DepthConvolution(
          size, separable=True, relu=relu
        ),
      }
  for size in (2, 3, 4, 5):
    found[f'MaxPool{size}x{size}'] = Pooling(size, largest=True)
    found[f'AveragePool{size}x{size}'] = Pooling(size, largest=False)
  return found


def _vectors() -> dict[str, candidates.Operation]:
  """Layers of vectors by name."""
  found: dict[str, candidates.Operation] = {
    'Linear': Dense(),
    'HighwayLinear': Highway(),
  }
  for name, function in _POINTWISE.items():
    found[f'Dense{name}'] = Dense(function)
    found[f'Highway{name}'] = Highway(function)
  return found


OPERATIONS: dict[str, candidates.Operation | candidates.Feature] = {
  **_pictures(),
  **{name: Pointwise(function) for name, function in _POINTWISE.items()},
  'SkipConnection': Pointwise(_identity),
  ZERO: Pointwise(jnp.zeros_like),
  'BatchNorm': Normalization(batch=True),
  'LayerNorm': Normalization(batch=False),
  **_vectors(),
}


def get(name: str) -> candidates.Operation | candidates.Feature:
  """The operation of a name.

  Raises:
    ValueError: if there is none, naming those that exist.
  """
  if name not in OPERATIONS:
    raise ValueError(f'no operation {name!r}; there are {sorted(OPERATIONS)}')
  return OPERATIONS[name]


def parameters(
  name: str, channels: int, targets: int
) -> dict[str, candidates.Parameter]:
  """Parameters of an operation by name; none of a `Feature`."""
  op = get(name)
  if isinstance(op, candidates.Feature):
    return {}
  return op.parameters(channels, targets)
