"""Convolutions on the edges of a cell, and between cells.

Reference: arXiv:2106.02229; the code of its authors (google/brain_autorl,
  rl_darts/policies/darts_ops.py).
"""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax
from jaxtyping import Array, Float

from nas.rl_darts import candidates
from rl import convolutions

__all__ = ['Affine', 'Convolution', 'DepthConvolution', 'Padding', 'convolve']

Padding = Literal['SAME', 'VALID']
_LAYOUT = ('NHWC', 'HWIO', 'NHWC')


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
    products: see `candidates.Form`.
  """
  form = (
    convolutions.by_products if products else convolutions.conv_general_dilated
  )
  return form(
    x, kernel, (stride, stride), padding, rhs_dilation=(dilation, dilation)
  )


def _product(
  x: Float[Array, '*n c'], kernel: Float[Array, 'c d']
) -> Float[Array, '*n d']:
  """The product x W, over one axis of rows.

  XLA of jaxlib 0.12 adds gradients over several axes in bfloat16 on a CPU.
  """
  rows = x.reshape(-1, x.shape[-1]) @ kernel
  return rows.reshape(*x.shape[:-1], -1)


class Affine(nn.Module):
  """x W + b over channels, in the type of x; b is added in float32 or wider.

  Attributes:
    features: width of the output.
  """

  features: int

  @nn.compact
  def __call__(self, x: Float[Array, '... c']) -> Float[Array, '... d']:
    """Applies the layer."""
    shape = x.shape[-1], self.features
    kernel = self.param('kernel', nn.initializers.lecun_normal(), shape)
    bias = self.param('bias', nn.initializers.zeros, shape[1:])
    # Else the gradient of the bias would be added up in the type of x.
    return (_product(x, kernel.astype(x.dtype)) + bias).astype(x.dtype)


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

  def parameters(
    self, channels: int, targets: int
  ) -> dict[str, candidates.Parameter]:
    """See `Operation`."""
    shape = (self.size, self.size, channels, targets, channels)
    return {
      'kernel': candidates.kernel(shape, (2,)),
      'bias': candidates.zeros(targets, channels),
    }

  def __call__(
    self,
    params: candidates.Params,
    x: Array,
    weight: Array,
    form: candidates.Form,
  ) -> Array:
    """See `Operation`; the weights are in kernel and bias."""
    kernel = (params['kernel'] * weight[:, None]).astype(x.dtype)
    y = convolve(
      x,
      kernel.reshape(*kernel.shape[:3], -1),
      stride=form.stride,
      dilation=self.dilation,
      products=form.products,
    )
    y = y.reshape(*y.shape[:-1], *kernel.shape[3:])
    y = y + params['bias'] * weight[:, None]
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

  def parameters(
    self, channels: int, targets: int
  ) -> dict[str, candidates.Parameter]:
    """See `Operation`."""
    shape = (self.size, self.size, targets, channels)
    found = {
      'kernel': candidates.kernel(shape, (0, 1)),
      'bias': candidates.zeros(targets, channels),
    }
    if self.separable:
      found['mixing'] = candidates.kernel((channels, targets, channels), (0,))
      found['mixing_bias'] = candidates.zeros(targets, channels)
    return found

  def __call__(
    self,
    params: candidates.Params,
    x: Array,
    weight: Array,
    form: candidates.Form,
  ) -> Array:
    """See `Operation`; the weights are in the last kernel and bias."""
    weight = weight[:, None]
    kernel, bias = params['kernel'], params['bias']
    if self.separable:
      y = self._per_channel(x, kernel.astype(x.dtype), form) + bias
      mixing = (params['mixing'] * weight).astype(x.dtype)
      y = jnp.einsum('...tc,ctd->...td', y.astype(x.dtype), mixing)
      y = y + params['mixing_bias'] * weight
    else:
      y = self._per_channel(x, (kernel * weight).astype(x.dtype), form)
      y = y + bias * weight
    return nn.relu(y) if self.relu else y

  def _per_channel(
    self,
    x: Float[Array, 'b h w c'],
    kernel: Float[Array, 'k k t c'],
    form: candidates.Form,
  ) -> Float[Array, 'b i j t c']:
    *_, targets, channels = kernel.shape
    strides = form.stride, form.stride
    # XLA's are slow on a CPU where channels are convolved one by one.
    if form.products or jax.default_backend() == 'cpu':
      seen = convolutions.patches(x, (self.size,) * 2, strides, 'SAME')
      flat = kernel.reshape(-1, targets, channels)
      return jnp.einsum('bijkc,ktc->bijtc', seen, flat)
    # XLA wants the outputs of one channel beside each other.
    kernel = jnp.swapaxes(kernel, 2, 3)
    kernel = kernel.reshape(self.size, self.size, 1, -1)
    y = lax.conv_general_dilated(
      x,
      kernel,
      strides,
      'SAME',
      dimension_numbers=_LAYOUT,
      feature_group_count=channels,
    )
    y = y.reshape(*y.shape[:-1], channels, targets)
    return jnp.swapaxes(y, -1, -2)
