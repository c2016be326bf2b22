"""SEARL: networks that grow, tournaments, mutations, and the shared replay."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hpo import spaces
from hpo.autorl import agents, programs
from hpo.autorl.population import exploit, growing, searl
from rl import networks, rainbow, rollout
from rl.envs import cartpole, lanes
from tests import seeds, trees

NET = growing.Growing(layers=3, width=6, start=3)
SPACE = spaces.Space(
  (
    spaces.Float('learning_rate', 1e-4, 1e-2, 'LOG'),
    spaces.Float('discount', 0.9, 0.999, 'REVERSE_LOG'),
  )
)
NUMPY = (
  lambda x: np.maximum(x, 0),
  lambda x: np.where(x > 0, x, np.expm1(np.minimum(x, 0))),
  np.tanh,
)


def architecture(units, activation):
  return {'units': np.float32(units), 'activation': np.float32(activation)}


@functools.cache
def first():
  return jax.jit(NET.init)(seeds.key(0), jnp.zeros((1, 5)))


apply = jax.jit(NET.apply)


def built(units, activation):
  """Variables of a network with this architecture."""
  return {**first(), growing.ARCHITECTURE: architecture(units, activation)}


@pytest.mark.parametrize(
  ('units', 'activation'), [((3, 0, 0), 0), ((6, 2, 0), 1), ((4, 4, 5), 2)]
)
def test_a_network_is_that_of_the_units_that_are_there(units, activation):
  """Against matrices of their real size, in float64."""
  variables = built(units, activation)
  x = seeds.rng(1).normal(size=(7, 5)).astype(np.float32)
  found = np.asarray(apply(variables, x))
  want = np.float64(x)
  for number, count in enumerate(count for count in units if count):
    layer = variables['params'][f'Dense_{number}']
    kernel = np.float64(layer['kernel'])[: want.shape[1], :count]
    want = NUMPY[activation](want @ kernel + np.float64(layer['bias'])[:count])
  np.testing.assert_allclose(
    found[:, : want.shape[1]], want, rtol=1e-4, atol=1e-6
  )
  assert (found[:, want.shape[1] :] == 0).all()


def test_units_that_are_not_there_do_not_learn():
  variables = built((4, 2, 0), 1)
  x = jnp.float32(seeds.rng(2).normal(size=(7, 5)))
  slope = jax.grad(lambda v: jnp.sum(jnp.sin(NET.apply(v, x))))
  grads = jax.device_get(jax.jit(slope)(variables))
  for leaf in jax.tree.leaves(grads[growing.ARCHITECTURE]):
    assert (leaf == 0).all()
  first, second, third = (
    grads['params'][f'Dense_{i}']['kernel'] for i in range(3)
  )
  assert (first[:, :4] != 0).all()
  assert (first[:, 4:] == 0).all()
  assert (second[:4, :2] != 0).all()
  assert (second[4:] == 0).all()
  assert (second[:, 2:] == 0).all()
  assert (third == 0).all()


def test_growth_adds_units_or_a_layer_within_bounds():
  grow = jax.jit(
    jax.vmap(
      functools.partial(growing.grown, width=9, new_layer=0.3, growth=(1, 2)),
      in_axes=(0, None),
    )
  )
  keys = jax.random.split(seeds.key(12), 20_000)
  found = np.asarray(grow(keys, architecture((8, 4, 0), 0))['units'])
  rows, counts = np.unique(found, axis=0, return_counts=True)
  chances = {
    (8, 4, 4): 0.3,  # A layer as wide as the last.
    (9, 4, 0): 0.7 / 4,
    (8, 4, 0): 0.7 / 4,  # 10 would be too many.
    (8, 5, 0): 0.7 / 4,
    (8, 6, 0): 0.7 / 4,
  }
  assert {tuple(row) for row in rows} == set(chances)
  for row, count in zip(rows, counts, strict=True):
    p = chances[tuple(row)]
    assert abs(count / 20_000 - p) < 4 * np.sqrt(p * (1 - p) / 20_000)
  full = np.asarray(grow(keys, architecture((8, 4, 2), 0))['units'])
  assert (full[:, 2] > 0).all()
  assert (full.sum(1) > 14).any()


def test_noise_is_relative_and_changes_matrices_alone():
  params = {'kernel': np.full((200, 500), 2.0), 'bias': np.ones(500)}
  noisy = functools.partial(growing.noisy, share=0.2, scale=0.1)
  found = jax.jit(noisy)(seeds.key(4), params)
  np.testing.assert_array_equal(found['bias'], 1)
  change = np.asarray(found['kernel']).ravel() / 2 - 1
  share = (change != 0).mean()
  assert abs(share - 0.2) < 4 * np.sqrt(0.2 * 0.8 / change.size)
  # One in twenty has a deviation of 10, the others of 0.1.
  variance = 0.2 * (0.95 * 0.1**2 + 0.05 * 10**2)
  np.testing.assert_allclose(change.var(), variance, rtol=0.15)
  small = np.abs(change[change != 0]) < 0.4
  assert abs(small.mean() - 0.95) < 0.01


def test_tournaments_keep_the_best_and_prefer_the_better():
  scores = jnp.array([2.0, jnp.nan, 5.0, 1.0, 4.0])
  draw = jax.jit(jax.vmap(lambda key: exploit.tournament(key, scores, 3)))
  found = np.asarray(draw(jax.random.split(seeds.key(5), 5000)))
  assert (found[:, 0] == 2).all()
  # The member of rank r, from the worst, is the best of three draws.
  order = np.array([1, 3, 0, 4, 2])
  chances = (np.arange(1, 6) ** 3 - np.arange(5) ** 3) / 5**3
  counts = np.bincount(found[:, 1:].ravel(), minlength=5)[order]
  error = np.sqrt(chances * (1 - chances) / counts.sum())
  assert (np.abs(counts / counts.sum() - chances) < 4 * error).all()


def program(size=3, **options):
  encoder = growing.Growing(layers=2, width=8, start=4)
  algorithm = rainbow.Rainbow(
    encoder=encoder,
    hidden=(8,),
    num_atoms=5,
    v_max=20.0,
    capacity=480,
    min_replay=4,
    batch_size=12,
    samples_per_insert=1.0,
    target_interval=3,
    epsilon=rainbow.Powers(),
  )
  make = functools.partial(lanes.Lanes, cartpole.CartPoleBalance())
  agent = agents.Agent(algorithm, make(6), make(2))
  return searl.SEARL(agent, SPACE, size, growth=(2,), **options)


def test_each_mutation_changes_what_it_says():
  made, (_, state, _) = program(noise=0.5, share=1.0), lived()
  params = of(state.members, 0).params
  mutate = jax.jit(jax.vmap(made.mutation, in_axes=(0, None, None, 0)))
  kinds = jnp.arange(5)
  found, codes = jax.device_get(
    mutate(kinds, params, state.codes[0], jax.random.split(seeds.key(7), 5))
  )
  changed = lambda new, old: [
    any(
      (a[i] != b).any()
      for a, b in zip(*map(jax.tree.leaves, (new, old)), strict=True)
    )
    for i in range(5)
  ]
  assert changed(found['params'], params['params']) == [0, 1, 0, 0, 0]
  for name, kind in (('units', 2), ('activation', 3)):
    new, old = (x['architecture']['encoder'][name] for x in (found, params))
    assert changed(new, old) == [i == kind for i in range(5)]
  old = np.broadcast_to(state.codes[0], (4, *state.codes[0].shape))
  np.testing.assert_array_equal(codes[:4], old)
  assert (codes[4] != state.codes[0]).sum() == 1


@functools.cache
def lived():
  """A population before and after one iteration, in NumPy."""
  made = program()
  state = jax.jit(made.init)(seeds.key(8))
  after = jax.jit(made.lived)(state, seeds.key(9))
  return made, *jax.device_get((state, after))


def of(members, number):
  """The state of one member."""
  return searl._mapped(lambda x: x[number], members)


def test_members_learn_from_all_steps_as_one_agent_would():
  """Against an agent with a replay of its own, that gets the same steps."""
  made, state, (members, _, _) = lived()
  assert members.replay.steps.reward.shape[1] == 6
  assert (members.updates == 2).all()
  act_key, learn_key = jax.random.split(jax.random.split(seeds.key(9), 1)[0])
  keys = jax.random.split(learn_key, 3)

  @jax.jit
  def alone(member, key, zeta):
    _, seen = rollout.collect(
      made.agent.env,
      made._crowd,
      made._crowd.acting(state.members),
      state.stage,
      act_key,
    )
    learner = made.agent.with_settings(zeta)
    return learner.learn(member, seen, key)[0]

  zeta = {name: state.codes[:, i] for i, name in enumerate(SPACE.names)}
  for number in range(3):
    own = {name: x[number] for name, x in zeta.items()}
    want = alone(of(state.members, number), keys[number], own)
    trees.check_close(of(members, number), want, rtol=1e-4, atol=1e-5)
  moved = jax.tree.map(
    lambda x, y: (x != y).any(), members.params, state.members.params
  )
  assert moved['params']['encoder']['Dense_0']['kernel']
  assert not moved['architecture']['encoder']['units']


def test_members_act_in_lanes_of_their_own():
  made, state, _ = lived()
  crowd = made._crowd
  acting = crowd.acting(state.members)
  rates = made.agent.algorithm.epsilon(jnp.int32(0), 6)
  np.testing.assert_allclose(acting.epsilon, rates.reshape(3, 2))
  greedy = acting._replace(epsilon=np.zeros((3, 2), np.float32))
  x = np.float32(seeds.rng(10).normal(size=(6, 4)))
  first = np.ones(6, bool)
  act = jax.jit(crowd.act)
  found = np.asarray(act(greedy, (), x, first, seeds.key(1)).action)
  alone = jax.jit(made.agent.with_settings({}).greedy)
  for lane in range(6):
    own = jax.tree.map(lambda x, lane=lane: x[lane // 2], greedy)
    want = alone(own, (), x[lane : lane + 1], first[:1], seeds.key(1))
    assert found[lane] == np.asarray(want.action)[0]


def test_who_is_mutated_starts_with_a_new_optimiser_and_the_best_stays():
  made, state, (members, _, _) = lived()
  mutate = jax.jit(jax.vmap(made.mutated, in_axes=(None, None, 0)))
  keys = jax.random.split(seeds.key(11), 20)
  found, codes = jax.device_get(mutate(members, state.codes, keys))
  same = lambda x, y: (x == y).reshape(3, -1).all(axis=1)
  kept = 0
  for number in range(20):
    one = jax.tree.map(lambda x, n=number: x[n], found)
    pairs = zip(
      *map(jax.tree.leaves, (one.params, members.params)), strict=True
    )
    is_old = np.all([same(a, b) for a, b in pairs], axis=0)
    assert is_old[0]
    np.testing.assert_array_equal(codes[number, 0], state.codes[0])
    moments = np.asarray(one.opt_state[0].count)
    np.testing.assert_array_equal(moments, np.where(is_old, 2, 0))
    for a, b in zip(
      *map(jax.tree.leaves, (one.target, one.params)), strict=True
    ):
      np.testing.assert_array_equal(a[~is_old], b[~is_old])
    kept += is_old[1:].sum()
  # Nothing or a setting: two of five; growth may find no room.
  assert abs(kept / 40 - 0.4) < 4 * np.sqrt(0.4 * 0.6 / 40)


def test_what_is_refused():
  with pytest.raises(ValueError, match='equally many lanes'):
    program(size=4)
  with pytest.raises(ValueError, match='size must be at least 2'):
    program(size=1)
  made = program()
  plain = dataclasses.replace(made.agent.algorithm, encoder=networks.MLP())
  with pytest.raises(ValueError, match='Growing encoder'):
    searl.SEARL(dataclasses.replace(made.agent, algorithm=plain), SPACE, 3)


@pytest.mark.slow
def test_generations_count_their_steps_and_networks_grow():
  made = program(new_layer=0.5)
  found = programs.run(made, (0, 1), 12, records=2)
  np.testing.assert_array_equal(
    found['train/environment_steps'][:, -1], 12 * made.agent.steps
  )
  assert (found['train/failed'] == 0).all()
  assert (found['eval/episode_return'] > 5).all()
  assert found['train/units'][:, -1].max() > 4
