"""The updates of an iteration, all in one program."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key

__all__ = ['updates']


def updates(
  update: Callable[[Any, Key[Array, '']], tuple[Any, dict[str, Array]]],
  state: Any,
  key: Key[Array, ''],
  *,
  count: int,
  min_size: int,
) -> tuple[Any, dict[str, Array]]:
  """Updates a learner some times, if its replay has enough to sample.

  Args:
    update: (state, key) -> (state, metrics); must not insert.
    state: of a learner, with a field `replay`.
    key: for this iteration only.
    count: how many updates.
    min_size: steps that must be there to be sampled.

  Returns:
    The state after, and the means of the metrics; zeros if nothing was done.
  """
  # What is stored stays outside of the branches, which would copy it.
  stored = state.replay.steps

  def without(state: Any) -> Any:
    return state.replace(replay=state.replay.replace(steps=None))

  def whole(state: Any) -> Any:
    return state.replace(replay=state.replay.replace(steps=stored))

  def step(state: Any, key: Key[Array, '']) -> tuple[Any, dict[str, Array]]:
    after, metrics = update(whole(state), key)
    return without(after), metrics

  def run(state: Any) -> tuple[Any, dict[str, Array]]:
    state, metrics = jax.lax.scan(step, state, jax.random.split(key, count))
    return state, jax.tree.map(jnp.mean, metrics)

  bare = without(state)
  zeros = jax.tree.map(
    lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(run, bare)[1]
  )
  ready = state.replay.size >= min_size
  bare, metrics = jax.lax.cond(ready, run, lambda s: (s, zeros), bare)
  return whole(bare), metrics
