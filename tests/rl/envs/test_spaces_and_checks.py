"""Spaces, and actions that do not fit them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rl.envs import checks, lanes, spaces
from tests.rl.envs import env_cases

BOX = spaces.Box((2,), (-1.0, 0.5), (2.0, 3.0))


def test_samples_fill_their_space():
  keys = jax.random.split(jax.random.key(0), 500)
  for space in (BOX, spaces.Discrete(4), spaces.Box((3,), 0, 2, 'uint8')):
    drawn = np.asarray(jax.vmap(space.sample)(keys))
    assert drawn.dtype == space.dtype
    assert all(space.contains(x) for x in drawn)
    if isinstance(space, spaces.Box):
      low, high = space.bounds
    else:
      low, high = 0, space.n - 1
    span = np.asarray(high, float) - low
    assert np.all(drawn.min(0) - low <= 0.03 * span)
    assert np.all(high - drawn.max(0) <= 0.03 * span)


def test_contains():
  assert not BOX.contains(np.array([0.0, 0.0], np.float32))
  assert not BOX.contains(np.array([0.0, np.nan], np.float32))
  assert not BOX.contains(np.array([0, 1]))
  assert not BOX.contains(np.zeros(3, np.float32))
  assert not spaces.Discrete(3).contains(3)
  assert not spaces.Discrete(3).contains(1.0)
  assert spaces.pixels(4).contains(np.zeros((4, 4, 3), np.uint8))


def test_impossible_spaces():
  with pytest.raises(ValueError, match='low must be <= high'):
    spaces.Box((1,), 1.0, 0.0)
  with pytest.raises(ValueError, match='high must broadcast'):
    spaces.Box((2,), 0.0, (1.0, 1.0, 1.0))
  with pytest.raises(ValueError, match='low must be <= high'):
    spaces.Box((), float('nan'), 0.0)
  with pytest.raises(ValueError, match='n must be positive'):
    spaces.Discrete(0)
  with pytest.raises(ValueError, match='bounded'):
    spaces.Box((1,), 0.0, float('inf')).sample(jax.random.key(0))


@pytest.mark.parametrize(
  ('space', 'action', 'match'),
  [
    (BOX, np.zeros(3, np.float32), 'shape'),
    (BOX, np.zeros(2, np.int32), 'dtype'),
    (BOX, np.array([0, np.nan], np.float32), r'finite.*nan at \((0, )?1'),
    (BOX, np.array([np.inf, 0], np.float32), 'finite'),
    (spaces.Discrete(3), np.int32(3), 'within'),
    (spaces.Discrete(3), np.int64(-1), 'within'),
    (spaces.Discrete(3), np.float32(1), 'dtype'),
    (spaces.Discrete(3), np.bool_(True), 'dtype'),
    (spaces.Discrete(3), np.zeros(1, np.int32), 'shape'),
  ],
)
def test_wrong_actions_are_errors(space, action, match):
  with pytest.raises(ValueError, match=match):
    checks.check_action(space, action)
  with pytest.raises(ValueError, match=match):
    checks.check_action(space, np.stack([action, action]), num_lanes=2)
  with pytest.raises(ValueError, match=r'an array .* got a list: \['):
    checks.check_action(space, [action, action], num_lanes=2)


def test_fitting_actions_pass():
  checks.check_action(BOX, np.array([9.0, 9.0]))  # Clipped later.
  checks.check_action(spaces.Discrete(3), np.int64(2))
  checks.check_action(BOX, jnp.zeros((4, 2)), num_lanes=4)


def test_traced_actions_are_mended():
  wild = jnp.array([[jnp.nan, jnp.nan], [jnp.inf, -jnp.inf], [0.25, 7.0]])
  got = jax.jit(lambda x: checks.sanitize_action(BOX, x))(wild)
  np.testing.assert_array_equal(got, [[0, 0.5], [2, 0.5], [0.25, 3]])
  got = checks.sanitize_action(spaces.Discrete(3), jnp.array([-4, 1, 9]))
  np.testing.assert_array_equal(got, [0, 1, 2])
  assert got.dtype == jnp.int32


def test_lanes_check_on_the_host_and_mend_under_jit():
  vector = lanes.Lanes(env_cases.Scripted(), 2)
  state, _ = vector.reset(jax.random.split(jax.random.key(1), 2))
  bad = jnp.array([jnp.nan, 5.0])
  with pytest.raises(ValueError, match='finite'):
    vector.step(state, bad)
  with pytest.raises(ValueError, match='shape'):
    jax.jit(vector.step)(state, jnp.zeros((2, 1)))
  _, move = jax.jit(vector.step)(state, bad)
  np.testing.assert_array_equal(move.reward, [1.0, 2.0])
