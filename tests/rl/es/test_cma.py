"""CMA-ES: solves what it should, through the evaluator's interface."""

import json
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rl.es import cma
from tests.rl.es import es_cases

pytest.importorskip('cmaes')

KEY = jax.random.key(3)


def tilted(theta):
  """A quadratic of condition 10^4 with its maximum of 5 at (1, 2, 3, 4)."""
  away = theta - jnp.arange(1.0, 5.0)
  mixed = jnp.array([away[0] + away[1], away[1], away[2] - away[0], away[3]])
  return 5 - jnp.sum(10.0 ** jnp.arange(4) * mixed**2)


def test_finds_a_maximum():
  search = cma.CMAES(jnp.zeros(4), sigma=0.5, seed=1)
  found = jax.jit(lambda keys, thetas: jax.vmap(tilted)(thetas))
  assert search.population_size == 8
  for _ in range(150):
    search.tell(found(None, search.ask()))
  np.testing.assert_allclose(search.mean, [1, 2, 3, 4], atol=1e-3)


def test_evaluators_and_seeds():
  evaluator = es_cases.Function(tilted)
  runs = []
  for seed in (1, 1, 2):
    search = cma.CMAES(jnp.zeros(4), sigma=0.5, population_size=6, seed=seed)
    thetas = search.ask()
    np.testing.assert_array_equal(search.ask(), thetas)
    evaluation = search.step(evaluator, KEY)
    assert evaluation.returns.shape == (6,)
    runs.append(search.mean)
  np.testing.assert_array_equal(runs[0], runs[1])
  assert not np.array_equal(runs[0], runs[2])


@pytest.mark.parametrize('asked', [False, True])
def test_a_pickle_is_a_checkpoint(asked):
  """Between generations and inside of one: the same draws follow."""
  search = cma.CMAES(jnp.zeros(4), sigma=0.5, seed=1)
  tell = lambda s: s.tell(jax.vmap(tilted)(jnp.asarray(s.ask())))
  for _ in range(3):
    tell(search)
  if asked:
    search.ask()
  restored = pickle.loads(pickle.dumps(search))
  for one in (search, restored):
    for _ in range(2):
      tell(one)
  np.testing.assert_array_equal(restored.mean, search.mean)
  np.testing.assert_array_equal(restored.ask(), search.ask())


def test_a_state_is_json_and_goes_on_bit_by_bit():
  search, other = (cma.CMAES(jnp.zeros(4), sigma=0.5, seed=1) for _ in range(2))
  tell = lambda s: s.tell(jax.vmap(tilted)(jnp.asarray(s.ask())))
  for _ in range(3):
    tell(search)
  other.set_state(json.loads(json.dumps(search.get_state())))
  for one in (search, other):
    for _ in range(3):
      tell(one)
  np.testing.assert_array_equal(other.mean, search.mean)
  np.testing.assert_array_equal(other.ask(), search.ask())
  with pytest.raises(RuntimeError, match='between ask and tell'):
    search.get_state()


def test_lost_members_rank_last():
  """What it learns does not depend on what a lost return happens to be."""
  means = []
  for lost in (np.nan, 1e9):
    search = cma.CMAES(jnp.zeros(4), sigma=0.5, population_size=6, seed=1)
    returns = np.array(jax.vmap(tilted)(search.ask()))
    best = returns.argmax()
    returns[best] = lost
    search.tell(returns, np.arange(6) != best)
    means.append(search.mean)
  np.testing.assert_array_equal(*means)
  search = cma.CMAES(jnp.zeros(4), sigma=0.5, population_size=6, seed=1)
  search.tell(jax.vmap(tilted)(search.ask()))
  assert not np.array_equal(search.mean, means[0])


def test_rejects():
  make = lambda size, **options: cma.CMAES(
    jnp.zeros(size), **{'sigma': 0.5, 'seed': 0, **options}
  )
  for call in (
    lambda: make(201),
    lambda: make(1),
    lambda: make(3, sigma=0.0),
    lambda: make(3, population_size=1),
  ):
    with pytest.raises(ValueError, match='got'):
      call()
  search = make(3, population_size=4)
  with pytest.raises(RuntimeError, match='after ask'):
    search.tell(np.zeros(4))
  search.ask()
  with pytest.raises(ValueError, match='finite'):
    search.tell(np.array([0.0, np.nan, 0.0, 0.0]))
  with pytest.raises(RuntimeError, match='came back'):
    search.tell(np.zeros(4), np.zeros(4, bool))
