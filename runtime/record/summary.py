"""Describes a run without running it: parameters, memory and mesh."""

import math
from collections.abc import Callable
from typing import Any

import jax
from clu import parameter_overview as clu_overview

from runtime.devices import mesh as mesh_lib

__all__ = ['dry_run_text', 'parameter_overview', 'residual_bytes', 'tree_bytes']


def parameter_overview(params: Any) -> str:
  """A table of names, shapes, dtypes and sizes (arrays or their shapes)."""
  return clu_overview.get_parameter_overview(params, include_stats=False)


def tree_bytes(tree: Any, shardings: Any = None) -> int:
  """Bytes of all leaves; with `shardings`, of the part on one device."""
  leaves = jax.tree.leaves(tree)
  if shardings is None:
    shapes = [leaf.shape for leaf in leaves]
  else:
    placed = jax.tree.leaves(shardings)
    shapes = [
      sharding.shard_shape(leaf.shape)
      for leaf, sharding in zip(leaves, placed, strict=True)
    ]
  return sum(
    math.prod(shape) * _itemsize(leaf.dtype)
    for shape, leaf in zip(shapes, leaves, strict=True)
  )


def residual_bytes(loss: Callable[..., Any], params: Any, *args: Any) -> int:
  """Bytes that the backward pass of `loss(params, *args)` keeps, unsharded.

  Counts what automatic differentiation stores before the compiler improves on
  it, so it is an upper estimate; parameters themselves are not counted.

  Args:
    loss: returns (scalar, auxiliary outputs).
    params: arrays or their shapes; differentiated.
    *args: further arguments, arrays or their shapes.
  """

  def residuals(params: Any, *args: Any) -> Any:
    return jax.vjp(lambda p: loss(p, *args), params, has_aux=True)[1]

  kept = tree_bytes(jax.eval_shape(residuals, params, *args))
  return max(kept - tree_bytes(params), 0)


def dry_run_text(
  *,
  config: str,
  params: Any,
  state: Any,
  shardings: Any,
  mesh: jax.sharding.Mesh,
  batch_size: int,
  activation_bytes: int | None,
  population_bytes: int = 0,
) -> str:
  """The text of `--dry_run`.

  Args:
    config: operative configuration.
    params: shapes of the parameters.
    state: shapes of the whole state.
    shardings: placement of the state.
    mesh: the devices.
    batch_size: examples per step, over all devices.
    activation_bytes: see `residual_bytes`; None if it is not known.
    population_bytes: of all members that a step evaluates; 0: none.
  """
  count = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))
  shares = math.prod(mesh.shape[axis] for axis in mesh_lib.BATCH_AXES)
  lines = [
    config.rstrip(),
    '',
    parameter_overview(params),
    f'parameters: {count:,} ({_mib(tree_bytes(params))})',
    f'state with optimizer: {_mib(tree_bytes(state))}, '
    f'{_mib(tree_bytes(state, shardings))} per device',
  ]
  if activation_bytes is not None:
    split = shares * mesh.shape['sequence']
    lines.append(
      f'activations kept for the backward pass: about {_mib(activation_bytes)}'
      f', {_mib(activation_bytes / split)} per device'
    )
  if population_bytes:
    lines.append(
      f'parameters of all members of a step: {_mib(population_bytes)}, '
      f'{_mib(population_bytes / shares)} per device'
    )
  lines.append(
    f'batch: {batch_size} examples, {batch_size // shares} per device'
  )
  lines.append(mesh_lib.describe(mesh))
  return '\n'.join(lines)


def _mib(num_bytes: float) -> str:
  return f'{num_bytes / 2**20:,.1f} MiB'


def _itemsize(dtype: Any) -> int:
  if jax.dtypes.issubdtype(dtype, jax.dtypes.prng_key):
    return (
      jax.eval_shape(lambda: jax.random.key_data(jax.random.key(0))).size * 4
    )
  return dtype.itemsize
