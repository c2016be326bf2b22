import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from nas.rl_darts import (
  cells,
  joined,
  networks,
  recurrent,
  results,
  search,
  spaces,
)
from nas.rl_darts import probabilities as probabilities_lib
from rl import networks as rl_networks
from rl import ppo, rainbow, rollout, sac
from rl.envs import grid_levels, lanes, pendulum, pixels
from tests import marks, seeds, trees

SPACE = spaces.CellSpace(('Conv3x3', 'Tanh', 'Zero'), nodes=2)
ENCODER = networks.Micro(depths=(2,), dense=4, space=SPACE)
# The least encoder that has logits.
LEAST = ENCODER.clone(space=dataclasses.replace(SPACE, nodes=1))
REPLAY = {
  'encoder': LEAST,
  'hidden': (4,),
  'capacity': 256,
  'min_replay': 8,
  'batch_size': 16,
  'unroll_length': 8,
}
AGENTS = {
  'ppo': ppo.PPO(
    encoder=LEAST,
    unroll_length=8,
    num_minibatches=1,
    num_epochs=1,
    normalize_rewards=False,
  ),
  'rainbow': rainbow.Rainbow(
    **REPLAY, num_atoms=3, samples_per_insert=1.0, n_step=1
  ),
  'sac': sac.SAC(**REPLAY, random_steps=0, updates_per_step=0.0625),
}
GRID = grid_levels.GridLevels(cells=3, size=8, max_steps=7)
ENVS = {'ppo': GRID, 'rainbow': GRID}
ENVS['sac'] = pixels.PixelView(
  pendulum.Pendulum(max_steps=7), pixels.pendulum_scene, size=8
)
N, A = 4, 2  # Lanes, and those of the logits.


def fitted(name, **options):
  env = lanes.Lanes(ENVS[name], N)
  settings = search.Search(AGENTS[name], iterations=8, snapshots=2, **options)
  return env, settings.learner(env.observation_space, env.action_space, N)


def collected(env, learner, state):
  @jax.jit
  def run(state):
    stage = rollout.start(env, learner, seeds.key(1))
    acting = learner.acting(state)
    return rollout.collect(env, learner, acting, stage, seeds.key(2))[1]

  return run(state)


def imagined(env, learner, state):
  """Random steps of the shapes of collected ones, without a rollout."""
  rng = seeds.rng(1)

  def drawn(leaf):
    if np.issubdtype(leaf.dtype, np.integer):
      most = 256 if leaf.dtype == np.uint8 else 2
      return rng.integers(most, size=leaf.shape, dtype=leaf.dtype)
    return (rng.normal(size=leaf.shape) * (leaf.dtype != bool)).astype(
      leaf.dtype
    )

  shapes = jax.eval_shape(lambda: collected(env, learner, state))
  steps = jax.tree.map(drawn, shapes)
  return steps._replace(valid=np.ones_like(steps.valid))


def moved(one, two):
  """By how much weights and logits differ."""
  return [
    max(
      np.abs(np.asarray(a) - np.asarray(b)).max()
      for a, b in zip(*map(jax.tree.leaves, parts), strict=True)
    )
    for parts in zip(*map(probabilities_lib.split, (one, two)), strict=True)
  ]


@pytest.mark.slow
def test_the_agent_is_unchanged():
  """Joint search: bit by bit what the agent does, and metrics beside."""
  env, learner = fitted('ppo')
  agent = AGENTS['ppo'].learner(env.observation_space, env.action_space, N)
  state, alone = learner.init(seeds.key(0)), agent.init(seeds.key(0))
  steps = collected(env, learner, state)
  after, metrics = jax.jit(learner.learn)(state, steps, seeds.key(3))
  expected, _ = jax.jit(agent.learn)(alone, steps, seeds.key(3))
  trees.check_close(after.agent, expected, rtol=1e-6, atol=1e-7)
  assert min(moved(learner.params(state), learner.params(after))) > 0
  assert float(metrics['alpha_entropy']) == pytest.approx(np.log(3), rel=1e-3)
  masses = [float(metrics[f'mass_{op}']) for op in SPACE.ops]
  assert sum(masses) == pytest.approx(1, rel=1e-5)
  # Two snapshots, of iterations 3 and 8: the first is still to come.
  assert learner.settings.times == (3, 8)
  assert not any(np.any(x) for x in jax.tree.leaves(after.snapshots))
  third = after.replace(iteration=jnp.int32(2))
  third, _ = jax.jit(learner.learn)(third, steps, seeds.key(3))
  kept = third.snapshots['trunk/encoder']['normal']['edges']
  now = third.agent.params['params']['trunk']['encoder']['alpha']['normal']
  np.testing.assert_array_equal(kept[0], now['edges'])
  assert not np.any(kept[1])


@pytest.mark.slow
@pytest.mark.parametrize('name', ['ppo', 'rainbow', 'sac'])
def test_each_part_can_be_frozen_in_the_whole_agent(name):
  """The published switch moves all parameters once an agent is around them."""
  for frozen in ('weights', 'alpha'):
    env, learner = fitted(
      name, alpha_optimizer=optax.sgd(float(frozen == 'weights'))
    )
    if frozen == 'weights':
      still = dataclasses.replace(AGENTS[name], learning_rate=0.0)
      learner = search.Search(still, alpha_optimizer=optax.adam(0.1)).learner(
        env.observation_space, env.action_space, N
      )
    state = learner.init(seeds.key(0))
    steps = collected(env, learner, state)
    run = jax.jit(learner.learn)
    after, _ = run(state, steps, seeds.key(3))
    after, _ = run(after, steps, seeds.key(4))
    weights, alpha = moved(learner.params(state), learner.params(after))
    assert (weights > 0, alpha > 0) == (frozen == 'alpha', frozen == 'weights')


@pytest.mark.parametrize(
  ('name', 'mode'),
  [
    ('ppo', 'first_order'),
    *marks.slow(('ppo', 'second_order'), ('rainbow', 'first_order')),
    *marks.slow(('rainbow', 'second_order'), ('sac', 'first_order')),
    *marks.slow(('sac', 'second_order')),
  ],
)
def test_logits_and_weights_have_lanes_of_their_own(name, mode):
  env, learner = fitted(
    name,
    mode=mode,
    alpha_lanes=A,
    # Not Adam: its first step has the sign of a gradient only.
    alpha_optimizer=optax.sgd(1.0),
    rate=1.0 if mode == 'second_order' else None,
  )
  state = jax.jit(learner.init)(seeds.key(0))
  steps = imagined(env, learner, state)
  run = jax.jit(learner.learn)

  def after(changed):
    """Parameters after one update, in which some lanes got more reward."""
    bonus = np.arange(8, dtype=np.float32)[:, None] * changed
    given = steps._replace(reward=steps.reward + bonus)
    new, metrics = run(state, given, seeds.key(3))
    assert all(np.isfinite(value) for value in metrics.values())
    assert name != 'ppo' or -1 <= float(metrics['alpha_cosine']) <= 1
    return learner.params(new)

  own = np.float32(np.arange(N) < N - A)
  plain = after(0 * own)
  weights, alpha = moved(plain, after(own))
  assert weights > 1e-6
  assert (alpha > 1e-7) == (mode == 'second_order')
  assert moved(plain, after(1 - own))[1] > 1e-6


class _Dropping(lanes.Lanes):
  """As the published wrapper: the step after an end has no reward."""

  def step(self, state, action):
    first = state.stats.running_length == 0
    state, seen = super().step(state, action)
    return state, seen._replace(reward=jnp.where(first, 0.0, seen.reward))


def _unaccounted(env):
  """Rewards of episodes in a trajectory that are not in its rewards, at most."""
  agent = ppo.PPO(encoder=rl_networks.MLP((4,)), unroll_length=40)
  learner = agent.learner(env.observation_space, env.action_space, 8)
  steps = collected(env, learner, learner.init(seeds.key(0)))
  ended = np.asarray(steps.terminated | steps.truncated)
  assert ended.sum() > 30
  assert np.asarray(steps.valid).all()
  missing = []
  for lane in range(8):
    ends = np.flatnonzero(ended[:, lane])
    parts = np.split(np.asarray(steps.reward[:, lane]), ends + 1)
    found = np.array([part.sum() for part in parts[: len(ends)]])
    missing.append(np.abs(steps.episode_return[ends, lane] - found).max())
    np.testing.assert_array_equal(
      np.flatnonzero(steps.first[1:, lane]), ends[ends < 39]
    )
  return max(missing)


@pytest.mark.slow
def test_no_reward_is_lost_where_episodes_end():
  """The published wrapper drops the reward after each end."""
  assert _unaccounted(lanes.Lanes(GRID, 8)) < 1e-5
  assert _unaccounted(_Dropping(GRID, 8)) > 0.5


@pytest.mark.parametrize('encoder', [ENCODER, None])
def test_recurrent_cells_are_derived_in_their_own_space(encoder):
  """Beside the encoder's, whose operations and numbers of edges are others."""
  agent = dataclasses.replace(
    AGENTS['ppo'], encoder=encoder, core=recurrent.CellGRU(2)
  )
  settings = search.Search(agent, iterations=8)
  learner = settings.learner(GRID.observation_space, GRID.action_space, N)
  state = jax.eval_shape(learner.init, seeds.key(0))
  params = jax.tree.map(
    lambda x: np.zeros(x.shape, x.dtype), state.agent.params
  )
  found = results.genotypes(settings, params)
  core = found['trunk/core/step']['normal']
  assert core.nodes == (((0, 'HighwayRelu'),),) * 4
  assert state.labels['trunk/core/step/normal'].shape == (10,)
  edges = results.edge_rows(settings, params)
  drawn = results.pictures(settings, params, ())
  if encoder is not None:
    assert found['trunk/encoder']['normal'].space == SPACE
    assert {row['operation'] for row in edges} == {'HighwayRelu', 'Conv3x3'}
    assert {'genotype_encoder.png', 'genotype_core.png'} < set(drawn)
  discrete = dataclasses.replace(
    agent,
    encoder=None,
    core=recurrent.CellGRU(2, architecture=found['trunk/core/step']),
  ).learner(GRID.observation_space, GRID.action_space, N)
  made = jax.eval_shape(discrete.init, seeds.key(0)).params
  assert not probabilities_lib.alphas(made)


@pytest.mark.parametrize(
  ('output', 'max_skips'), [('concat', None), ('weighted', 0)]
)
def test_derived_cells_act_with_the_weights_of_the_supernet(output, max_skips):
  """As the discrete network does with those weights, cut out by hand."""
  ops = ('SkipConnection', *SPACE.ops)
  space = dataclasses.replace(SPACE, ops=ops, output=output)
  relaxed = networks.Relaxed(temperature=2.0)
  encoder = ENCODER.clone(space=space, architecture=relaxed)
  settings = search.Search(
    dataclasses.replace(AGENTS['ppo'], encoder=encoder),
    iterations=8,
    max_skips=max_skips,
  )
  task = GRID.observation_space, GRID.action_space, N
  judged = settings.discrete(*task)
  shapes = jax.eval_shape(settings.learner(*task).init, seeds.key(0))
  rng = seeds.rng(5)
  state = jax.tree.map(
    lambda x: jnp.asarray(
      (x.dtype == jnp.float32) * rng.normal(size=x.shape), x.dtype
    ),
    shapes,
  )
  # Most weight is on skip connections.
  params = probabilities_lib.mapped(
    state.agent.params, lambda x: x.at[..., 0].add(9.0)
  )
  state = state.replace(agent=state.agent.replace(params=params))
  whole = settings.learner(*task).acting(state)
  (cell,) = results.genotypes(settings, state.agent.params).values()
  assert ('Skip' in str(cell['normal'].nodes)) == (max_skips is None)
  alone = encoder.clone(architecture=cell)
  pick = lambda params: params['params']['trunk']['encoder']
  kept = {
    name: cells.pruned(value, space, cell['normal'])
    if name.startswith('cell')
    else value
    for name, value in pick(state.agent.params).items()
    if name != 'alpha'
  }
  masked = encoder.clone(architecture=networks.Masked())
  picture = jnp.asarray(rng.random((2, 8, 8, 3)), jnp.float32)
  acting = judged.acting(state)
  assert jax.tree.structure(acting) == jax.tree.structure(whole)
  np.testing.assert_allclose(
    jax.jit(masked.apply)({'params': pick(acting.params)}, picture),
    jax.jit(alone.apply)({'params': kept}, picture),
    rtol=1e-5,
    atol=1e-5,
  )


def test_snapshots_are_spaced_by_their_logarithms():
  assert search.snapshot_times(8, 1000) == (3, 6, 14, 32, 75, 178, 422, 1000)
  assert search.snapshot_times(8, 4)[-1] == 4


@pytest.mark.slow
def test_lanes_of_two_ranges_of_levels():
  """The last lanes see other levels, and are what they are alone."""
  make = lambda start, count: lanes.Lanes(
    grid_levels.GridLevels(3, 8, num_levels=3, start_level=start), count
  )
  env = joined.Joined((make(0, 3), make(50, 2)))
  assert env.num_lanes == 5
  keys = jax.random.split(seeds.key(0), 5)
  state, shown = env.reset(keys)
  action = jnp.arange(5)
  state, seen = env.step(state, action)
  levels = np.asarray(seen.info['level'])
  assert (levels[:3] < 3).all()
  assert (levels[3:] >= 50).all()
  alone = make(50, 2)
  other, picture = alone.reset(keys[3:])
  np.testing.assert_array_equal(shown[3:], picture)
  _, expected = alone.step(other, action[3:])
  for a, b in zip(*map(jax.tree.leaves, (seen, expected)), strict=True):
    np.testing.assert_array_equal(a[3:], b)
  assert state.stats.episodes.shape == (5,)
  with pytest.raises(ValueError, match='the same spaces'):
    joined.Joined((make(0, 3), lanes.Lanes(pendulum.Pendulum(), 2)))


def test_settings_that_contradict_each_other_are_told():
  agent = AGENTS['ppo']
  for options, text in (
    ({'mode': 'first_order'}, "modes but 'joint'"),
    ({'alpha_lanes': 1}, "modes but 'joint'"),
    ({'mode': 'first_order', 'alpha_lanes': 1}, 'needs an alpha_optimizer'),
    ({'rate': 0.1}, "mode 'second_order'"),
    (
      {
        'agent': dataclasses.replace(
          agent, learning_rate=optax.constant_schedule(0.1)
        ),
        'mode': 'second_order',
        'alpha_lanes': 1,
        'alpha_optimizer': optax.sgd(1.0),
      },
      'give the rate',
    ),
    (
      {'agent': dataclasses.replace(agent, encoder=rl_networks.MLP())},
      'Relaxed cells',
    ),
  ):
    with pytest.raises(ValueError, match=text):
      search.Search(**{'agent': agent, **options})
  box = GRID.observation_space, GRID.action_space
  with pytest.raises(ValueError, match='left for the weights'):
    search.Search(
      agent, mode='first_order', alpha_lanes=4, alpha_optimizer=optax.sgd(1.0)
    ).learner(*box, 4)
