"""Optimisers as configurations name them, composed from optax."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import PyTree

__all__ = [
  'AveragedState',
  'adamw',
  'averaged',
  'averaged_params',
  'inverse_root',
  'kernels',
]


def adamw(
  *,
  learning_rate: float | optax.Schedule,
  b1: float = 0.9,
  b2: float = 0.999,
  eps: float = 1e-8,
  weight_decay: float = 0.0,
  decay_mask: Any = None,
  clip_norm: float | None = None,
  warmup_steps: int = 0,
  decay_steps: int | None = None,
  drop_step: int | None = None,
  drop_factor: float = 0.1,
  accumulate_steps: int = 1,
) -> optax.GradientTransformation:
  """Adam with decoupled weight decay, after clipping by the global norm.

  Args:
    learning_rate: peak rate; or any schedule of optax, which then excludes the
      schedules below.
    b1: decay of the first moment, in [0, 1).
    b2: decay of the second moment, in [0, 1).
    eps: added to the root of the second moment.
    weight_decay: decoupled decay.
    decay_mask: the parameters that decay, as a tree of bools or a function of
      the parameters, such as `kernels`; None: all.
    clip_norm: largest global norm of the gradient, above 0; None: no limit.
    warmup_steps: steps of linear growth from 0 to the peak.
    decay_steps: steps, warm-up included, after which a cosine schedule reaches
      the rate 0; None: the rate stays at the peak.
    drop_step: steps after which the rate is multiplied by `drop_factor`; None:
      never. Excludes the other schedules.
    drop_factor: see `drop_step`.
    accumulate_steps: steps whose mean gradient makes one update. Schedules then
      count updates.

  Raises:
    ValueError: if a number is out of range, the decay would end before the
      warm-up, or schedules are combined.
  """
  _check(below=1, b1=b1, b2=b2)
  _check(eps=eps, weight_decay=weight_decay, clip_norm=clip_norm)
  _check(1, accumulate_steps=accumulate_steps)
  if clip_norm == 0:
    raise ValueError(f'nothing moves with {clip_norm=}; None: no limit')
  rate = _schedule(
    learning_rate, warmup_steps, decay_steps, drop_step, drop_factor
  )
  found = optax.adamw(
    rate, b1, b2, eps, weight_decay=weight_decay, mask=decay_mask
  )
  if clip_norm is not None:
    found = optax.chain(optax.clip_by_global_norm(clip_norm), found)
  if accumulate_steps > 1:
    found = optax.MultiSteps(found, accumulate_steps).gradient_transformation()
  return found


def _check(least: int = 0, *, below: float = math.inf, **settings: Any) -> None:
  """Raises ValueError for a number that is not in [least, below), as NaN."""
  for name, value in settings.items():
    unlimited = value is None or callable(value)
    if not unlimited and not least <= value < below:
      raise ValueError(
        f'{name} must be in [{least}, {below}), got {name}={value}'
      )


def _schedule(
  learning_rate: float | optax.Schedule,
  warmup_steps: int,
  decay_steps: int | None,
  drop_step: int | None,
  drop_factor: float,
) -> float | optax.Schedule:
  _check(learning_rate=learning_rate, warmup_steps=warmup_steps)
  _check(drop_step=drop_step, drop_factor=drop_factor)
  if drop_step is not None and (warmup_steps or decay_steps is not None):
    raise ValueError(
      'drop_step excludes warm-up and decay, '
      f'got {drop_step=} {warmup_steps=} {decay_steps=}'
    )
  if callable(learning_rate):
    if drop_step is not None or warmup_steps or decay_steps is not None:
      raise ValueError(
        'a learning_rate that is a schedule excludes other schedules, '
        f'got {drop_step=} {warmup_steps=} {decay_steps=}'
      )
    return learning_rate
  if decay_steps is not None and decay_steps <= warmup_steps:
    raise ValueError(
      'decay_steps counts the warm-up and must exceed it, '
      f'got {decay_steps=} {warmup_steps=}'
    )
  if decay_steps is not None:
    return optax.warmup_cosine_decay_schedule(
      0.0, learning_rate, warmup_steps, decay_steps
    )
  if drop_step is not None:
    return optax.piecewise_constant_schedule(
      learning_rate, {drop_step: drop_factor}
    )
  if warmup_steps:
    return optax.linear_schedule(0.0, learning_rate, warmup_steps)
  return learning_rate


def kernels(params: PyTree) -> PyTree:
  """A mask for weight decay: matrices and embeddings, no biases or scales.

  Args:
    params: of a Flax module.

  Returns:
    A tree of bools: True where the name is 'kernel' or 'embedding'.
  """
  return jax.tree_util.tree_map_with_path(
    lambda path, _: (
      jax.tree_util.keystr(path[-1:], simple=True) in ('kernel', 'embedding')
    ),
    params,
  )


def inverse_root(
  scale: float, *, warmup_steps: int, rise: bool = False
) -> optax.Schedule:
  """A rate that falls as the inverse root of the step (arXiv:1910.10683).

  Args:
    scale: the rate is scale / sqrt(max(step, warmup_steps)); at least 0.
    warmup_steps: steps before the rate falls, at least 1.
    rise: in these steps the rate grows linearly from 0 (arXiv:2011.04006); else
      it is constant.

  Raises:
    ValueError: if a number is out of range.
  """
  _check(scale=scale)
  _check(1, warmup_steps=warmup_steps)

  def rate(step: int | jax.Array) -> jax.Array:
    found = scale * jnp.maximum(step, warmup_steps) ** -0.5
    return found * jnp.minimum(1, step / warmup_steps) if rise else found

  return rate


class AveragedState(NamedTuple):
  """State of `averaged`.

  Attributes:
    inner: of the optimiser.
    average: of the parameters.
  """

  inner: PyTree
  average: PyTree


def averaged(
  optimizer: optax.GradientTransformation, *, decay: float
) -> optax.GradientTransformation:
  """Keeps an exponential moving average of the parameters, for evaluation.

  Args:
    optimizer: moves the parameters as it would without the average.
    decay: of the average, in [0, 1); 0.999 averages about 1,000 steps.

  Returns:
    The optimiser; `averaged_params` reads the average from its state.

  Raises:
    ValueError: if the decay is out of range.
  """
  _check(below=1, decay=decay)

  def init(params: PyTree) -> AveragedState:
    return AveragedState(optimizer.init(params), params)

  def update(
    grads: PyTree, state: AveragedState, params: PyTree
  ) -> tuple[PyTree, AveragedState]:
    updates, inner = optimizer.update(grads, state.inner, params)
    moved = optax.apply_updates(params, updates)
    average = optax.incremental_update(moved, state.average, 1 - decay)
    return updates, AveragedState(inner, average)

  return optax.GradientTransformation(init, update)


def averaged_params(params: PyTree, opt_state: PyTree) -> PyTree:
  """The average that `averaged` keeps, or the parameters if it does not.

  Args:
    params: parameters of the model.
    opt_state: state of its optimiser.
  """
  is_average = lambda node: isinstance(node, AveragedState)
  for node in jax.tree.leaves(opt_state, is_leaf=is_average):
    if is_average(node):
      return node.average
  return params
