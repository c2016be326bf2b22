"""Bars hide the sides of a picture, and change nothing else."""

import jax
import numpy as np
import pytest

from rl.envs import bars, distractions, dodge, scenes
from tests import seeds

DODGE = dodge.Dodge(size=16)


def _seen(env, key):
  """A first picture, a step's picture, and its reward."""

  @jax.jit
  def run(key):
    state, first = env.reset(key)
    _, step = env.step(state, env.action_space.sample(key), key)
    return first, step.observation, step.reward

  return jax.device_get(run(key))


def test_bars_cover_the_sides_alone():
  key = seeds.key(0)
  plain = _seen(DODGE, key)
  # Two pixels of 16, and a half of the next one.
  found = _seen(bars.Barred(DODGE, width=2.5 / 16), key)
  assert found[2] == plain[2]
  for before, after in zip(plain[:2], found[:2], strict=True):
    np.testing.assert_array_equal(after[:, 3:-3], before[:, 3:-3])
    color = after[0, 0]
    for side in (after[:, :2], after[:, -2:]):
      np.testing.assert_array_equal(side, np.broadcast_to(color, side.shape))
    between = np.float32(before[:, 2]) / 2 + np.float32(color) / 2
    np.testing.assert_allclose(after[:, 2], between, atol=1)
  np.testing.assert_array_equal(found[0][0, 0], found[1][0, 0])


@pytest.mark.slow
def test_no_width_is_the_environment_itself():
  key = seeds.key(1)
  for one, two in zip(
    _seen(bars.Barred(DODGE, width=0.0), key), _seen(DODGE, key), strict=True
  ):
    np.testing.assert_array_equal(one, two)


@pytest.mark.slow
def test_seeds_choose_the_colour_and_cameras_do_not_move_bars():
  turned = bars.Barred(
    distractions.Distracted(DODGE, camera=0.3), num_seeds=1, start_seed=5
  )
  assert isinstance(turned, scenes.PixelEnvironment)
  reset = jax.jit(turned.reset)
  first, second = (reset(seeds.key(n)) for n in (2, 3))
  np.testing.assert_array_equal(first[0].color, second[0].color)
  np.testing.assert_array_equal(first[1][:, 0], second[1][:, 0])
  assert (first[1] != second[1]).any()


def test_wrong_widths_are_refused():
  for width in (-0.1, 0.6, np.nan):
    with pytest.raises(ValueError, match='width must be in'):
      bars.Barred(DODGE, width=width)
