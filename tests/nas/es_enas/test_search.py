"""The combined search: gradients, what controllers are told, costs."""

import dataclasses

import flax
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from nas.es_enas import controllers
from nas.es_enas import search as enas
from nas.es_enas import space as space_lib
from rl.es import estimators, evaluator, strategy
from rl.es import search as search_lib
from tests import trees
from tests.rl.es import es_cases

SPACE = space_lib.Space((space_lib.Choices('c', 3, 4),))


@flax.struct.dataclass
class Told:
  architectures: object
  scores: object
  valid: object


@dataclasses.dataclass(frozen=True)
class Uniform:
  """Draws uniformly, and remembers the last feedback."""

  space: space_lib.Space = SPACE
  pure = True

  def init(self, key, count):
    del key
    blank = jnp.zeros((count, self.space.length), jnp.int32)
    return Told(blank, jnp.zeros(count), jnp.zeros(count, bool))

  def propose(self, state, key, count):
    return jax.vmap(self.space.sample)(jax.random.split(key, count))

  def feedback(self, state, key, architectures, scores, valid):
    return Told(architectures, scores, valid), {}

  def best(self, state):
    return state.architectures[0]


def _search(estimator=None, *, pairs=6, centers=0, rate=1.0, **options):
  estimator = estimator or estimators.Antithetic(shaping=lambda x, valid: x)
  config = strategy.ESConfig(
    pairs, 0.1, estimator, center_evaluations=centers, normalize=False
  )
  inner = strategy.Strategy(config, optax.sgd(rate))
  return enas.ESENAS(inner, Uniform(), **options)


def _value(architectures):
  return architectures @ np.float32([1, 10, 100])


def _sum(member):
  theta, architecture = member
  return jnp.sum(theta) + _value(architecture)


def _step(search, function, size=4, seed=0):
  state = search.init(jnp.arange(float(size)), jax.random.key(seed))
  return search.step(state, es_cases.Function(function))


def test_each_member_is_evaluated_with_the_architecture_that_is_told():
  """In pairs, members that differ by their architecture only move nothing."""
  for paired in (True, False):
    search = _search(paired=paired, centers=2, center_feedback=not paired)
    state, metrics = _step(search, lambda member: _value(member[1]))
    told = state.controller
    assert told.architectures.shape == ((6 if paired else 14), 3)
    expected = _value(np.asarray(told.architectures))
    np.testing.assert_allclose(told.scores, expected)
    assert told.valid.all()
    assert len(np.unique(expected)) > 3
    rows = expected[:6] if paired else expected[:12]
    np.testing.assert_allclose(metrics['episode_return'], rows.mean())
    moved = np.abs(np.asarray(state.theta) - np.arange(4)).max()
    assert moved == metrics['gradient_norm'] == 0 if paired else moved > 1


@pytest.mark.parametrize('paired', [True, False])
def test_a_single_architecture_is_plain_evolution(paired):
  search = _search(paired=paired)
  search = dataclasses.replace(search, controller=Uniform(space_lib.Space(())))
  state, metrics = _step(search, lambda member: -jnp.sum(member[0] ** 2))
  assert state.controller.architectures.shape == ((6 if paired else 12), 0)
  inner = search.search.init(jnp.arange(4.0), jax.random.key(0))
  alone, _ = search.search.step(
    inner, es_cases.Function(lambda theta: -jnp.sum(theta**2))
  )
  np.testing.assert_allclose(state.theta, alone.theta, rtol=1e-6)
  assert metrics['architecture_diversity'] == 0


@pytest.mark.parametrize('paired', [True, False])
def test_independent_architectures_add_their_variance(paired):
  """f = c_m + a.theta: v / (2 sigma^2 n) a coordinate, and 0 in pairs."""
  pairs, sigma, draws = 8, 0.1, 600
  search = _search(pairs=pairs, paired=paired)
  slope = jnp.array([0.3, -0.2, 0.1])

  def gradient(key):
    state = search.init(jnp.zeros(3), key)
    function = lambda m: slope @ m[0] + m[1][0]
    return search.step(state, es_cases.Function(function))[0].theta

  found = jax.jit(jax.vmap(gradient))(
    jax.random.split(jax.random.key(1), draws)
  )
  v = np.var(np.arange(4))
  # One coordinate of the mean of g (g.a) has (|a|^2 + a_i^2) / n.
  inherent = (slope @ slope + slope**2) / pairs
  expected = inherent + (0 if paired else v / (2 * sigma**2 * pairs))
  ratio = np.var(found, axis=0) / expected
  # The variance of 600 draws is known to about 1 / sqrt(300).
  np.testing.assert_allclose(ratio, 1, atol=0.25)
  error = np.sqrt(expected / draws)
  assert (np.abs(found.mean(0) - slope) < 4.5 * error).all()


def test_theta_moves_as_it_would_without_architectures():
  search = _search(estimators.Antithetic(), centers=2)
  function = lambda theta: -jnp.sum(theta**2)
  with_them, metrics = _step(search, lambda member: function(member[0]))
  state = search.search.init(jnp.arange(4.0), jax.random.key(0))
  alone, expected = search.search.step(state, es_cases.Function(function))
  np.testing.assert_allclose(with_them.theta, alone.theta, rtol=1e-6)
  assert metrics['environment_steps'] == expected['environment_steps']


def test_affine_returns_give_the_same_step():
  search = _search(estimators.Antithetic())
  one, _ = _step(search, _sum)
  two, _ = _step(search, lambda member: 3 * _sum(member) - 7)
  np.testing.assert_allclose(one.theta, two.theta, atol=1e-5)
  same, metrics = _step(search, lambda member: jnp.array(2.0))
  np.testing.assert_array_equal(same.theta, jnp.arange(4.0))
  assert np.isfinite(metrics['episode_return'])


def test_a_lost_member_takes_its_row_with_it():
  search = _search()
  lost = lambda member: jnp.where(member[1][2] == 3, jnp.nan, _sum(member))
  state, metrics = _step(search, lost)
  told = state.controller
  np.testing.assert_array_equal(told.valid, told.architectures[:, 2] != 3)
  assert 0 < told.valid.sum() < 6
  assert np.isfinite(state.theta).all()
  np.testing.assert_allclose(metrics['valid_fraction'], told.valid.mean())


def test_a_generation_without_a_whole_pair_moves_nothing():
  search = _search(
    costs=lambda member: {'choices': jnp.sum(member[1]).astype(jnp.float32)},
    front=enas.Front(cost='choices', capacity=4),
  )
  inner = dataclasses.replace(search.search, optimizer=optax.adam(0.1))
  search = dataclasses.replace(
    search, search=inner, controller=controllers.HillClimb(SPACE)
  )
  tell = jax.jit(
    lambda state, returns: search.tell(
      state, search.ask(state), evaluator.Evaluation.of(returns)
    )
  )
  returns = jnp.arange(12.0)
  first = trees.strong(search.init(jnp.arange(4.0), jax.random.key(0)))
  state, _ = tell(first, returns)
  lost = jnp.array([0, 7, 2, 9, 4, 11])  # One member of every pair.
  after, _ = tell(state, returns.at[lost].set(jnp.inf))
  parts = lambda s: (s.theta, s.inner.opt_state, s.controller, s.front)
  jax.tree.map(np.testing.assert_array_equal, parts(after), parts(state))
  moved, _ = tell(state, returns)
  assert np.abs(moved.theta - state.theta).max() > 0


def test_scores_are_maximised_and_returns_are_reported():
  costs = lambda member: {'edges': jnp.sum(member[1])}
  score = lambda returns, costs, generation: (
    returns - (5 + generation) * costs['edges']
  )
  search = _search(costs=costs, score=score, front=enas.Front('edges', 8))
  values = es_cases.Function(lambda member: _value(member[1]))
  step = jax.jit(lambda state: search.step(state, values))
  state, metrics = step(search.init(jnp.arange(4.0), jax.random.key(0)))
  told = state.controller
  architectures = np.asarray(told.architectures)
  returns, edges = _value(architectures), architectures.sum(1)
  np.testing.assert_allclose(told.scores, returns - 5 * edges)
  scores = np.asarray(told.scores)
  np.testing.assert_allclose(metrics['episode_return'], returns.mean())
  np.testing.assert_allclose(metrics['score'], scores.mean())
  np.testing.assert_allclose(metrics['architecture_edges'], edges.mean())
  front = jax.device_get(state.front)
  best = np.argmax(returns)
  assert front.returns[front.used].max() == returns[best]
  thetas, kept = front.items
  place = np.argmax(front.returns)
  np.testing.assert_array_equal(kept[place], architectures[best])
  np.testing.assert_array_equal(thetas[place], np.arange(4))
  np.testing.assert_allclose(front.costs[place], edges[best])
  with pytest.raises(ValueError, match='a score and a front need costs'):
    _search(score=score)


def test_asking_and_telling_by_hand_is_a_step():
  search = _search(paired=False, centers=1)
  state = search.init(jnp.ones(4), jax.random.key(2))
  request = search.ask(state)
  assert request.population.architectures.dtype == jnp.uint8
  found = search_lib.run(request, None, es_cases.Function(_sum))
  told, _ = search.tell(state, request, *found)
  stepped, _ = search.step(state, es_cases.Function(_sum))
  trees.check_close(
    (told.theta, told.controller),
    (stepped.theta, stepped.controller),
    rtol=1e-5,
  )
