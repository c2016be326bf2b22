"""Rollouts: against a loop in Python, and the same for any blocks, devices."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rl import normalizer
from rl.es import jax_evaluator, policies
from rl.es import population as population_lib
from tests import refusals, trees
from tests.rl.es import es_cases

ENV = es_cases.Drift()
POLICY = policies.MLP(ENV.observation_space, ENV.action_space, hidden=(4,))
PAIRS = 5
STATS = normalizer.Statistics(
  jnp.float32(20.0), jnp.array([0.1, 7.0]), jnp.array([30.0, 90.0])
)


population = functools.partial(es_cases.perturbed, POLICY)
KEYS = jax.random.split(jax.random.key(2), PAIRS)


_reset, _step = jax.jit(ENV.reset), jax.jit(ENV.step)


@jax.jit
def _act(theta, x):
  return POLICY.act(POLICY.unravel(theta), (), x)[1]


def rollout(theta, key, stats, max_steps, clip):
  """One episode, step by step: return, observations."""
  state, observation = _reset(jax.random.fold_in(key, 0))
  seen, total = [np.asarray(observation, np.float64)], 0.0
  for time in range(max_steps):
    x = (np.asarray(observation) - stats.mean) / np.sqrt(stats.m2 / stats.count)
    action = _act(theta, np.clip(x, -clip, clip))
    draw = jax.random.fold_in(key, 2 * time + 1)
    state, step = _step(state, action, draw)
    observation = step.observation
    total += float(step.reward)
    seen.append(np.asarray(observation, np.float64))
    if step.terminated:
      break
  return total, np.stack(seen)


def test_against_a_loop():
  """Of normalised observations; `test_evaluators` has it without."""
  pop = population()
  run = jax_evaluator.JaxEvaluator(ENV, POLICY, 2, max_steps=6, clip=2.0)
  found = run.evaluate(pop, KEYS, STATS)
  stats = jax.device_get(STATS)
  thetas = pop.members(0, count=8)[:, :PAIRS].reshape(10, -1)
  episodes = lambda theta, i: [
    rollout(theta, jax.random.fold_in(KEYS[i % PAIRS], e), stats, 6, 2.0)
    for e in range(2)
  ]
  es_cases.check_against_loop(found, thetas, episodes, rtol=1e-4)


@pytest.mark.parametrize(
  ('kind', 'blocks', 'meshes'),
  [
    pytest.param('gaussian', (1, 4), (3, 8), marks=pytest.mark.slow),
    ('orthogonal', (2,), (8,)),
  ],
)
def test_blocks_and_devices_change_no_bit(kind, blocks, meshes):
  run = jax_evaluator.JaxEvaluator(ENV, POLICY, episodes=2)
  pop = population(kind)
  one = run.evaluate(pop, KEYS, STATS)
  for block in blocks:
    other = dataclasses.replace(run, block=block)
    trees.check_same(other.evaluate(pop, KEYS, STATS), one)
  for devices in meshes:
    mesh = jax.make_mesh((devices,), ('data',), devices=jax.devices()[:devices])
    other = dataclasses.replace(run, mesh=mesh)
    trees.check_same(other.evaluate(pop, KEYS, STATS), one)


def test_thetas_are_evaluated_as_members_are():
  run = jax_evaluator.JaxEvaluator(ENV, POLICY)
  pop = population(mirrored=False)
  thetas = population_lib.Listed(pop.members(0, count=8)[0, :PAIRS])
  # Two programs: the compiler may round their sums differently.
  np.testing.assert_allclose(
    run.evaluate(pop, KEYS, STATS).returns,
    run.evaluate(thetas, KEYS, STATS).returns,
    rtol=1e-6,
  )
  mesh = jax.make_mesh((2, 2), ('a', 'b'), devices=jax.devices()[:4])
  spread = dataclasses.replace(run, mesh=mesh)
  trees.check_same(
    spread.evaluate(thetas, KEYS, STATS), run.evaluate(thetas, KEYS, STATS)
  )


def test_memory_does_not_hold_the_population():
  policy = dataclasses.replace(POLICY, hidden=(512,))
  run = jax_evaluator.JaxEvaluator(ENV, policy, cache_bytes=2**14)
  pop = population().replace(theta=jnp.zeros(policy.size))
  sizes = {}
  for count in (64, 128):
    keys = jax.random.split(jax.random.key(2), count)
    compiled = jax_evaluator.JaxEvaluator.evaluate.lower(run, pop, keys, None)
    memory = compiled.compile().memory_analysis()
    sizes[count] = memory.temp_size_in_bytes
  stored = 4 * 2 * 128 * policy.size
  assert sizes[128] < 1.2 * sizes[64] + 65536, sizes
  assert sizes[128] < stored / 8, (sizes, stored)


test_rejects = refusals.all_with(
  'got',
  lambda: jax_evaluator.JaxEvaluator(ENV, POLICY, block=6),
  lambda: jax_evaluator.JaxEvaluator(ENV, POLICY, clip=-1.0),
)
