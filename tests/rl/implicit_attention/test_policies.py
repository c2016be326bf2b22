"""Policies from pictures: sizes, forward passes by hand, rollouts."""

import dataclasses
import functools
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from performer import attention
from rl import film
from rl.envs import dodge, lanes, pendulum, pixels, spaces
from rl.es import cma, jax_evaluator, population, strategy, training
from rl.es import policies as es_policies
from rl.implicit_attention import controllers, fronts, patches, policies, votes
from tests import refusals, seeds

CAR = spaces.Box((3,), (-1.0, 0.0, 0.0), 1.0)
THREE = spaces.Discrete(3)
EXACT = fronts.Rank(votes.Exact())
IMPLICIT = votes.Implicit(attention.Favor(kernel='softmax_hyp', features=16))


def policy(front, side=96, action=CAR, **options):
  return policies.PixelPolicy(spaces.pixels(side), action, front, **options)


def test_parameter_counts_are_the_published_ones():
  # arXiv:2003.08165: 3667 parameters in CarRacing, and 1184 of attention.
  assert policy(EXACT).size == 3667
  assert policy(EXACT, action=THREE, ordered=(1, 0, 2)).size == 3633
  single = controllers.LSTM(biases=1)
  assert policy(EXACT, controller=single).size == 3603
  assert policy(fronts.Blind(), controller=controllers.MLP(())).size == 6
  without = policy(EXACT, controller=controllers.MLP(())).size - (20 * 3 + 3)
  assert without == 1184
  pixels = fronts.Rank(votes.Exact(), patches.Patches(1, 1))
  linear = policy(pixels, controller=controllers.MLP(()))
  assert linear.size - (20 * 3 + 3) == 32
  assert policy(fronts.Rank(IMPLICIT)).size == 3667


def by_hand(variables, picture, memory):
  """One step of the Attention Agent, float64: action and memory."""
  params = jax.tree.map(np.float64, variables['params'])
  picture = np.float64(picture) / 255
  rows = np.stack(
    [
      picture[i : i + 7, j : j + 7].ravel()
      for i in range(0, 18, 4)
      for j in range(0, 18, 4)
    ]
  )
  pair = params['front']['pair']
  both = rows @ pair['kernel'].reshape(147, 8) + pair['bias']
  weights = np.exp(both[:, :4] @ both[:, 4:].T / np.sqrt(147))
  weights /= weights.sum(axis=1, keepdims=True)
  order = np.argsort(-weights.sum(axis=0), kind='stable')[:10]
  centers = np.stack([order // 5, order % 5], axis=1) * 4 + 3
  x = (centers / 24).ravel()
  lstm, head = params['controller'], params['head']
  cell, out = memory
  total = x @ lstm['input'] + out @ lstm['recurrent']
  total += lstm['bias0'] + lstm['bias1']
  take, keep, new, give = np.split(total, 4)
  sigmoid = lambda z: 1 / (1 + np.exp(-z))
  cell = sigmoid(keep) * cell + sigmoid(take) * np.tanh(new)
  out = sigmoid(give) * np.tanh(cell)
  a = np.tanh(out @ head['kernel'] + head['bias'])
  low, high = np.array([-1, 0, 0]), 1
  return a * (high - low) / 2 + (high + low) / 2, (cell, out), order


def test_the_attention_agent_is_that_of_the_paper():
  agent = policy(EXACT, side=24)
  theta = jax.jit(agent.init)(seeds.key(0))
  theta += 0.3 * jax.random.normal(seeds.key(1), theta.shape)
  params = agent.unravel(theta)
  act = jax.jit(agent.act)
  memory, expected = agent.initial_memory(), (np.zeros(16), np.zeros(16))
  rng = seeds.rng(2)
  for _ in range(3):
    picture = rng.integers(0, 256, (24, 24, 3)).astype(np.uint8)
    memory, action = act(params, memory, picture)
    action_by_hand, expected, order = by_hand(params[0], picture, expected)
    np.testing.assert_allclose(action, action_by_hand, atol=1e-5)
    np.testing.assert_allclose(memory[0], expected[0], atol=1e-5)
  marked = np.asarray(jax.jit(agent.highlights)(params, picture))
  row, column = order[0] // 5 * 4, order[0] % 5 * 4
  assert (marked[row : row + 7, column : column + 7] == 1).all()
  union = np.zeros((24, 24), bool)
  for place in order:
    i, j = place // 5 * 4, place % 5 * 4
    union[i : i + 7, j : j + 7] = True
  np.testing.assert_array_equal(marked > 0, union)


@pytest.mark.parametrize('pool', fronts.POOLS)
def test_trans_has_the_outputs_of_dense_attention(pool):
  favor = attention.Favor(kernel='softmax_hyp', features=64)
  front = fronts.Trans(
    votes.Implicit(favor), patches.Patches(4, 4), value_width=3, pool=pool
  )
  picture = seeds.rng(0).integers(0, 256, (16, 16, 3)).astype(np.uint8)
  projection = front.draw(jax.random.key(1))
  variables = jax.jit(front.init)(seeds.key(2), picture, projection)
  found = jax.jit(front.apply)(variables, picture, projection)
  params = jax.tree.map(np.float64, variables['params'])
  rows = np.float64(picture).reshape(4, 4, 4, 4, 3).swapaxes(1, 2) / 255
  rows = rows.reshape(16, 48)
  project = lambda p: rows @ p['kernel'].reshape(48, -1) + p['bias']
  scale = (4 / 48) ** 0.25
  q, k = np.split(scale * project(params['pair']), 2, axis=1)
  matrix = attention.recover_attention(
    favor,
    jnp.float32(q)[None, :, None],
    jnp.float32(k)[None, :, None],
    projection=projection,
    causal=False,
  )[0, 0]
  places = np.stack(np.divmod(np.arange(16), 4), axis=1) * 4 + 2
  v = np.concatenate([project(params['value']), places / 8 - 1], axis=1)
  out = matrix @ v
  expected = {
    'mean': out.mean(axis=0),
    'max': out.max(axis=0),
    'votes': matrix.sum(axis=0) @ out / 16,
    'flatten': out.ravel(),
  }[pool]
  np.testing.assert_allclose(found, expected, atol=2e-4)


def test_outputs_in_order_choose_by_thirds():
  agent = policy(
    fronts.Blind(),
    action=THREE,
    controller=controllers.MLP(()),
    ordered=(1, 0, 2),
  )
  # The action is the third of tanh(weight + bias).
  for output, action in ((-0.5, 1), (-0.2, 0), (0.2, 0), (0.5, 2), (9.0, 2)):
    params = agent.unravel(jnp.array([0.0, output]))
    _, found = agent.act(params, (), jnp.zeros((8, 8, 3), jnp.uint8))
    assert found == action


def test_depth_and_colours_of_patches():
  space = spaces.Box((8, 8, 4), 0.0, 1.0)
  front = fronts.Rank(IMPLICIT, patches.Patches(2, 2), count=3, colors=True)
  picture = jnp.asarray(seeds.rng(0).uniform(size=(8, 8, 4)), jnp.float32)
  projection = front.draw(jax.random.key(0))
  variables = jax.jit(front.init)(seeds.key(1), picture, projection)
  found = np.asarray(jax.jit(front.apply)(variables, picture, projection))
  assert found.shape == (3 * 6,)
  places = np.int32(found[:6].reshape(3, 2) * 8) // 2 * 2
  means = [picture[i : i + 2, j : j + 2].mean((0, 1)) for i, j in places]
  np.testing.assert_allclose(found[6:].reshape(3, 4), means, atol=1e-6)
  assert policies.PixelPolicy(space, CAR, front).size > 0


def test_a_population_plays_without_a_warning():
  env = dodge.Dodge(size=16, max_steps=8)
  front = fronts.Rank(IMPLICIT, patches.Patches(3, 2), count=4)
  agent = policies.PixelPolicy(
    env.observation_space, env.action_space, front, controllers.LSTM(4)
  )
  with warnings.catch_warnings():
    warnings.simplefilter('error')
    evaluator = jax_evaluator.JaxEvaluator(env=env, policy=agent)
    theta = jax.jit(jax.vmap(agent.init))(jax.random.split(seeds.key(0), 6))
    members = population.Listed(theta)
    keys = jax.random.split(seeds.key(1), 6)
    evaluate = jax.jit(lambda m, k: evaluator.evaluate(m, k, None))
    found = evaluate(members, keys)
  assert found.returns.shape[-1] == 6
  assert np.isfinite(found.returns).all()
  assert (np.asarray(found.lengths) >= 1).all()


@pytest.mark.slow
def test_cma_es_moves_a_small_policy():
  pytest.importorskip('cmaes')
  env = dodge.Dodge(size=16, max_steps=8)
  front = fronts.Rank(IMPLICIT, patches.Patches(2, 2), count=3)
  agent = policies.PixelPolicy(
    *(env.observation_space, env.action_space, front),
    controllers.MLP(()),
    ordered=(0, 1, 2),
  )
  assert agent.size == 2 * (12 * 4 + 4) + 7
  evaluator = jax_evaluator.JaxEvaluator(env=env, policy=agent)
  search = cma.CMAES(0.3, population_size=4)
  state = search.init(agent.init(seeds.key(0)), seeds.key(1))
  after, metrics = search.step(state, evaluator)
  assert float(metrics['update_norm']) > 0
  assert np.isfinite(after.theta).all()


test_mistakes_are_named = refusals.table(
  (lambda: policy(EXACT, action=CAR, ordered=(0, 1)), 'ordered'),
  (lambda: policy(EXACT, action=THREE, ordered=(0, 1)), 'ordered'),
  (lambda: policy(EXACT, side=8).size, 'count must be'),
  (lambda: controllers.LSTM(biases=3), 'biases'),
  (lambda: controllers.LSTM(hidden=0), 'hidden must be positive'),
  (lambda: controllers.MLP((4, 0)), 'hidden must be positive'),
  (lambda: fronts.Rank(count=0), 'count must be positive'),
  (lambda: fronts.Rank(width=0), 'width must be positive'),
  (lambda: fronts.Trans(value_width=0), 'value_width must be positive'),
  (lambda: fronts.Trans(votes.Exact(chunk=8)), 'chunk=8 normalized=True'),
  (
    lambda: fronts.Trans(dataclasses.replace(IMPLICIT, normalized=False)),
    'chunk=None normalized=False',
  ),
  (lambda: fronts.Flat(0), 'factor must be positive'),
  (lambda: fronts.Flat(9).apply({}, jnp.zeros((8, 9, 3))), 'must hold a patch'),
  (
    lambda: votes.Exact()(*jnp.ones((2, 3, 4)), projection=jnp.ones((2, 4))),
    'takes no projection',
  ),
  (
    lambda: IMPLICIT(*jnp.ones((2, 3, 4)), projection=None),
    'needs a projection',
  ),
  (
    lambda: IMPLICIT(*jnp.ones((2, 3, 4)), projection=jnp.ones((8, 5))),
    'projection must have shape',
  ),
  (lambda: fronts.Convolutions((4, 4)), 'must have as many'),
  (lambda: fronts.Convolutions(strides=(2, 0, 1)), 'strides must be positive'),
  (lambda: fronts.Trans(IMPLICIT, pool='sum'), 'pool'),
  (lambda: votes.Exact(chunk=0), 'chunk'),
  (
    lambda: votes.Implicit(attention.Favor('softmax_oprf', 16)),
    'oprf_mean_square',
  ),
  (
    lambda: policies.PixelPolicy(spaces.Box((4,), 0.0, 1.0), CAR, EXACT),
    'height, width',
  ),
)


def test_convolutions_are_flax_convolutions():
  front = fronts.Convolutions((4, 3), (3, 3), (2, 1))
  picture = jnp.asarray(seeds.rng(0).uniform(size=(11, 11, 3)), jnp.float32)
  variables = jax.jit(front.init)(seeds.key(0), picture)

  @jax.jit
  def both(variables, x):
    found = front.apply(variables, x)
    for i, stride in enumerate((2, 1)):
      layer = variables['params'][f'Projection_{i}']
      x = jax.lax.conv_general_dilated(
        x[None],
        layer['kernel'],
        (stride, stride),
        'VALID',
        dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
      )[0]
      x = jax.nn.relu(x + layer['bias'])
    return found, x.ravel()

  np.testing.assert_allclose(*both(variables, picture), atol=1e-5)


@pytest.mark.slow
def test_films_show_what_is_looked_at():
  env = dodge.Dodge(size=16, max_steps=8)
  front = fronts.Rank(IMPLICIT, patches.Patches(3, 3), count=1)
  agent = functools.partial(
    policies.PixelPolicy, front=front, controller=controllers.MLP(())
  )
  shot = film.Film(lanes.Lanes(env, 2), num_frames=2, size=16, highlight=True)
  trainer = training.ESTrainer(
    env,
    agent,
    strategy.ESConfig(num_pairs=1, normalize=False),
    optax.sgd(0.1),
    film=shot,
  )
  state = trainer.search(0).init(
    trainer.fitted_policy.init(seeds.key(0)), seeds.key(1), (16, 16, 3)
  )
  evaluator = trainer.evaluator(env=env, policy=trainer.fitted_policy)
  player = trainer.player(state, evaluator)
  frames = shot.shoot(player, jax.random.key(0))
  plain = dataclasses.replace(shot, highlight=False)
  differs = frames[0] != plain.shoot(player, jax.random.key(0))[0]
  # One patch of each lane, at most where it was not white before.
  for left in (1, 19):
    seen = differs[1:17, left : left + 16].any(axis=-1)
    rows, columns = np.nonzero(seen)
    assert 1 <= seen.sum() <= 9
    assert np.ptp(rows) <= 2
    assert np.ptp(columns) <= 2
  for unaware in (
    functools.partial(es_policies.FlaxPolicy, fronts.Blind()),
    functools.partial(policies.PixelPolicy, front=fronts.Trans(IMPLICIT)),
  ):
    with pytest.raises(ValueError, match='highlights'):
      dataclasses.replace(trainer, policy=unaware)
  with pytest.raises(ValueError, match='observes pictures'):
    film.Film(
      lanes.Lanes(pendulum.Pendulum(), 1), pixels.pendulum_scene, highlight=True
    )
