"""ADR: bounds that follow success, against a loop over lanes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hpo.autorl import adr
from tests import seeds

PARAMETERS = (
  adr.Parameter('walls', 0.1, 0.0, 0.5, 0.1),
  adr.Parameter('distance', 2.0, 2.0, 9.0, 1.5),
)
RULE = adr.ADR(PARAMETERS, episodes=6)


def play(returns, rounds=40, rule=RULE, lanes=16):
  """Bounds along rounds in which `returns(values)` are the lanes' returns."""

  def step(state, key):
    drawn = rule.sample(state, key, lanes)
    after = rule.moved(state, drawn, returns(drawn.value), jnp.full(lanes, 2.0))
    return after, (after, drawn)

  keys = jax.random.split(seeds.key(1), rounds)
  return jax.jit(lambda: jax.lax.scan(step, rule.init(), keys)[1])()


def test_bounds_widen_under_success_and_never_leave_their_limits():
  states, _ = play(lambda values: jnp.ones(len(values)))
  bounds = np.asarray(states.bounds)
  assert (np.diff(bounds[:, 0], axis=0) <= 0).all()
  assert (np.diff(bounds[:, 1], axis=0) >= 0).all()
  np.testing.assert_allclose(bounds[-1], [[0.0, 2.0], [0.5, 9.0]], atol=1e-6)
  width = np.asarray(jax.jit(jax.vmap(RULE.entropy))(states))
  want = (np.log(0.5) + np.log(7.0)) / 2
  np.testing.assert_allclose(width[-1], want, rtol=1e-5)


def test_bounds_shrink_under_failure_and_never_cross():
  easy = play(lambda values: jnp.ones(len(values)))[0]
  last = jax.tree.map(lambda x: x[-1], easy)

  @jax.jit
  def lose(state, key):
    drawn = RULE.sample(state, key, 16)
    return RULE.moved(state, drawn, jnp.zeros(16), jnp.ones(16))

  state = last
  for key in jax.random.split(seeds.key(2), 60):
    state = lose(state, key)
    low, high = np.asarray(state.bounds)
    assert (low <= high).all()
  np.testing.assert_allclose(state.bounds, RULE.init().bounds, atol=1e-6)


def test_a_range_stops_where_the_task_becomes_too_hard():
  solves = lambda values: (values[:, 1] <= 5.0).astype(jnp.float32)
  states, _ = play(solves, rounds=80)
  high = np.asarray(states.bounds)[-20:, 1, 1]
  assert (high >= 5.0).all()
  assert (high <= 6.5).all()


def test_one_round_is_that_of_a_loop():
  states, drawn = play(lambda values: values[:, 0], rounds=3)
  total, count = np.zeros((2, 2)), np.zeros((2, 2))
  first = jax.tree.map(lambda x: np.asarray(x[0]), drawn)
  for i in range(16):
    assert (first.value[i] >= [0.1, 2.0]).all()
    if first.pinned[i]:
      total[first.side[i], first.which[i]] += 2 * first.value[i, 0]
      count[first.side[i], first.which[i]] += 2
  known = count >= 6
  np.testing.assert_allclose(states.count[0], np.where(known, 0, count))
  np.testing.assert_allclose(
    states.total[0], np.where(known, 0, total), rtol=1e-5
  )
  # Returns of 0.1 are a failure: the bounds stay at their start.
  np.testing.assert_allclose(states.bounds[0], RULE.init().bounds)


def test_draws_are_within_the_bounds_and_half_of_them_pin_one():
  wide = adr.State(
    jnp.array([[0.0, 2.0], [0.5, 9.0]]), jnp.zeros((2, 2)), jnp.zeros((2, 2))
  )
  sample = jax.jit(RULE.sample, static_argnums=2)
  drawn = jax.device_get(sample(wide, seeds.key(3), 4000))
  at = (drawn.value == wide.bounds[0]) | (drawn.value == wide.bounds[1])
  np.testing.assert_array_equal(at.any(1), drawn.pinned)
  assert abs(drawn.pinned.mean() - 0.5) < 4 * 0.5 / np.sqrt(4000)
  free = drawn.value[~drawn.pinned]
  np.testing.assert_allclose(free.mean(0), [0.25, 5.5], rtol=0.05)


def test_settings_are_checked():
  with pytest.raises(ValueError, match='least must be below enough'):
    adr.ADR(PARAMETERS, least=0.9)
  with pytest.raises(ValueError, match='low <= start'):
    adr.ADR((adr.Parameter('walls', 0.6, 0.0, 0.5, 0.1),))
