"""Scripted lanes, and what may be learnt from them, step by step in NumPy."""

import jax.numpy as jnp
import numpy as np

from rl import learner
from rl.envs import spaces

OBSERVATIONS = spaces.Box((1,), -1.0, 1e6)
ACTIONS = spaces.Discrete(3)


def script(rows, lanes, seed=0, resets_at_once=False):
  """Random episodes; rewards, observations and actions tell where they are."""
  rng = np.random.default_rng(seed)
  made = {
    name: np.zeros((rows, lanes), bool)
    for name in ('terminated', 'truncated', 'valid', 'first')
  }
  for lane in range(lanes):
    fresh, resetting = True, False
    for row in range(rows):
      made['valid'][row, lane] = not resetting
      made['first'][row, lane] = fresh
      if resetting:
        fresh, resetting = True, False
        continue
      end = rng.choice(['no', 'terminated', 'truncated'], p=[0.7, 0.15, 0.15])
      if end != 'no':
        made[end][row, lane] = True
      fresh = end != 'no' and resets_at_once
      resetting = end != 'no' and not resets_at_once
  where = np.arange(rows)[:, None] * lanes + np.arange(lanes)
  made['observation'] = where[..., None].astype(np.float32) + 1
  made['action'] = (where % 3).astype(np.int32)
  made['reward'] = rng.normal(size=(rows, lanes)).astype(np.float32)
  return made


def trajectory(made, begin, end):
  """Rows of a script as the learner gets them."""
  part = {name: jnp.asarray(x[begin:end]) for name, x in made.items()}
  lanes = part['reward'].shape[1]
  zeros = jnp.zeros((end - begin, lanes))
  return learner.Trajectory(
    **part,
    extras=(),
    final=(),
    episode_return=zeros,
    episode_length=zeros.astype(jnp.int32),
    memory=(),
    last_memory=(),
    last_observation=jnp.zeros((lanes, 1)),
    last_first=jnp.zeros(lanes, bool),
  )


def target(made, rows, row, lane, n, discount, wrong=''):
  """Sum, discount and observation to bootstrap from; None: not to be sampled.

  Args:
    made: the script.
    rows: how many of it were seen.
    row: of the step.
    lane: of the step.
    n: longest window.
    discount: per step.
    wrong: a mistake to make.
  """
  get = lambda name, at: made[name][at % len(made[name]), lane]
  if not get('valid', row) and wrong != 'samples resets':
    return None
  total, power = 0.0, 1.0
  for at in range(row, row + n):
    if at >= rows and wrong != 'reads over the newest row':
      return None
    if get('truncated', at) and wrong != 'goes on after a truncation':
      if at > row:
        return total, power, get('observation', at)[0]
      if wrong != 'learns from truncated steps':
        return None
    total += power * float(get('reward', at))
    power *= discount
    if get('terminated', at) and wrong != 'bootstraps from an end':
      return total, 0.0, None
  if row + n >= rows and wrong != 'reads over the newest row':
    return None
  return total, power, get('observation', row + n)[0]
