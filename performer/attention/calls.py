"""Whole calls: their checks, compiled once, on meshes with explicit axes.

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
import jax.numpy as jnp
import numpy as np
from jax.sharding import AbstractMesh, AxisType, PartitionSpec
from jaxtyping import Array, Float, PyTree

from performer.attention import checks
from performer.attention.sums import state as state_lib

__all__ = [
  'check_inputs',
  'compiled',
  'explicit_mesh',
  'extended_spec',
  'rows_spec',
  'state_spec',
  'values_spec',
]


def _spec(x: Float[Array, '...']) -> PartitionSpec:
  return jax.typeof(x).sharding.spec


def explicit_mesh(arrays: PyTree[Array]) -> AbstractMesh | None:
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
      mesh = explicit_mesh(arrays)
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


def _check_rank(name: str, array: Any, rank: int) -> None:
  if jnp.ndim(array) != rank:
    raise ValueError(
      f'{name} must have {rank} axes, got shape {jnp.shape(array)}'
    )


def check_inputs(
  q: Any,
  k: Any,
  v: Any,
  *,
  causal: bool,
  key_mask: Any | None,
  segment_ids: Any | None = None,
) -> None:
  """Checks ranks, shapes and dtypes of one attention call.

  Args:
    q: queries, [b, lq, h, d], floating.
    k: keys, [b, lk, h, d], floating.
    v: values, [b, lk, h, v], floating.
    causal: whether row i sees keys 0..i only.
    key_mask: None or [b, lk], boolean.
    segment_ids: None or [b, l], integer, of queries and keys alike.

  Raises:
    ValueError: naming the shapes or dtypes that disagree.
  """
  if not isinstance(causal, bool | np.bool_):
    raise ValueError(f'causal must be True or False, got {causal!r}')
  for name, array in (('q', q), ('k', k), ('v', v)):
    _check_rank(name, array, 4)
    if array.dtype not in checks.FLOATING:
      raise ValueError(
        f'{name} must be floating, of {sorted(map(str, checks.FLOATING))}, '
        f'got dtype {array.dtype}'
      )
    if 0 in array.shape:
      raise ValueError(f'{name} must not be empty, got shape {array.shape}')
  dtypes = [array.dtype for array in (q, k, v)]
  if jnp.float64 in dtypes and len(set(dtypes)) > 1:
    raise ValueError(
      'q, k and v must all be float64 or none, got '
      f'{q.dtype=} {k.dtype=} {v.dtype=}'
    )
  if k.shape[:3] != v.shape[:3]:
    raise ValueError(
      f'k and v must agree in batch, length and heads, got {k.shape=} {v.shape=}'
    )
  if (q.shape[0], *q.shape[2:]) != (k.shape[0], *k.shape[2:]):
    raise ValueError(
      'q and k must agree in batch, heads and head size, '
      f'got {q.shape=} {k.shape=}'
    )
  if causal and q.shape[1] != k.shape[1]:
    raise ValueError(
      'causal attention needs as many queries as keys, '
      f'got {q.shape[1]=} {k.shape[1]=}'
    )
  if key_mask is not None:
    _check_mask(k, key_mask)
  if segment_ids is not None:
    _check_segments(q, k, segment_ids)


def _check_mask(k: Any, key_mask: Any) -> None:
  if getattr(key_mask, 'dtype', None) != jnp.bool_:
    raise ValueError(
      'key_mask must be a boolean array, got '
      f'{getattr(key_mask, "dtype", type(key_mask))}'
    )
  if key_mask.shape != k.shape[:2]:
    raise ValueError(
      'key_mask must be [batch, keys] (full attention matrices cannot be '
      f'masked in linear form), got {key_mask.shape=} {k.shape=}'
    )


def _check_segments(q: Any, k: Any, segment_ids: Any) -> None:
  if not jnp.issubdtype(segment_ids.dtype, jnp.integer):
    raise ValueError(f'segment_ids must be integers, got {segment_ids.dtype}')
  if q.shape[1] != k.shape[1] or segment_ids.shape != k.shape[:2]:
    raise ValueError(
      'segment_ids must be [batch, length] of queries and keys alike, got '
      f'{segment_ids.shape=} {q.shape=} {k.shape=}'
    )
