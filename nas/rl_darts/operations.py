"""Candidate operations of a cell: the one place that knows what each computes.

An operation serves all edges that leave one node. For T target nodes its
parameters have an axis of targets, and its result has one beside the channels:
[..., C] -> [..., T, C]. Every target has parameters of its own. An operation
without parameters is a `Feature`, computed once for all targets. Pictures are
padded so that a stride s turns H rows into ceil(H / s).

`weight`, one per target, multiplies the result. Operations that are linear in
their parameters, or positively homogeneous after such a one (ReLU), multiply the
parameters instead of the pictures; so weights must not be negative.

Reference: arXiv:2106.02229; the code of its authors (google/brain_autorl,
  rl_darts/policies/darts_ops.py). What differs from it is in the README.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, NamedTuple, Protocol, runtime_checkable

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import lax
from jaxtyping import Array, Float

__all__ = [
  'OPERATIONS',
  'ZERO',
  'Feature',
  'Form',
  'Operation',
  'Parameter',
  'average_pool',
  'convolve',
  'get',
  'parameters',
]

ZERO = 'Zero'

Params = Mapping[str, Array | np.ndarray]
Padding = Literal['SAME', 'VALID']
_LAYOUT = ('NHWC', 'HWIO', 'NHWC')
# Added to a variance, in squared units of what is normalised.
_EPS = 1e-5


class Form(NamedTuple):
  """How an operation is computed; static.

  Attributes:
    stride: of pictures, along both sides.
    products: whether convolutions are written as products of patches. XLA's
      convolutions are faster on a CPU, unless `vmap` gives each its own kernel
      (several agents or cells at once): then products are, 10 to 30 times.
  """

  stride: int = 1
  products: bool = False


class Parameter(NamedTuple):
  """Shape and first values of a parameter."""

  shape: tuple[int, ...]
  init: nn.initializers.Initializer


@runtime_checkable
class Operation(Protocol):
  """One candidate with parameters; a frozen dataclass."""

  def parameters(self, channels: int, targets: int) -> dict[str, Parameter]:
    """Parameters for T targets, by name; each with an axis T before the last."""

  def __call__(
    self,
    params: Params,
    x: Float[Array, '... c'],
    weight: Float[Array, ' t'],
    form: Form,
  ) -> Float[Array, '... t c']:
    """Applies the operation and multiplies by the weights."""


def _kernel(shape: tuple[int, ...], fan_in: Sequence[int]) -> Parameter:
  """A kernel [..., T, C] with variance 1 / fan in."""
  init = nn.initializers.variance_scaling(
    1.0,
    'fan_in',
    'truncated_normal',
    in_axis=fan_in,
    out_axis=(len(shape) - 2, len(shape) - 1),
  )
  return Parameter(shape, init)


def _zeros(*shape: int) -> Parameter:
  return Parameter(shape, nn.initializers.zeros_init())


def _patches(
  x: Float[Array, 'b h w c'],
  size: int,
  stride: int,
  *,
  dilation: int = 1,
  padding: Padding = 'SAME',
) -> Float[Array, 'b i j k c']:
  """What a kernel sees at each of its places, k = size^2."""
  reach = (size - 1) * dilation + 1
  pads = lax.padtype_to_pads(
    x.shape[1:3], (reach, reach), (stride, stride), padding
  )
  x = jnp.pad(x, ((0, 0), *pads, (0, 0)))
  rows, columns = ((side - reach) // stride + 1 for side in x.shape[1:3])

  def shifted(i: int, j: int) -> Array:
    down = slice(i, i + (rows - 1) * stride + 1, stride)
    right = slice(j, j + (columns - 1) * stride + 1, stride)
    return x[:, down, right]

  places = [place * dilation for place in range(size)]
  return jnp.stack([shifted(i, j) for i in places for j in places], axis=3)


def convolve(
  x: Float[Array, 'b h w c'],
  kernel: Float[Array, 'k k c o'],
  *,
  stride: int = 1,
  dilation: int = 1,
  padding: Padding = 'SAME',
  products: bool = False,
) -> Float[Array, 'b i j o']:
  """A convolution: XLA's, or as one product with the patches.

  Args:
    x: pictures.
    kernel: square.
    stride: along both sides; may be combined with a dilation.
    dilation: distance of the kernel's taps.
    padding: 'SAME', to ceil(h / stride) rows, or 'VALID', none.
    products: see `Form`.
  """
  size, width = kernel.shape[0], kernel.shape[-1]
  if not products:
    return lax.conv_general_dilated(
      x,
      kernel,
      (stride, stride),
      padding,
      rhs_dilation=(dilation, dilation),
      dimension_numbers=_LAYOUT,
    )
  if size == 1 and stride == 1:
    return x @ kernel[0, 0]
  seen = _patches(x, size, stride, dilation=dilation, padding=padding)
  return seen.reshape(*seen.shape[:3], -1) @ kernel.reshape(-1, width)


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
class Convolution:
  """A dense convolution, then ReLU if asked for.

  Attributes:
    size: of the kernel.
    dilation: of its taps.
    relu: whether ReLU follows.
  """

  size: int
  dilation: int = 1
  relu: bool = False

  def parameters(self, channels: int, targets: int) -> dict[str, Parameter]:
    """See `Operation`."""
    shape = (self.size, self.size, channels, targets, channels)
    return {'kernel': _kernel(shape, (2,)), 'bias': _zeros(targets, channels)}

  def __call__(
    self, params: Params, x: Array, weight: Array, form: Form
  ) -> Array:
    """See `Operation`; the weights are in kernel and bias."""
    kernel = params['kernel'] * weight[:, None]
    y = convolve(
      x,
      kernel.reshape(*kernel.shape[:3], -1),
      stride=form.stride,
      dilation=self.dilation,
      products=form.products,
    )
    y = y.reshape(*y.shape[:-1], *kernel.shape[3:])
    y += params['bias'] * weight[:, None]
    return nn.relu(y) if self.relu else y


@dataclasses.dataclass(frozen=True)
class DepthConvolution:
  """A convolution of each channel by itself, with a bias.

  Attributes:
    size: of the kernel.
    separable: whether a 1x1 convolution follows that mixes channels.
    relu: whether ReLU follows.
  """

  size: int
  separable: bool = False
  relu: bool = False

  def parameters(self, channels: int, targets: int) -> dict[str, Parameter]:
    """See `Operation`."""
    shape = (self.size, self.size, targets, channels)
    per_channel = nn.initializers.normal(1 / self.size)
    found = {
      'kernel': Parameter(shape, per_channel),
      'bias': _zeros(targets, channels),
    }
    if self.separable:
      found['mixing'] = _kernel((channels, targets, channels), (0,))
      found['mixing_bias'] = _zeros(targets, channels)
    return found

  def __call__(
    self, params: Params, x: Array, weight: Array, form: Form
  ) -> Array:
    """See `Operation`; the weights are in the last kernel and bias."""
    weight = weight[:, None]
    if self.separable:
      y = self._per_channel(x, params['kernel'], form) + params['bias']
      y = jnp.einsum('...tc,ctd->...td', y, params['mixing'] * weight)
      y += params['mixing_bias'] * weight
    else:
      y = self._per_channel(x, params['kernel'] * weight, form)
      y += params['bias'] * weight
    return nn.relu(y) if self.relu else y

  def _per_channel(
    self,
    x: Float[Array, 'b h w c'],
    kernel: Float[Array, 'k k t c'],
    form: Form,
  ) -> Float[Array, 'b i j t c']:
    *_, targets, channels = kernel.shape
    if form.products:
      seen = _patches(x, self.size, form.stride)
      flat = kernel.reshape(-1, targets, channels)
      return jnp.einsum('bijkc,ktc->bijtc', seen, flat)
    # XLA wants the outputs of one channel beside each other.
    kernel = jnp.swapaxes(kernel, 2, 3)
    kernel = kernel.reshape(self.size, self.size, 1, -1)
    y = lax.conv_general_dilated(
      x,
      kernel,
      (form.stride, form.stride),
      'SAME',
      dimension_numbers=_LAYOUT,
      feature_group_count=channels,
    )
    y = y.reshape(*y.shape[:-1], channels, targets)
    return jnp.swapaxes(y, -1, -2)


@runtime_checkable
class Feature(Protocol):
  """One candidate without parameters, the same for all targets."""

  def value(
    self, x: Float[Array, '... c'], stride: int
  ) -> Float[Array, '... c']:
    """Applies the operation, without weights."""


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

  def parameters(self, channels: int, targets: int) -> dict[str, Parameter]:
    """See `Operation`."""
    shape = (targets, channels)
    return {
      'scale': Parameter(shape, nn.initializers.ones_init()),
      'bias': _zeros(*shape),
    }

  def __call__(
    self, params: Params, x: Array, weight: Array, form: Form
  ) -> Array:
    """See `Operation`; the weights are in scale and shift."""
    axes = tuple(range(x.ndim - 1)) if self.batch else -1
    y = normalize(_smaller(x, form.stride), axes)[..., None, :]
    return (y * params['scale'] + params['bias']) * weight[:, None]


def normalize(
  x: Float[Array, '... c'], axes: int | tuple[int, ...]
) -> Float[Array, '... c']:
  """To mean 0 and deviation 1 over some axes; statistics in float32."""
  wide = x.astype(jnp.float32)
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

  def parameters(self, channels: int, targets: int) -> dict[str, Parameter]:
    """See `Operation`."""
    shape = (channels, targets, channels)
    return {'kernel': _kernel(shape, (0,)), 'bias': _zeros(targets, channels)}

  def __call__(
    self, params: Params, x: Array, weight: Array, form: Form
  ) -> Array:
    """See `Operation`."""
    del form
    y = jnp.einsum('...c,ctd->...td', x, params['kernel']) + params['bias']
    y = y if self.function is None else self.function(y)
    return y * weight[:, None]


@dataclasses.dataclass(frozen=True)
class Highway:
  """Of vectors: s f(W h) + (1 - s) h with s = sigmoid(W_c h), without biases.

  Attributes:
    function: f; None: identity.
  """

  function: Callable[[Array], Array] | None = None

  def parameters(self, channels: int, targets: int) -> dict[str, Parameter]:
    """See `Operation`."""
    shape = (channels, targets, channels)
    return {'gate': _kernel(shape, (0,)), 'kernel': _kernel(shape, (0,))}

  def __call__(
    self, params: Params, x: Array, weight: Array, form: Form
  ) -> Array:
    """See `Operation`."""
    del form
    layer = lambda name: jnp.einsum('...c,ctd->...td', x, params[name])
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
  'Gelu': nn.gelu,
  'Selu': nn.selu,
  'Silu': nn.silu,
}


def _pictures() -> dict[str, Operation | Feature]:
  """Convolutions and poolings by name."""
  found: dict[str, Operation | Feature] = {}
  for relu in (False, True):
    for size in (3, 5):
      name = f'{size}x{size}' + 'Relu' * relu
      found |= {
        f'Conv{name}': Convolution(size, relu=relu),
        f'DilConv{name}': Convolution(size, dilation=2, relu=relu),
        f'DepthConv{name}': DepthConvolution(size, relu=relu),
        f'DepthSepConv{name}': DepthConvolution(
          size, separable=True, relu=relu
        ),
      }
  for size in (2, 3, 4, 5):
    found[f'MaxPool{size}x{size}'] = Pooling(size, largest=True)
    found[f'AveragePool{size}x{size}'] = Pooling(size, largest=False)
  return found


def _vectors() -> dict[str, Operation]:
  """Layers of vectors by name."""
  found: dict[str, Operation] = {'Linear': Dense(), 'HighwayLinear': Highway()}
  for name, function in _POINTWISE.items():
    found[f'Dense{name}'] = Dense(function)
    found[f'Highway{name}'] = Highway(function)
  return found


OPERATIONS: dict[str, Operation | Feature] = {
  **_pictures(),
  **{name: Pointwise(function) for name, function in _POINTWISE.items()},
  'SkipConnection': Pointwise(_identity),
  ZERO: Pointwise(jnp.zeros_like),
  'BatchNorm': Normalization(batch=True),
  'LayerNorm': Normalization(batch=False),
  **_vectors(),
}


def get(name: str) -> Operation | Feature:
  """The operation of a name.

  Raises:
    ValueError: if there is none, naming those that exist.
  """
  if name not in OPERATIONS:
    raise ValueError(f'no operation {name!r}; there are {sorted(OPERATIONS)}')
  return OPERATIONS[name]


def parameters(name: str, channels: int, targets: int) -> dict[str, Parameter]:
  """Parameters of an operation by name; none of a `Feature`."""
  op = get(name)
  if isinstance(op, Feature):
    return {}
  return op.parameters(channels, targets)
