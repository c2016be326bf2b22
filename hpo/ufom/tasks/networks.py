"""Networks of few-shot classification, with batch statistics inside.

| network | pictures | parameters |
|---|---|---|
| 4 blocks, 64 filters, stride 2 | 28x28x1, 5 classes | 113,221 |
| the same | 32x32x3, 20 classes | 118,228 |
| 4 blocks, 32 filters, 2x2 max-pooling | 84x84x3, 5 classes | 34,661 |

Normalisation always uses the statistics of its batch, in the inner loop and in
tests (transductive), so there are no running averages for steps that are
computed again to update twice.

Source: arXiv:2106.02487, experiments; the blocks are those of arXiv:1703.03400.
"""

from typing import Literal

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from rl.odetoode import bodies, heads

__all__ = [
  'MLP',
  'ODE',
  'BatchStatistics',
  'ConvNet',
  'Convolution',
  'convolve',
]

Form = Literal['auto', 'lax', 'products']
_KERNEL = 3
_TIED = ('orthogonal', 'stiefel')


def convolve(
  x: Float[Array, 'n h w c'],
  kernel: Float[Array, '3 3 c f'],
  stride: int,
  *,
  form: Form = 'auto',
) -> Float[Array, 'n i j f']:
  """A 3x3 convolution with padding 'SAME'.

  On CPUs small convolutions and their transposes, written by the compiler, run
  at a fraction of the rate of a matrix product; `products` gathers the nine
  shifted pictures side by side and multiplies once.

  Args:
    x: pictures.
    kernel: filters.
    stride: of both directions.
    form: 'lax', 'products', or 'auto', which is 'products' on CPUs.

  Raises:
    ValueError: the form is unknown or the stride not positive.
  """
  if form not in ('auto', 'lax', 'products') or stride < 1:
    raise ValueError(
      "form must be 'auto', 'lax' or 'products' and stride at least 1, "
      f'got {form!r} {stride=}'
    )
  if form == 'auto':
    form = 'products' if jax.default_backend() == 'cpu' else 'lax'
  if form == 'lax':
    return jax.lax.conv_general_dilated(
      x,
      kernel,
      (stride, stride),
      'SAME',
      dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
    )
  patches = _patches(x, stride)
  return patches @ kernel.reshape(-1, kernel.shape[-1])


def _patches(
  x: Float[Array, 'n h w c'], stride: int
) -> Float[Array, 'n i j p']:
  """The nine neighbours of every output, side by side."""
  sizes = [-(-length // stride) for length in x.shape[1:3]]
  pads = []
  for length, size in zip(x.shape[1:3], sizes, strict=True):
    total = max((size - 1) * stride + _KERNEL - length, 0)
    pads.append((total // 2, total - total // 2))
  x = jnp.pad(x, ((0, 0), *pads, (0, 0)))
  rows, columns = ((size - 1) * stride + 1 for size in sizes)
  shifted = [
    x[:, i : i + rows : stride, j : j + columns : stride]
    for i in range(_KERNEL)
    for j in range(_KERNEL)
  ]
  return jnp.concatenate(shifted, axis=-1)


class Convolution(nn.Module):
  """A 3x3 convolution with bias.

  Attributes:
    filters: number of outputs.
    stride: of both directions.
    form: see `convolve`.
  """

  filters: int
  stride: int = 1
  form: Form = 'auto'

  @nn.compact
  def __call__(self, x: Float[Array, 'n h w c']) -> Float[Array, 'n i j f']:
    """Convolves pictures."""
    shape = (_KERNEL, _KERNEL, x.shape[-1], self.filters)
    kernel = self.param('kernel', nn.initializers.glorot_uniform(), shape)
    bias = self.param('bias', nn.initializers.zeros_init(), (self.filters,))
    return convolve(x, kernel, self.stride, form=self.form) + bias


class BatchStatistics(nn.Module):
  """Normalises channels by the mean and variance of this batch, then scales."""

  epsilon: float = 1e-3  # Of the variance; keeps constant channels finite.

  @nn.compact
  def __call__(self, x: Float[Array, '*b f']) -> Float[Array, '*b f']:
    """Statistics over all axes but the last, in float32."""
    features = x.shape[-1:]
    scale = self.param('scale', nn.initializers.ones_init(), features)
    bias = self.param('bias', nn.initializers.zeros_init(), features)
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    axes = tuple(range(x.ndim - 1))
    centred = wide - wide.mean(axes)
    variance = jnp.square(centred).mean(axes)
    normal = centred * jax.lax.rsqrt(variance + self.epsilon)
    return (normal * scale + bias).astype(x.dtype)


class ConvNet(nn.Module):
  """Blocks of convolution, normalisation and ReLU, then a linear layer.

  Attributes:
    ways: number of classes.
    filters: of each block.
    blocks: number of blocks.
    pool: shrink by 2x2 max-pooling, otherwise by strides of 2.
    normalize: with batch statistics; without, blocks have none.
    form: see `convolve`.
  """

  ways: int
  filters: int = 64
  blocks: int = 4
  pool: bool = False
  normalize: bool = True
  form: Form = 'auto'

  @nn.compact
  def __call__(self, x: Float[Array, 'n h w c']) -> Float[Array, 'n ways']:
    """Logits of pictures."""
    for _ in range(self.blocks):
      x = Convolution(self.filters, 1 if self.pool else 2, self.form)(x)
      x = nn.relu(BatchStatistics()(x) if self.normalize else x)
      if self.pool:
        x = nn.max_pool(x, (2, 2), (2, 2), 'SAME')
    return nn.Dense(self.ways)(x.reshape(len(x), -1))


class MLP(nn.Module):
  """Layers of ReLU, for pictures of a few pixels.

  Attributes:
    ways: number of classes.
    widths: of the hidden layers.
  """

  ways: int
  widths: tuple[int, ...] = (64, 64)

  @nn.compact
  def __call__(self, x: Float[Array, 'n h w c']) -> Float[Array, 'n ways']:
    """Logits of pictures."""
    x = x.reshape(len(x), -1)
    for width in self.widths:
      x = nn.relu(nn.Dense(width)(x))
    return nn.Dense(self.ways)(x)


class ODE(nn.Module):
  """A neural ODE between two linear layers.

  Attributes:
    ways: number of classes.
    body: of `rl.odetoode`, whose parameters move freely, such as
      `baselines.NODE`: steps of the inner loop leave manifolds.

  Raises:
    ValueError: if parameters of the body are tied to a manifold.
  """

  ways: int
  body: bodies.Body

  @nn.compact
  def __call__(self, x: Float[Array, 'n h w c']) -> Float[Array, 'n ways']:
    """Logits of pictures."""
    logits, _ = heads.Classifier(self.body, self.ways)(x)
    kinds = self.body.constraints
    tied = [n for n in self.body.variables['params'] if kinds.get(n) in _TIED]
    if tied:
      raise ValueError(
        f'parameters of the body must move freely, got {tied} of '
        f'{type(self.body).__name__}, which are tied to a manifold'
      )
    return logits
