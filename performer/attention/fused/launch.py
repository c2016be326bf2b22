"""Launches the fused kernels: grid, blocks of arrays, compiler options.

Letters: b batch, h heads, l positions, m rows of the projection, s features
per row of it, g groups, n chunks.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu
from jaxtyping import Array

__all__ = ['Plan', 'Spec', 'launch']

# With 4 or 16, Triton spills more registers at r = 256, d = v = 64 (sm_90).
_WARPS = 8
# A second stage would keep a second copy of projections and states in shared
# memory.
_STAGES = 1


@dataclasses.dataclass(frozen=True)
class Plan:
  """Settings that are fixed when a kernel is compiled.

  Attributes:
    signs: features per row of the projection, 1 or 2.
    chunk: positions in registers at a time, a power of two.
    group: positions that one program walks; a multiple of chunk.
    dtype: of stabilised features, weights and whatever multiplies them; sums
      are float32.
    interpret: whether Pallas interprets the kernels (any device) or Triton
      compiles them.
  """

  signs: int
  chunk: int
  group: int
  dtype: jnp.dtype
  interpret: bool

  @property
  def chunks(self) -> int:
    """Chunks per group."""
    return self.group // self.chunk


class Spec:
  """Blocks of the arrays that the kernels share; one group of one head."""

  @staticmethod
  def rows(plan: Plan, width: int) -> pl.BlockSpec:
    """Block of an array [b, l, h, width]."""
    return pl.BlockSpec(
      (None, plan.group, None, width), lambda b, h, g: (b, g, h, 0)
    )

  @staticmethod
  def line(plan: Plan) -> pl.BlockSpec:
    """Block of an array [b, h, l]."""
    return pl.BlockSpec((None, None, plan.group), lambda b, h, g: (b, h, g))

  @staticmethod
  def keep(plan: Plan) -> pl.BlockSpec:
    """Block of the mask, [b, l]."""
    return pl.BlockSpec((None, plan.group), lambda b, h, g: (b, g))

  @staticmethod
  def units(plan: Plan, m: int) -> pl.BlockSpec:
    """Block of an array [b, h, n, s, m]."""
    return pl.BlockSpec(
      (None, None, plan.chunks, plan.signs, m),
      lambda b, h, g: (b, h, g, 0, 0),
    )

  @staticmethod
  def group(*shape: int, shared: bool = False) -> pl.BlockSpec:
    """Block of [b, h, g, *shape], or of a shared [b, h, 1, *shape]."""
    zeros = (0,) * len(shape)
    return pl.BlockSpec(
      (None, None, None, *shape),
      lambda b, h, g: (b, h, 0 if shared else g, *zeros),
    )

  @staticmethod
  def whole(shape: tuple[int, ...]) -> pl.BlockSpec:
    """Block of the projection."""
    return pl.BlockSpec(shape, lambda b, h, g: (0,) * len(shape))


def launch(
  plan: Plan,
  kernel: Callable[..., None],
  grid: tuple[int, int, int],
  inputs: tuple[tuple[Array, pl.BlockSpec], ...],
  outputs: tuple[tuple[tuple[int, ...], Any, pl.BlockSpec], ...],
) -> tuple[Array, ...]:
  """Runs a kernel over (batch, heads, groups).

  Args:
    plan: constants of the kernel.
    kernel: writes the references of the outputs, which follow the inputs'.
    grid: sizes of batch, heads and groups.
    inputs: arrays and their blocks.
    outputs: shapes, dtypes and blocks.

  Returns:
    The outputs.
  """
  call = pl.pallas_call(
    kernel,
    grid=grid,
    in_specs=[spec for _, spec in inputs],
    out_specs=[spec for _, _, spec in outputs],
    out_shape=[jax.ShapeDtypeStruct(s, dtype) for s, dtype, _ in outputs],
    interpret=plan.interpret,
    compiler_params=plgpu.CompilerParams(num_warps=_WARPS, num_stages=_STAGES),
  )
  return tuple(call(*(x for x, _ in inputs)))
