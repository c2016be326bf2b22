"""A new run from the parameters of another one: fine-tuning."""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import jax
import numpy as np

from runtime.loop import checkpoints

__all__ = ['replace_params']

State = TypeVar('State')


def replace_params(
  state: State,
  params: Callable[[State], Any],
  saved: Mapping[str, np.ndarray],
) -> tuple[State, list[str]]:
  """Replaces the parameters of a state by saved ones of equal name and shape.

  Optimisers, keys and counters stay as they are.

  Args:
    state: of the new run.
    params: picks the parameters out of a state; `Experiment.params`.
    saved: arrays by dotted name, such as `params.blocks.kernel`.

  Returns:
    The state, and a line for each parameter that was not replaced.

  Raises:
    ValueError: if no parameter fits.
  """
  name = lambda path, _: checkpoints.dotted(path)
  names = jax.tree_util.tree_map_with_path(name, state)
  wanted = set(jax.tree.leaves(params(names)))
  kept = []

  def pick(path: tuple[Any, ...], leaf: Any) -> Any:
    name = checkpoints.dotted(path)
    if name not in wanted:
      return leaf
    if name not in saved:
      kept.append(f'{name}: not there')
      return leaf
    if saved[name].shape != leaf.shape:
      kept.append(f'{name}: {saved[name].shape} there, {leaf.shape} here')
      return leaf
    return jax.device_put(saved[name].astype(leaf.dtype), leaf.sharding)

  state = jax.tree_util.tree_map_with_path(pick, state)
  if len(kept) == len(wanted):
    raise ValueError('no parameter fits:\n  ' + '\n  '.join(kept[:5]))
  return state, kept
