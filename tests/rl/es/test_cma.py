"""CMA-ES: solves what it should, by asking and telling."""

import json
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rl.es import cma, evaluator, search
from tests import refusals
from tests.rl.es import es_cases

pytest.importorskip('cmaes')

KEY = jax.random.key(3)
SEARCH = cma.CMAES(0.5, population_size=6)


@jax.jit
def tilted(theta):
  """A quadratic of condition 10^4 with its maximum of 5 at (1, 2, 3, 4)."""
  away = theta - jnp.arange(1.0, 5.0)
  mixed = jnp.array([away[0] + away[1], away[1], away[2] - away[0], away[3]])
  return 5 - jnp.sum(10.0 ** jnp.arange(4) * mixed**2)


values = jax.jit(jax.vmap(tilted))


def start(settings=SEARCH, key=KEY):
  return settings.init(jnp.zeros(4), key)


def told(settings, state, valid=None, returns=None):
  request = settings.ask(state)
  found = values(request.population.thetas) if returns is None else returns
  found = evaluator.Evaluation.of(found, valid)
  return settings.tell(state, request, found)[0]


def test_finds_a_maximum():
  settings = cma.CMAES(0.5)
  state = start(settings)
  assert settings.ask(state).keys.shape == (8,)
  for _ in range(150):
    state = told(settings, state)
  np.testing.assert_allclose(state.theta, [1, 2, 3, 4], atol=1e-3)


def test_evaluators_and_seeds():
  function = es_cases.Function(tilted)
  assert isinstance(SEARCH, search.Search)
  runs = []
  for key in (KEY, KEY, jax.random.key(4)):
    state = start(key=key)
    request = SEARCH.ask(state)
    np.testing.assert_array_equal(
      SEARCH.ask(state).population.thetas, request.population.thetas
    )
    # All members meet the same environment, in each generation another one.
    assert len(np.unique(jax.random.key_data(request.keys), axis=0)) == 1
    after, metrics = SEARCH.step(state, function)
    assert float(metrics['environment_steps']) == 6
    runs.append(after.theta)
  np.testing.assert_array_equal(runs[0], runs[1])
  assert not np.array_equal(runs[0], runs[2])
  given = cma.CMAES(0.5, population_size=6, seed=3)
  np.testing.assert_array_equal(told(given, start(given)).theta, runs[0])


def restored(state, how):
  numbers = {
    name: x.tolist() if np.ndim(x) else x for name, x in state.opt_state.items()
  }
  if how == 'json':
    return state.replace(opt_state=json.loads(json.dumps(numbers)))
  return state.replace(opt_state=pickle.loads(pickle.dumps(state.opt_state)))


@pytest.mark.parametrize('how', ['json', 'pickle'])
def test_a_state_goes_on_bit_by_bit(how):
  state = start()
  for _ in range(3):
    state = told(SEARCH, state)
  before = restored(state, 'pickle')
  other = restored(state, how)
  for _ in range(3):
    state, other = told(SEARCH, state), told(SEARCH, other)
  np.testing.assert_array_equal(other.theta, state.theta)
  # What is asked and told changes no state.
  again = before
  for _ in range(3):
    again = told(SEARCH, again)
  np.testing.assert_array_equal(again.theta, state.theta)


def test_lost_members_rank_last():
  """What it learns does not depend on what a lost return happens to be."""
  state = start()
  returns = np.array(values(SEARCH.ask(state).population.thetas))
  best, means = returns.argmax(), []
  for lost in (np.nan, 1e9, -np.inf):
    returns[best] = lost
    valid = jnp.arange(6) != best
    means.append(told(SEARCH, state, valid, returns).theta)
  # A return that is not finite is lost, whoever calls it valid.
  returns[best] = np.nan
  means.append(told(SEARCH, state, jnp.ones(6, bool), returns).theta)
  for other in means[1:]:
    np.testing.assert_array_equal(other, means[0])
  assert not np.array_equal(told(SEARCH, state).theta, means[0])


def test_a_generation_without_returns_leaves_the_state_as_it_is():
  state = told(SEARCH, start())
  after = told(SEARCH, state, returns=jnp.full(6, jnp.nan))
  np.testing.assert_array_equal(after.theta, state.theta)
  assert int(after.generation) == 2
  assert after.opt_state is state.opt_state


test_rejects = refusals.all_with(
  'got',
  lambda: cma.CMAES(0.5).init(jnp.zeros(201), KEY),
  lambda: cma.CMAES(0.5).init(jnp.zeros(1), KEY),
  lambda: cma.CMAES(0.0),
  lambda: cma.CMAES(0.5, population_size=1),
  lambda: cma.CMAES(0.5, normalize=True).init(jnp.zeros(3), KEY),
)
