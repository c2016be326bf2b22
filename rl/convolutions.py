"""Convolutions whose gradients are as fast inside loops, on a CPU, as outside.

XLA's CPU compiler has fast programs for convolutions whose axes stand in one order.
Gradients that JAX writes have them in other orders. XLA puts these right, but not in
the body of a loop such as `lax.scan`, where agents learn: there it falls back to
programs that take 3 to 100 times as long. Here each gradient is a convolution in the
good order, with the numbers that XLA finds outside of loops. `vmap` over kernels,
for which XLA has no fast program, makes products of matrices.
"""

import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend import core
from jax.interpreters import ad, batching, mlir
from jaxtyping import Array, Float

__all__ = ['Padding', 'by_products', 'conv_general_dilated', 'patches']

Padding = str | Sequence[tuple[int, int]]
_LAYOUT = ('NHWC', 'HWIO', 'NHWC')
_NUMBERS = lax.conv_dimension_numbers((0,) * 4, (0,) * 4, _LAYOUT)


class _Form(NamedTuple):
  """What stays the same for all pictures; see `conv_general_dilated`."""

  window_strides: tuple[int, ...]
  padding: str | tuple[tuple[int, int], ...]
  lhs_dilation: tuple[int, ...] = (1, 1)
  rhs_dilation: tuple[int, ...] = (1, 1)
  precision: Any = None
  dimension_numbers: lax.ConvDimensionNumbers = _NUMBERS

  def padded(self, sides: Sequence[int], taps: Sequence[int]) -> '_Form':
    """The same with its padding in pixels."""
    padding = self.padding
    if isinstance(padding, str):
      reach = _extents(taps, self.rhs_dilation)
      padding = lax.padtype_to_pads(sides, reach, self.window_strides, padding)
    pads = tuple((int(low), int(high)) for low, high in padding)
    return self._replace(padding=pads)


def _extents(sizes: Sequence[int], distances: Sequence[int]) -> list[int]:
  """Pixels from the first to the last, with others between them."""
  pairs = zip(sizes, distances, strict=True)
  return [(size - 1) * apart + 1 for size, apart in pairs]


def conv_general_dilated(
  lhs: Float[Array, 'b h w c'],
  rhs: Float[Array, 'k l d o'],
  window_strides: Sequence[int],
  padding: Padding,
  lhs_dilation: Sequence[int] | None = None,
  rhs_dilation: Sequence[int] | None = None,
  dimension_numbers: Any = _LAYOUT,
  feature_group_count: int = 1,
  precision: Any = None,
) -> Float[Array, 'b i j o']:
  """`lax.conv_general_dilated`, with its arguments; also for Flax's `nn.Conv`.

  It is JAX's own function except on a CPU. There it is too for groups, for dilated
  pictures, for empty arrays, for axes in other orders than NHWC and HWIO, and for
  arrays whose types name a mesh's axes.

  Args:
    lhs: pictures.
    rhs: kernel, of the type of the pictures.
    window_strides: along both sides.
    padding: 'SAME', 'VALID', or pixels before and behind each side.
    lhs_dilation: distances of pixels.
    rhs_dilation: distances of the kernel's taps.
    dimension_numbers: as in JAX.
    feature_group_count: as in JAX; d = c / groups.
    precision: as in JAX.
  """
  form = _Form(
    tuple(window_strides),
    padding,
    tuple(lhs_dilation or (1, 1)),
    tuple(rhs_dilation or (1, 1)),
    precision,
  )
  numbers = lax.conv_dimension_numbers(lhs.shape, rhs.shape, dimension_numbers)
  if (
    jax.default_backend() == 'cpu'
    and numbers == _NUMBERS
    and feature_group_count == 1
    and form.lhs_dilation == (1, 1)
    and not _names_axes(lhs, rhs)
  ):
    plain = form.padded(lhs.shape[1:3], rhs.shape[:2])
    result = _type(lhs, rhs, **plain._asdict())
    if 0 not in (*lhs.shape, *rhs.shape, *result.shape):
      return _bind(lhs, rhs, plain)
  form = form._replace(dimension_numbers=numbers)
  return lax.conv_general_dilated(
    lhs, rhs, **form._asdict(), feature_group_count=feature_group_count
  )


def _names_axes(*arrays: Array) -> bool:
  """Whether types of arrays name axes of a mesh, as explicit and manual ones do."""
  return any(
    kind != jax.sharding.AxisType.Auto
    for x in arrays
    for kind in jax.typeof(x).sharding.mesh.axis_types
  )


def by_products(
  x: Float[Array, 'b h w c'],
  kernel: Float[Array, 'k l c o'],
  window_strides: Sequence[int],
  padding: Padding,
  *,
  rhs_dilation: Sequence[int] = (1, 1),
) -> Float[Array, 'b i j o']:
  """A convolution as one product with `patches`.

  Args:
    x: pictures.
    kernel: of the type of the pictures.
    window_strides: along both sides.
    padding: see `conv_general_dilated`.
    rhs_dilation: distances of the kernel's taps.
  """
  form = _Form(tuple(window_strides), padding, rhs_dilation=tuple(rhs_dilation))
  return _multiply(x, kernel, form.padded(x.shape[1:3], kernel.shape[:2]))


def patches(
  x: Float[Array, 'b h w c'],
  taps: tuple[int, int],
  window_strides: Sequence[int],
  padding: Padding,
) -> Float[Array, 'b i j k c']:
  """What a kernel sees at each of its places.

  Args:
    x: pictures.
    taps: k = rows times columns of the kernel.
    window_strides: along both sides.
    padding: see `conv_general_dilated`.
  """
  form = _Form(tuple(window_strides), padding)
  return _patches(x, taps, form.padded(x.shape[1:3], taps))


def _patches(x: Array, taps: Sequence[int], form: _Form) -> Array:
  gaps = [apart - 1 for apart in form.lhs_dilation]
  inner = [(*pad, gap) for pad, gap in zip(form.padding, gaps, strict=True)]
  whole = (0, 0, 0)
  x = lax.pad(x, jnp.zeros((), x.dtype), (whole, *inner, whole))
  reach = _extents(taps, form.rhs_dilation)
  places = [
    max(side - most, -stride) // stride + 1
    for side, most, stride in zip(
      x.shape[1:3], reach, form.window_strides, strict=True
    )
  ]
  # Fewer places than taps: as for gradients of kernels.
  if 0 < math.prod(places) < math.prod(taps):
    seen = _windows(x, places, form.window_strides, reach, form.rhs_dilation)
  else:
    spans = [max(n, 0) for n in _extents(places, form.window_strides)]
    seen = _windows(x, taps, form.rhs_dilation, spans, form.window_strides)
    seen = jnp.moveaxis(seen, 1, -2)
  return seen.reshape(x.shape[0], *places, math.prod(taps), x.shape[-1])


def _windows(
  x: Float[Array, 'b h w c'],
  counts: Sequence[int],
  steps: Sequence[int],
  spans: Sequence[int],
  apart: Sequence[int],
) -> Float[Array, 'b n k l c']:
  """Windows of x that begin at equal steps; n = the product of their counts."""
  rows, columns = (
    [slice(i * step, i * step + span, gap) for i in range(count)]
    for count, step, span, gap in zip(counts, steps, spans, apart, strict=True)
  )
  return jnp.stack([x[:, i, j] for i in rows for j in columns], axis=1)


def _multiply(x: Array, kernel: Array, form: _Form) -> Array:
  """One axis of rows: XLA of jaxlib 0.12 adds others in bfloat16 on a CPU."""
  seen = _patches(x, kernel.shape[:2], form)
  columns = kernel.reshape(-1, kernel.shape[-1])
  rows = seen.reshape(-1, columns.shape[0])
  y = jnp.matmul(rows, columns, precision=form.precision)
  return y.reshape(*seen.shape[:3], kernel.shape[-1])


def _bind(x: Array, kernel: Array, form: _Form) -> Array:
  return _convolve.bind(x, kernel, **form._asdict())


def _type(x: Any, kernel: Any, **params: Any) -> jax.core.ShapedArray:
  """The type of the result."""
  convolve = functools.partial(lax.conv_general_dilated, **params)
  result = jax.eval_shape(convolve, x, kernel)
  return jax.core.ShapedArray(result.shape, result.dtype)


def _geometry(x: Any, kernel: Any, y: Any, form: _Form) -> list[tuple]:
  """Pixels along both sides: of x, of the kernel, between places, before x."""
  inside = _extents(x.shape[1:3], form.lhs_dilation)
  reach = _extents(kernel.shape[:2], form.rhs_dilation)
  places = _extents(y.shape[1:3], form.window_strides)
  before = [low for low, _ in form.padding]
  return list(zip(inside, reach, places, before, strict=True))


def _of_pictures(y: Array, x: Any, kernel: Array, **params: Any) -> Array:
  """The pictures' cotangent: of the output's, with a kernel turned round."""
  form = _Form(**params)
  pads = tuple(
    (reach - 1 - low, inside + low - places)
    for inside, reach, places, low in _geometry(x.aval, kernel, y, form)
  )
  back = form._replace(
    window_strides=form.lhs_dilation,
    padding=pads,
    lhs_dilation=form.window_strides,
  )
  turned = kernel[::-1, ::-1].swapaxes(2, 3)
  return _bind(y, turned, back)


def _of_kernel(y: Array, x: Array, kernel: Any, **params: Any) -> Array:
  """The kernel's cotangent: of pictures with the output's, examples as channels."""
  form = _Form(**params)
  pads = tuple(
    (low, places + reach - 1 - inside - low)
    for inside, reach, places, low in _geometry(x, kernel.aval, y, form)
  )
  back = form._replace(
    window_strides=form.rhs_dilation,
    padding=pads,
    rhs_dilation=form.window_strides,
  )
  pictures, kernels = x.transpose(3, 1, 2, 0), y.transpose(1, 2, 0, 3)
  return _bind(pictures, kernels, back).transpose(1, 2, 0, 3)


def _mapped(
  arguments: Sequence[Array], axes: Sequence[int | None], **params: Any
) -> tuple[Array, int]:
  """Batches of pictures become one batch; several kernels, products."""
  (x, kernel), (of_x, of_kernel), form = arguments, axes, _Form(**params)
  if of_kernel is not None:
    return jax.vmap(lambda *one: _multiply(*one, form), axes)(x, kernel), 0
  x = jnp.moveaxis(x, of_x, 0)
  y = _bind(x.reshape(-1, *x.shape[2:]), kernel, form)
  return y.reshape(*x.shape[:2], *y.shape[1:]), 0


# Linear in pictures and in the kernel: its rules give derivatives of all orders, forward
# and backward, which a `jax.custom_vjp` would not. Its name and parameters are those of
# JAX's, for what reads traces.
_convolve = core.Primitive('conv_general_dilated')
_convolve.def_impl(
  jax.jit(lax.conv_general_dilated, static_argnames=_Form._fields)
)
_convolve.def_abstract_eval(_type)
mlir.register_lowering(
  _convolve, mlir.lower_fun(lax.conv_general_dilated, multiple_results=False)
)
ad.defbilinear(_convolve, _of_pictures, _of_kernel)
batching.primitive_batchers[_convolve] = _mapped
