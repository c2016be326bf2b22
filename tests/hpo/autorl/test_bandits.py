"""Bandits against a loop over lists in NumPy."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hpo.autorl import bandits
from tests import seeds

KINDS = [
  bandits.SlidingWindow(3, window=7, bonus=0.6),
  bandits.ArmWindows(3, window=4, bonus=0.3),
]


def reference(bandit, pulls):
  """The upper bounds after some (arm, score) pairs."""
  sliding = isinstance(bandit, bandits.SlidingWindow)
  kept = {
    arm: [
      s for a, s in (pulls[-bandit.window :] if sliding else pulls) if a == arm
    ][-bandit.window :]
    for arm in range(bandit.num_arms)
  }
  pooled = np.array([s for scores in kept.values() for s in scores])
  deviation = pooled.std()
  bounds = []
  for arm, scores in kept.items():
    if not scores:
      bounds.append(math.inf)
      continue
    mean = 0.0
    if deviation:
      mean = (np.mean(scores) - pooled.mean()) / deviation
    count = len(scores)
    time = len(pooled)
    if not sliding:
      count = 1 + sum(a == arm for a, _ in pulls)
      time = 1 + len(pulls)
    bounds.append(mean + bandit.bonus * math.sqrt(math.log(time) / count))
  return np.array(bounds)


@pytest.mark.parametrize('bandit', KINDS)
def test_bounds_are_those_of_the_formula(bandit):
  rng, pulls, state = seeds.rng(1), [], bandit.init()
  update, bounds = jax.jit(bandit.update), jax.jit(bandit.bounds)
  for _ in range(20):
    arm, score = int(rng.integers(3)), float(rng.normal())
    pulls.append((arm, score))
    state = update(state, jnp.int32(arm), jnp.float32(score))
    want = reference(bandit, pulls)
    np.testing.assert_allclose(bounds(state), want, rtol=1e-4, atol=1e-5)


def play(bandit, score, times):
  """Arms that are pulled, where `score(arm, time)` pays."""

  def step(state, time):
    arm = bandit.select(state)
    return bandit.update(state, arm, score(arm, time)), arm

  return jax.lax.scan(step, bandit.init(), jnp.arange(times))[1]


def arms_of(*game):
  """The same in NumPy, as one program."""
  return np.asarray(jax.jit(lambda: play(*game))())


@pytest.mark.parametrize('bandit', KINDS)
def test_every_arm_is_tried_first_and_ties_go_to_the_first(bandit):
  arms = arms_of(bandit, lambda arm, time: jnp.float32(0), 12)
  np.testing.assert_array_equal(arms[:3], [0, 1, 2])
  assert arms[3] == 0
  assert set(arms[3:].tolist()) == {0, 1, 2}


@pytest.mark.parametrize('bandit', KINDS)
def test_scale_and_shift_of_scores_change_nothing(bandit):
  pay = lambda arm, time: jnp.sin(7.0 * time + 3 * arm) + arm
  one = arms_of(bandit, pay, 40)
  two = arms_of(bandit, lambda arm, time: 1000 * pay(arm, time) - 5, 40)
  np.testing.assert_array_equal(one, two)
  assert (one[20:] == 2).mean() > 0.5


@pytest.mark.parametrize('bandit', KINDS)
def test_it_follows_when_the_best_arm_changes(bandit):
  best = lambda time: jnp.where(time < 60, 0, 2)
  pay = lambda arm, time: (arm == best(time)).astype(jnp.float32)
  arms = arms_of(bandit, pay, 140)
  assert (arms[30:60] == 0).mean() > 0.5
  assert (arms[100:] == 2).mean() > 0.5


@pytest.mark.parametrize('bandit', KINDS)
def test_a_failed_run_counts_as_the_worst(bandit):
  state, update = bandit.init(), jax.jit(bandit.update)
  for arm, score in enumerate((1.0, math.nan, -2.0)):
    state = update(state, jnp.int32(arm), jnp.float32(score))
  assert np.isfinite(jax.jit(bandit.bounds)(state)).all()
  state = update(state, jnp.int32(1), jnp.float32(math.inf))
  assert np.asarray(state.score).min() == -2
  assert np.isfinite(np.asarray(state.score)).all()


@pytest.mark.parametrize('bandit', KINDS)
def test_a_map_over_seeds_is_a_loop(bandit):
  def run(key):
    noise = jax.random.normal(key, (20,))
    return play(bandit, lambda arm, time: arm + noise[time], 20)

  keys = jax.random.split(seeds.key(2), 3)
  alone = jax.jit(run)
  np.testing.assert_array_equal(
    jax.jit(jax.vmap(run))(keys), np.stack([alone(key) for key in keys])
  )


def test_settings_are_checked():
  for bad in ({'num_arms': 0}, {'num_arms': 2, 'window': 0}):
    with pytest.raises(ValueError, match='must be positive'):
      bandits.SlidingWindow(**bad)
  with pytest.raises(ValueError, match='bonus must not be negative'):
    bandits.ArmWindows(2, bonus=-1.0)
