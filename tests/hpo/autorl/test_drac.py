"""DrAC: its term against NumPy, PPO without it, augmentations of pictures."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hpo.autorl import augmentations, bandits, drac
from rl import distributions, rollout
from rl.envs import lanes, mazes, spaces
from tests import seeds, trees
from tests.hpo.autorl import populations_cases

ALL = (
  augmentations.identity,
  augmentations.crop,
  augmentations.cutout,
  augmentations.color_jitter,
  augmentations.grayscale,
  augmentations.flip,
  augmentations.rotate,
)


@functools.cache
def many(augment):
  return jax.jit(jax.vmap(augment, in_axes=(0, None)))


@pytest.mark.parametrize('kind', ['uint8', 'float32'])
def test_augmentations_keep_shape_and_range_and_are_drawn(kind):
  rng = seeds.rng(1)
  picture = rng.integers(0, 256, (8, 8, 3))
  picture = jnp.asarray(picture if kind == 'uint8' else picture / 255, kind)
  keys = jax.random.split(seeds.key(2), 80)
  for augment in ALL:
    got = np.asarray(many(augment)(keys, picture))
    assert got.shape == (80, 8, 8, 3)
    assert got.dtype == picture.dtype
    assert got.min() >= 0
    assert got.max() <= (255 if kind == 'uint8' else 1)
    fixed = augment in (
      augmentations.identity,
      augmentations.grayscale,
      augmentations.flip,
    )
    assert bool((got == got[0]).all()) == fixed


def test_what_augmentations_do():
  rng = seeds.rng(3)
  picture = np.uint8(rng.integers(0, 256, (8, 8, 3)))
  keys = jax.random.split(seeds.key(4), 80)
  flipped, grays, turned, cropped, cuts = (
    np.asarray(many(augment)(keys, picture))
    for augment in (
      augmentations.flip,
      augmentations.grayscale,
      augmentations.rotate,
      augmentations.crop,
      augmentations.cutout,
    )
  )
  np.testing.assert_array_equal(flipped[0][:, 0], picture[:, 7])
  gray = grays[0]
  np.testing.assert_allclose(gray[..., 0], picture.mean(-1), atol=0.51)
  turned = {one.tobytes() for one in turned}
  assert turned == {np.rot90(picture, k).tobytes() for k in (1, 2, 3)}
  wide = np.pad(picture, [(1, 1), (1, 1), (0, 0)], 'edge')
  windows = {
    wide[i : i + 8, j : j + 8].tobytes() for i in range(3) for j in range(3)
  }
  cropped = {one.tobytes() for one in cropped}
  assert cropped <= windows
  assert len(cropped) == 9
  cut = cuts[0]
  rows, columns = np.nonzero((cut != picture).any(-1))
  assert 2 <= np.ptp(rows) + 1 <= 4
  assert 2 <= np.ptp(columns) + 1 <= 4
  assert len(np.unique(cut[rows, columns], axis=0)) == 1


def test_penalties():
  rng = seeds.rng(5)
  p, q = (
    distributions.Categorical(jnp.float32(rng.normal(size=(6, 3))))
    for _ in '12'
  )
  v, w = (jnp.float32(rng.normal(size=6)) for _ in '12')
  of_policy, of_value = drac.penalties(p, v, q, w, None)
  a, b = (np.asarray(jax.nn.softmax(np.float64(x.logits))) for x in (p, q))
  np.testing.assert_allclose(
    of_policy, (a * np.log(a / b)).sum(1), rtol=1e-4, atol=1e-6
  )
  np.testing.assert_allclose(of_value, 0.5 * (v - w) ** 2, rtol=1e-5)
  action = jnp.array([0, 1, 2, 0, 1, 2])
  logged, _ = drac.penalties(p, v, q, w, action)
  np.testing.assert_allclose(
    logged, -np.log(b[np.arange(6), np.asarray(action)]), rtol=1e-4
  )


def test_no_gradient_flows_into_what_is_matched():
  def total(x, y):
    parts = drac.penalties(
      distributions.Categorical(x),
      x[:, 0],
      distributions.Categorical(y),
      y[:, 0],
      None,
    )
    return sum(jnp.sum(part) for part in parts)

  x, y = (jax.random.normal(seeds.key(i), (4, 3)) for i in (6, 7))
  into_x, into_y = jax.jit(jax.grad(total, argnums=(0, 1)))(x, y)
  assert (into_x == 0).all()
  assert (into_y != 0).any()


LANES = 4
AGENT = populations_cases.small_ppo(num_epochs=2)
ENV = lanes.Lanes(mazes.Maze(cells=4, colors=True, max_steps=6), LANES)


def learnt(settings):
  learner = settings.learner(ENV.observation_space, ENV.action_space, LANES)

  @jax.jit
  def run(key):
    state = learner.init(key)
    stage = rollout.start(ENV, learner, key)
    _, seen = rollout.collect(ENV, learner, learner.acting(state), stage, key)
    after, metrics = learner.learn(state, seen, key)
    return after, metrics

  return run(seeds.key(8))


@pytest.mark.slow
def test_without_the_term_it_is_ppo_to_the_bit():
  plain, _ = learnt(AGENT)
  off, metrics = learnt(
    drac.DrAC(AGENT, (augmentations.color_jitter,), coefficient=0.0)
  )
  trees.check_close(plain.params, off.params, rtol=1e-5, atol=1e-7)
  assert metrics['policy_penalty'] > 0


@pytest.mark.slow
def test_an_identity_costs_nothing():
  _, metrics = learnt(drac.DrAC(AGENT, (augmentations.identity,)))
  assert abs(metrics['policy_penalty']) < 1e-6
  assert abs(metrics['value_penalty']) < 1e-6


@pytest.mark.slow
def test_the_logarithmic_form_is_the_cross_entropy():
  """With an unchanged picture, its mean is the entropy of the policy."""
  _, metrics = learnt(drac.DrAC(AGENT, (augmentations.identity,), form='log'))
  np.testing.assert_allclose(
    metrics['policy_penalty'], metrics['entropy'], rtol=0.05
  )


@pytest.mark.slow
def test_the_bandit_is_told_of_the_arm_that_was_used():
  arms = augmentations.flip, augmentations.color_jitter
  settings = drac.DrAC(AGENT, arms, bandits.ArmWindows(2))
  state, metrics = learnt(settings)
  np.testing.assert_array_equal(state.bandit.pulls, [1, 0])
  np.testing.assert_allclose(state.bandit.score[0, 0], metrics['target'])
  assert metrics['pulled_0'] == 1
  learner = settings.learner(ENV.observation_space, ENV.action_space, LANES)
  assert learner.arm(state) == 1
  pictures = jnp.zeros((2, LANES, 4, 4, 3), jnp.uint8).at[..., 0, :].set(9)
  flipped = learner.augment(jnp.int32(0), seeds.key(1), pictures)
  np.testing.assert_array_equal(flipped, pictures[..., ::-1, :])


def test_settings_are_checked():
  with pytest.raises(ValueError, match='2 arms, got 1'):
    drac.DrAC(AGENT, ALL[:1], bandits.ArmWindows(2))
  with pytest.raises(ValueError, match='need pictures'):
    drac.DrAC(dataclasses.replace(AGENT), ALL[:1]).learner(
      spaces.Box((4,), 0.0, 1.0), spaces.Discrete(2), 4
    )
