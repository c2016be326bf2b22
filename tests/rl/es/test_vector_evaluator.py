"""Rollouts in simulators: against a loop, and the same for any lanes."""

import dataclasses
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rl import normalizer
from rl.envs import envpool_env, gymnasium_env, host_vector, spaces
from rl.es import policies, vector_evaluator
from rl.es import population as population_lib
from tests import marks, trees
from tests.rl.es import es_cases

PAIRS = 5
KEYS = jax.random.split(jax.random.key(2), PAIRS)
members = jax.jit(population_lib.Perturbations.members, static_argnames='count')


def cart(num_lanes):
  pytest.importorskip('envpool')
  return envpool_env.EnvPoolVector('CartPole-v1', num_lanes, num_threads=1)


def swimmer(num_lanes):
  pytest.importorskip('envpool')
  return envpool_env.EnvPoolVector('Swimmer-v4', num_lanes, num_threads=1)


def runner(env, **options):
  policy = policies.MLP(env.observation_space, env.action_space, hidden=(3,))
  return vector_evaluator.VectorEvaluator(env, policy, **options)


def stats(size):
  mean = np.linspace(-0.3, 0.3, size, dtype=np.float32)
  m2 = np.full(size, 5.0, np.float32)
  return jax.tree.map(
    jnp.asarray, normalizer.Statistics(np.float32(20), mean, m2)
  )


def act(theta, x):
  """The policy, in NumPy: two layers and the larger output."""
  theta = np.asarray(theta, np.float64)
  w, b, v, c = np.split(theta, np.cumsum([12, 3, 6]))
  hidden = x @ w.reshape(4, 3) + b
  return np.argmax(np.tanh(hidden) @ v.reshape(3, 2) + c)


def episode(theta, key, normal, limit):
  """One episode of EnvPool, step by step: return, observations."""
  import envpool

  (seed,) = host_vector.seeds(key[None])
  pool = envpool.make_gymnasium('CartPole-v1', num_envs=1, seed=[seed])
  x = np.asarray(pool.reset()[0][0], np.float64)
  seen, total = [x], 0.0
  while len(seen) <= limit:
    x = (x - np.asarray(normal.mean)) / np.sqrt(normal.m2 / normal.count)
    x = np.clip(x, -2.0, 2.0)
    x, reward, ended, late, _ = pool.step(np.array([act(theta, x)], np.int32))
    x = np.asarray(x[0], np.float64)
    seen.append(x)
    total += float(reward[0])
    if ended[0] or late[0]:
      break
  return total, np.stack(seen)


def test_against_a_loop():
  """Of normalised observations; `test_evaluators` has it without."""
  env, normal = cart(3), stats(4)
  run = runner(env, episodes=2, max_steps=40, clip=2.0)
  pop = es_cases.perturbed(run.policy)
  found = run.evaluate(pop, KEYS, normal)
  thetas = members(pop, 0, count=8)[:, :PAIRS].reshape(10, -1)
  episodes = lambda theta, i: [
    episode(theta, jax.random.fold_in(KEYS[i % PAIRS], e), normal, 40)
    for e in range(2)
  ]
  es_cases.check_against_loop(found, thetas, episodes, rtol=1e-6)
  env.close()


@pytest.mark.parametrize(
  ('kind', 'sizes'),
  [*marks.slow(('gaussian', (1, 3, 20))), ('orthogonal', (3, 20))],
)
def test_lanes_change_no_bit(kind, sizes):
  found = []
  for width in sizes:
    env = swimmer(width)
    run = runner(env, episodes=2, max_steps=12)
    found.append(
      run.evaluate(es_cases.perturbed(run.policy, kind), KEYS, stats(8))
    )
    env.close()
  for other in found[1:]:
    trees.check_same(other, found[0])
  assert len(np.unique(found[0].returns)) == 2 * PAIRS


def test_parts_of_a_population():
  """What a worker runs is what the whole run gives for these directions."""
  env = swimmer(4)
  run = runner(env, max_steps=8)
  pop = es_cases.perturbed(run.policy)
  whole = run.rollouts(pop, KEYS, stats(8))
  part = run.rollouts(pop, KEYS[3:], stats(8), start=3)
  trees.check_same(part, jax.tree.map(lambda x: x[:, :, 3:], whole))
  thetas = members(pop, 0, count=8)[0, :PAIRS]
  found = run.evaluate(population_lib.Listed(thetas), KEYS, None)
  trees.check_same(found.returns, run.evaluate(pop, KEYS, None).returns[:PAIRS])
  env.close()


def test_both_ways_of_resetting_agree():
  gymnasium = pytest.importorskip('gymnasium')
  found = []
  for mode in ('NextStep', 'SameStep'):
    env = gymnasium.make_vec(
      'CartPole-v1',
      num_envs=3,
      vectorization_mode='sync',
      vector_kwargs={'autoreset_mode': mode},
    )
    env = gymnasium_env.GymnasiumVector(env)
    run = runner(env, max_steps=60)
    found.append(run.evaluate(es_cases.perturbed(run.policy), KEYS, stats(4)))
    env.close()
  trees.check_same(*found)
  assert found[0].lengths.min() < 60


class Watchful(host_vector.HostVector):
  """Counts to its limit, and refuses actions that are not finite."""

  def __init__(self):
    box = spaces.Box((1,), -1.0, 1.0)
    super().__init__(
      num_lanes=2, observation_space=box, action_space=box, resets_at_once=False
    )

  def _reset(self, seeds):
    return np.ones((2, 1))

  def _step(self, action):
    assert np.isfinite(action).all()
    no = np.zeros(2, bool)
    return host_vector.Seen(np.ones((2, 1)), np.ones(2), no, no, {})

  def _close(self):
    pass


def test_a_broken_policy_is_left_out():
  run = runner(Watchful(), max_steps=4)
  thetas = jnp.ones((3, run.policy.size)).at[1].set(jnp.nan)
  listed = population_lib.Listed(thetas)
  found = run.evaluate(listed, KEYS[:3], stats(1))
  np.testing.assert_array_equal(found.returns, [4.0, np.nan, 4.0])
  np.testing.assert_array_equal(found.lengths, [4, 0, 4])
  np.testing.assert_array_equal(found.valid, [True, False, True])
  assert float(found.statistics.count) == 5 + 5


def test_an_environment_without_lanes_is_refused():
  """By the check itself: the types of tests refuse it before."""
  given = types.SimpleNamespace(
    env=es_cases.Drift(), episodes=1, max_steps=None, clip=None
  )
  with pytest.raises(ValueError, match=r'must have lanes.*got Drift'):
    vector_evaluator.VectorEvaluator.__post_init__(given)


@pytest.mark.parametrize(
  'call',
  [
    lambda run: dataclasses.replace(run, episodes=0),
    lambda run: dataclasses.replace(run, max_steps=0),
  ],
)
def test_rejects(call):
  with pytest.raises(ValueError, match='got'):
    call(runner(Watchful()))
