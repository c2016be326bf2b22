"""The update: exact zeros, invariances, schedules, resuming, learning."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rl.envs import cartpole
from rl.es import (
  directions,
  estimators,
  evaluator,
  jax_evaluator,
  policies,
  search,
  shaping,
  strategy,
)
from tests import marks, refusals, trees
from tests.rl.es import es_cases

THETA = jnp.array([1.0, -2.0, 0.5])
KEY = jax.random.key(0)
SPHERE = lambda x: -jnp.sum(x**2)
evaluation = evaluator.Evaluation


def make(**settings):
  config = strategy.ESConfig(8, 0.1, normalize=False, **settings)
  return strategy.Strategy(config, optax.sgd(0.05))


def stepping(es, function, lost=None):
  """A generation in one program."""
  evaluator = es_cases.Function(function, lost)
  return jax.jit(functools.partial(es.step, evaluator=evaluator))


def one_step(es, function, lost=None):
  return stepping(es, function, lost)(es.init(THETA, KEY))


@pytest.mark.parametrize(
  'settings',
  [
    {},
    # Their weights are zero by `test_estimators`.
    *marks.slow(
      {'estimator': estimators.Antithetic(shaping.centered_ranks)},
      {'estimator': estimators.TopPairs(0.5)},
      {'estimator': estimators.Forward(), 'center_evaluations': 2},
    ),
  ],
)
def test_equal_returns_change_nothing(settings):
  state, metrics = one_step(make(**settings), lambda x: 0.1 + 0 * x[0])
  np.testing.assert_array_equal(state.theta, THETA)
  assert float(metrics['gradient_norm']) == 0
  assert int(state.generation) == 1


def test_affine_maps_of_the_return_change_nothing():
  plain, _ = one_step(make(), SPHERE)
  scaled, _ = one_step(make(), lambda x: 40 * SPHERE(x) + 3)
  np.testing.assert_allclose(scaled.theta, plain.theta, atol=1e-4)
  ranked = make(estimator=estimators.Antithetic(shaping.centered_ranks))
  plain, _ = one_step(ranked, SPHERE)
  mapped, _ = one_step(ranked, lambda x: jnp.exp(SPHERE(x)))
  np.testing.assert_array_equal(mapped.theta, plain.theta)
  assert not np.allclose(plain.theta, THETA)


def test_lost_members_do_not_make_nan():
  lost = lambda keys, returns: jnp.arange(returns.shape[0]) % 5 == 0
  state, metrics = one_step(make(), SPHERE, lost)
  assert bool(jnp.all(jnp.isfinite(state.theta)))
  assert float(metrics['valid_fraction']) == 0.75


@pytest.mark.parametrize(
  ('settings', 'lost'),
  [
    *marks.slow(({}, [True] * 16)),
    # One member of every pair is left.
    ({}, [True] * 8 + [False] * 8),
    ({'estimator': estimators.Forward(), 'center_evaluations': 1}, [True] * 8),
  ],
)
def test_a_generation_without_a_pair_leaves_the_state_as_it_is(settings, lost):
  """Momentum would go on without it."""
  config = strategy.ESConfig(8, 0.1, normalize=False, **settings)
  es = strategy.Strategy(config, optax.adam(0.1))
  step = stepping(es, SPHERE)
  state, _ = step(es.init(THETA, KEY))
  returns = np.where(lost, np.nan, 1.0 + np.arange(len(lost)))

  @jax.jit
  def told(state):
    center = search.finite(evaluation.of(jnp.ones(1)))
    found = evaluation.of(jnp.float32(returns))
    return es.tell(state, es.ask(state), found, center)

  after, metrics = told(state)
  trees.check_same(
    (after.theta, after.opt_state), (state.theta, state.opt_state)
  )
  assert int(after.generation) == int(state.generation) + 1
  assert float(metrics['update_norm']) == 0
  assert bool(jnp.isnan(metrics['episode_return'])) == all(lost)
  # The next one draws anew, and moves.
  moved, _ = step(after)
  assert np.abs(moved.theta - state.theta).max() > 1e-3


def test_a_lost_centre_leaves_the_state_as_it_is():
  es = make(estimator=estimators.Forward(), center_evaluations=1)
  state = es.init(THETA, KEY)
  lost = evaluation.of(jnp.full(1, jnp.nan))
  returns = evaluation.of(jnp.arange(8.0))
  tell = jax.jit(lambda state: es.tell(state, es.ask(state), returns, lost))
  after, _ = tell(state)
  np.testing.assert_array_equal(after.theta, THETA)


def test_returns_that_are_not_finite_are_lost():
  """Exactly as if their workers had died, and not as if they were 0."""
  broken = lambda x: jnp.where(x[0] > THETA[0], jnp.nan, SPHERE(x))
  infinite = lambda x: jnp.where(x[0] > THETA[0], jnp.inf, SPHERE(x))
  lost = lambda keys, returns: ~jnp.isfinite(returns)
  expected, _ = one_step(make(), broken, lost)
  for function in (broken, infinite):
    state, metrics = one_step(make(), function)
    np.testing.assert_array_equal(state.theta, expected.theta)
    assert float(metrics['valid_fraction']) == 0.5
    assert bool(jnp.isfinite(metrics['episode_return']))


def test_the_last_estimates_guide():
  """Then all directions lie in their span: what is not in it cannot move."""
  guided = directions.Directions(guide=0.0)
  es = make(
    estimator=estimators.Antithetic(shaping.unshaped),
    directions=guided,
    guides=2,
  )
  size = 6
  state = es.init(jnp.ones(size), KEY)
  step = stepping(es, SPHERE)
  for _ in range(3):
    before = np.asarray(state.estimates, np.float64)
    old = np.asarray(state.theta, np.float64)
    state, _ = step(state)
    moved = np.asarray(state.theta, np.float64) - old
    assert np.linalg.norm(moved) > 1e-3
    q, _ = np.linalg.qr(before.T)
    np.testing.assert_allclose(q @ (q.T @ moved), moved, atol=1e-5)
    # The update is a rate times the estimate, which is the newest one now.
    np.testing.assert_allclose(0.05 * state.estimates[-1], moved, rtol=1e-3)
    np.testing.assert_array_equal(state.estimates[0], before[1])
  for settings in ({'guides': 1}, {'directions': guided, 'guides': -1}):
    with pytest.raises(ValueError, match='guides'):
      make(**settings)


def test_an_estimate_of_zero_does_not_guide():
  """It has no direction; the ones before it go on guiding."""
  es = make(directions=directions.Directions(guide=0.5), guides=2)
  state = es.init(THETA, KEY)
  after, _ = stepping(es, lambda x: 0 * x[0])(state)
  np.testing.assert_array_equal(after.estimates, state.estimates)
  moved, _ = stepping(es, SPHERE)(after)
  assert bool(jnp.all(jnp.isfinite(moved.theta)))
  assert np.abs(moved.theta - THETA).max() > 1e-3


class OnHost(es_cases.Function):
  """The same function, not to be traced."""

  pure = False


def test_a_step_on_the_host_is_compiled_once(caplog):
  es = make(estimator=estimators.Antithetic(shaping.unshaped))
  one, _ = one_step(es, SPHERE)
  state, _ = es.step(es.init(THETA, KEY), OnHost(SPHERE))
  jax.tree.map(np.testing.assert_allclose, state.theta, one.theta)
  with jax.log_compiles(), caplog.at_level('WARNING'):
    # A strategy of the same settings is the same one.
    dataclasses.replace(es).step(state, OnHost(SPHERE))
  compiled = [r.message for r in caplog.records if 'Compiling' in r.message]
  assert not [line for line in compiled if '_tell' in line or 'tell' in line]


def test_the_step_ascends_by_the_estimate():
  es = make(estimator=estimators.Antithetic(shaping.unshaped))
  state = es.init(THETA, KEY)
  request = es.ask(state)
  rows = directions.rows(
    request.population.directions, request.population.key, 0, count=8, size=3
  )
  rows = np.asarray(rows, np.float64)
  theta = np.asarray(THETA, np.float64)
  plus, minus = (-((theta + sign * 0.1 * rows) ** 2).sum(1) for sign in (1, -1))
  gradient = (plus - minus) @ rows / (2 * 0.1 * 8)
  new, metrics = stepping(es, SPHERE)(state)
  np.testing.assert_allclose(new.theta, theta + 0.05 * gradient, rtol=1e-4)
  norm = np.linalg.norm(gradient)
  np.testing.assert_allclose(metrics['gradient_norm'], norm, rtol=1e-4)


def test_generations_draw_anew_and_sigma_follows_its_schedule():
  config = strategy.ESConfig(
    4, optax.linear_schedule(0.2, 0.1, 2), normalize=False, center_evaluations=1
  )
  es = strategy.Strategy(config, optax.sgd(0.1))
  state = es.init(THETA, KEY)
  ask = jax.jit(es.ask)
  requests = [ask(state.replace(generation=jnp.int32(i))) for i in range(3)]
  np.testing.assert_allclose(
    [r.population.sigma for r in requests], [0.2, 0.15, 0.1], rtol=1e-6
  )
  data = [
    jax.random.key_data(k)
    for r in requests
    for k in (r.population.key[None], r.keys, r.center_keys)
  ]
  data = np.concatenate(data)
  assert len(np.unique(data, axis=0)) == len(data) == 3 * 6


def test_scanning_equals_steps_and_resuming():
  es = make(center_evaluations=1)
  step = stepping(es, SPHERE)
  state = es.init(THETA, KEY)
  scanned, metrics = jax.lax.scan(lambda s, _: step(s), state, length=12)
  for _ in range(12):
    state, last = step(state)
  np.testing.assert_allclose(scanned.theta, state.theta, rtol=1e-5)
  assert metrics['episode_return_center'].shape == (12,)
  assert float(SPHERE(state.theta)) > 0.5 * float(SPHERE(THETA))
  assert float(last['environment_steps']) == 17


@pytest.mark.parametrize('pairs', [*marks.slow(8), 5])
def test_directions_drawn_once_are_those_drawn_twice(pairs, monkeypatch):
  es = strategy.Strategy(
    strategy.ESConfig(pairs, 0.1, normalize=False), optax.sgd(0.05)
  )
  state = es.init(THETA, KEY)
  drawn, rows = [], directions.rows

  def counted(*args, **kwargs):
    drawn.append(1)
    return rows(*args, **kwargs)

  monkeypatch.setattr(directions, 'rows', counted)
  once, _ = stepping(es, SPHERE)(state)
  assert len(drawn) == 1

  @jax.jit
  def apart(state):
    request = es.ask(state)
    assert request.population.kept is None
    found, _ = search.run(request, None, es_cases.Function(SPHERE))
    return es.tell(state, request, found)

  twice, _ = apart(state)
  assert len(drawn) == 3
  # Two programs round their sums differently.
  np.testing.assert_allclose(once.theta, twice.theta, rtol=1e-6)


def test_guided_by_the_gradient_needs_few_directions():
  """One direction in a subspace that holds the gradient always ascends."""
  spec = directions.Directions(guide=0.0)
  config = strategy.ESConfig(
    1, 0.01, estimators.Antithetic(shaping.unshaped), spec, normalize=False
  )
  es = strategy.Strategy(config, optax.sgd(0.01))
  basis = directions.orthonormal_basis(-2 * THETA[None])
  state, _ = stepping(es, SPHERE)(es.init(THETA, KEY), basis=basis)
  change = state.theta - THETA
  cosine = change @ -THETA / jnp.linalg.norm(change) / jnp.linalg.norm(THETA)
  assert float(cosine) > 0.999


test_rejects = refusals.all_with(
  r'got|needs',
  lambda: strategy.ESConfig(4, estimator=estimators.Forward()),
  lambda: strategy.Strategy(strategy.ESConfig(4), optax.sgd(1.0)).init(
    THETA, KEY
  ),
)


def test_learns_cart_pole_from_every_seed():
  env = cartpole.CartPoleBalance(max_steps=100)
  policy = policies.MLP(env.observation_space, env.action_space, hidden=())
  evaluator = jax_evaluator.JaxEvaluator(env, policy)
  config = strategy.ESConfig(16, 0.2, center_evaluations=16)
  es = strategy.Strategy(config, optax.adam(0.1))
  step = jax.jit(functools.partial(es.step, evaluator=evaluator))
  for seed in range(3):
    state = es.init(jnp.zeros(policy.size), jax.random.key(seed), (4,))
    curve = []
    for _ in range(15):
      state, metrics = step(state)
      curve.append(float(metrics['episode_return_center']))
    assert curve[0] < 30, curve
    assert curve[-1] > 60, curve
    assert float(state.normalizer.count) > 15 * 48
