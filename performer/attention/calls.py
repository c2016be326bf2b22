"""Runs whole calls: compiled once, and on meshes with explicit axes.

Outside of `jax.jit` a loop over new closures compiles at every call; behind one
`jax.jit` with the options as a static argument it compiles once per shape.

On axes of type `Explicit` every intermediate array would have to say how it is
sharded, those of the backward pass too. There the computation runs with the
axes in automatic mode, as XLA shards it, and what it returns is sharded like its
inputs.

Letters: b batch, l positions, h heads, d width of a key, v of a value, r
features.
"""

import functools
from collections.abc import Callable, Hashable
from typing import Any

import jax
from jax.sharding import AbstractMesh, AxisType, PartitionSpec
from jaxtyping import Array, Float, PyTree

from performer.attention import state as state_lib

__all__ = [
  'compiled',
  'extended_spec',
  'rows_spec',
  'state_spec',
  'values_spec',
]


def _spec(x: Float[Array, '...']) -> PartitionSpec:
  return jax.typeof(x).sharding.spec


def _explicit_mesh(arrays: PyTree[Array]) -> AbstractMesh | None:
  """The mesh with explicit axes that some array lives on."""
  for x in jax.tree.leaves(arrays):
    mesh = jax.typeof(x).sharding.mesh
    if not mesh.empty and AxisType.Explicit in mesh.axis_types:
      return mesh
  return None


def compiled(
  out_specs: Callable[..., PyTree[PartitionSpec]],
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
  """Makes a function of options and arrays one compiled call.

  Args:
    out_specs: how results are sharded over explicit axes, given the arrays.

  Returns:
    A decorator of functions (options, *arrays) with hashable options.
  """

  def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.partial(jax.jit, static_argnums=0)
    @functools.wraps(function)
    def call(options: Hashable, *arrays: PyTree[Array]) -> Any:
      run = functools.partial(function, options)
      mesh = _explicit_mesh(arrays)
      if mesh is None:
        return run(*arrays)
      axes = zip(mesh.axis_names, mesh.axis_types, strict=True)
      explicit = tuple(n for n, kind in axes if kind == AxisType.Explicit)
      with jax.sharding.use_abstract_mesh(mesh):
        return jax.sharding.auto_axes(
          run, axes=explicit, out_sharding=out_specs(*arrays)
        )(*arrays)

    return call

  return decorate


def rows_spec(
  q: Float[Array, 'b l h d'],
  k: Float[Array, 'b l h d'],
  v: Float[Array, 'b l h v'],
  *_: Any,
) -> PartitionSpec:
  """Outputs are sharded as queries, their width as that of the values."""
  del k
  return PartitionSpec(*_spec(q)[:3], _spec(v)[3])


def state_spec(
  k: Float[Array, 'b l h d'], v: Float[Array, 'b l h v'], *_: Any
) -> state_lib.State:
  """Sums are sharded over batch, heads and width of the values alone."""
  batch, _, heads, _ = _spec(k)
  return state_lib.State(
    PartitionSpec(batch, heads, _spec(v)[3], None),
    PartitionSpec(batch, heads, None),
    PartitionSpec(batch, heads, None),
  )


def values_spec(
  q: Float[Array, 'b l h d'], state: state_lib.State, *_: Any
) -> PartitionSpec:
  """Outputs read from a state are sharded as the queries and its values."""
  return PartitionSpec(*_spec(q)[:3], _spec(state.S)[2])


def extended_spec(
  q: Float[Array, 'b l h d'],
  k: Float[Array, 'b l h d'],
  v: Float[Array, 'b l h v'],
  *_: Any,
) -> tuple[PartitionSpec, state_lib.State]:
  """Outputs and state."""
  return rows_spec(q, k, v), state_spec(k, v)
