"""Optimisers as configurations name them, composed from optax."""

import optax

__all__ = ['adamw']


def adamw(
  *,
  learning_rate: float,
  b1: float = 0.9,
  b2: float = 0.999,
  eps: float = 1e-8,
  weight_decay: float = 0.0,
  clip_norm: float | None = None,
  warmup_steps: int = 0,
  decay_steps: int | None = None,
  drop_step: int | None = None,
  drop_factor: float = 0.1,
) -> optax.GradientTransformation:
  """Adam with decoupled weight decay, after clipping by the global norm.

  Args:
    learning_rate: peak rate.
    b1: decay of the first moment.
    b2: decay of the second moment.
    eps: added to the root of the second moment.
    weight_decay: decoupled decay, on all parameters.
    clip_norm: largest global norm of the gradient; None: no limit.
    warmup_steps: steps of linear growth from 0 to the peak.
    decay_steps: steps, warm-up included, after which a cosine has taken the
      rate to 0; None: it stays at the peak.
    drop_step: steps after which the rate is multiplied by `drop_factor`; None:
      never. Excludes the other schedules.
    drop_factor: see `drop_step`.

  Raises:
    ValueError: if the decay would end before the warm-up, or schedules are
      combined.
  """
  if drop_step is not None and (warmup_steps or decay_steps is not None):
    raise ValueError(
      'drop_step excludes warm-up and decay, '
      f'got {drop_step=} {warmup_steps=} {decay_steps=}'
    )
  if decay_steps is not None and decay_steps <= warmup_steps:
    raise ValueError(
      'decay_steps counts the warm-up and must exceed it, '
      f'got {decay_steps=} {warmup_steps=}'
    )
  if decay_steps is not None:
    rate = optax.warmup_cosine_decay_schedule(
      0.0, learning_rate, warmup_steps, decay_steps
    )
  elif drop_step is not None:
    rate = optax.piecewise_constant_schedule(
      learning_rate, {drop_step: drop_factor}
    )
  elif warmup_steps:
    rate = optax.linear_schedule(0.0, learning_rate, warmup_steps)
  else:
    rate = learning_rate
  adam = optax.adamw(rate, b1, b2, eps, weight_decay=weight_decay)
  if clip_norm is None:
    return adam
  return optax.chain(optax.clip_by_global_norm(clip_norm), adam)
