"""Scaled rewards against a float64 loop over every step."""

import jax
import jax.numpy as jnp
import numpy as np

from rl import reward_scale
from tests import seeds, trees

SCALE = jax.jit(reward_scale.scale, static_argnames=('discount', 'clip'))


def _steps(rng, length=31, lanes=3):
  reward = rng.normal(1, 3, (length, lanes)).astype(np.float32)
  ended = rng.random((length, lanes)) < 0.2
  valid = np.ones_like(ended)
  valid[1:, 0] = ~ended[:-1, 0]
  ended &= valid
  return np.where(valid, reward, 0), ended, valid


def _reference(reward, ended, valid, seen, running):
  """Scaled rewards; `seen` and `running` are changed."""
  reward = np.float64(reward)
  for t in range(len(reward)):
    for lane in range(reward.shape[1]):
      if valid[t, lane]:
        running[lane] = 0.97 * running[lane] + reward[t, lane]
        seen.append(running[lane])
      if ended[t, lane]:
        running[lane] = 0
  return np.clip(reward / np.std(seen), -1.5, 1.5)


def _scaled(state, steps, first=None):
  reward, ended, valid = map(jnp.asarray, steps)
  return SCALE(
    state,
    reward,
    first=jnp.zeros(3, bool) if first is None else first,
    ended=ended,
    valid=valid,
    discount=0.97,
    clip=1.5,
  )


def test_sums_begin_anew_where_simulators_were_restarted():
  steps = _steps(seeds.rng(0))
  first = jnp.array([True, False, True])
  before = reward_scale.init(3)._replace(
    running=jnp.array([100.0, 50.0, -20.0])
  )
  begun = before._replace(running=jnp.array([0.0, 50.0, 0.0]))
  trees.check_same(_scaled(before, steps, first=first), _scaled(begun, steps))


def test_two_trajectories_continue_each_other():
  rng = seeds.rng(5)
  state, seen, running = reward_scale.init(3), [], np.zeros(3)
  for _ in range(2):
    steps = _steps(rng)
    steps[0][7, 1] = 50.0  # Beyond the limit, whatever is drawn.
    state, got = _scaled(state, steps)
    want = _reference(*steps, seen, running)
    np.testing.assert_allclose(got, want, rtol=1e-4)
    np.testing.assert_allclose(state.running, running, rtol=1e-4, atol=1e-4)
  assert state.statistics.count == len(seen)
  assert np.abs(got).max() == np.float32(1.5)


def test_nothing_but_zeros_stays_zero():
  zeros = np.zeros((5, 3))
  state, got = _scaled(
    reward_scale.init(3), (np.float32(zeros), zeros > 0, zeros == 0)
  )
  np.testing.assert_array_equal(got, zeros)
  assert np.isfinite(jax.tree.leaves(state)[0]).all()
