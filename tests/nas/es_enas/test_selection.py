"""The choice of an architecture, by rollouts of theta itself."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from nas.es_enas import controllers, selection
from nas.es_enas import search as enas
from nas.es_enas import space as space_lib
from rl.es import evaluator as evaluator_lib
from rl.es import population, strategy
from tests import seeds

SPACE = space_lib.Space((space_lib.Choices('c', 3, 4),))
# The same numbers in all tests: their programs are the same.
FEW = {'proposals': 20, 'episodes': 3}
PLACES = np.array([1, 4, 16])


def value(architecture):
  """Of 64 architectures each has another one."""
  return architecture @ PLACES


@dataclasses.dataclass(frozen=True)
class Noisy:
  """An environment's noise is far greater than what architectures differ by."""

  scale: float = 1000.0
  broken: int = 64
  asked: list = dataclasses.field(default_factory=list)
  pure = True
  observation_shape = ()

  def close(self):
    pass

  def evaluate(self, members, keys, normalizer):
    self.asked.append(len(keys))
    _, architectures = population.all_members(members, len(keys))
    noise = self.scale * jax.vmap(jax.random.normal)(keys)
    values = jax.vmap(value)(architectures)
    returns = jnp.where(values >= self.broken, jnp.nan, values + noise)
    return evaluator_lib.Evaluation.of(returns)


@pytest.fixture(scope='module')
def search():
  es = strategy.Strategy(strategy.ESConfig(2, normalize=False), optax.sgd(0.1))
  return enas.ESENAS(es, controllers.Random(SPACE))


def held(search, architecture):
  """A state whose controller was told of a lucky architecture."""
  state = search.init(jnp.zeros(2), seeds.key(0))
  lucky = controllers.Random(SPACE).init(seeds.key(1), 2)
  lucky = lucky.replace(
    architecture=jnp.asarray(architecture), score=jnp.float32(1e9)
  )
  return state.replace(controller=lucky)


def test_the_best_of_all_candidates_is_chosen(search):
  state, evaluator = held(search, [0, 0, 0]), Noisy()
  chosen = selection.choose(search, state, evaluator, **FEW)
  key = jax.random.fold_in(jax.random.fold_in(state.key, state.generation), 6)
  drawn = search.controller.propose(
    state.controller, jax.random.split(key)[0], 20
  )
  values = np.asarray(drawn) @ PLACES
  assert value(np.asarray(chosen)) == values.max() > 30
  assert evaluator.asked == [21 * 3]
  again = selection.choose(search, state, evaluator, **FEW)
  np.testing.assert_array_equal(again, chosen)


def test_what_the_controller_holds_is_a_candidate(search):
  state = held(search, [3, 3, 3])
  for options in ({'proposals': 0}, FEW):
    chosen = selection.choose(search, state, Noisy(), **options)
    assert chosen.tolist() == [3, 3, 3]


def test_a_broken_candidate_is_not_chosen(search):
  state = held(search, [3, 3, 3])
  chosen = selection.choose(search, state, Noisy(broken=40), **FEW)
  assert value(np.asarray(chosen)) < 40


def test_nothing_to_choose_takes_no_rollout():
  es = strategy.Strategy(strategy.ESConfig(2, normalize=False), optax.sgd(0.1))
  search = enas.ESENAS(es, controllers.Random(space_lib.Space(())))
  state, evaluator = search.init(jnp.zeros(2), seeds.key(0)), Noisy()
  assert selection.choose(search, state, evaluator).shape == (0,)
  assert not evaluator.asked


def test_the_winner_is_judged_by_other_episodes(search):
  state, evaluator = held(search, [3, 3, 3]), Noisy()
  architecture = jnp.array([3, 3, 3])
  final = selection.final_returns(state, evaluator, architecture, episodes=9)
  key = jax.random.fold_in(jax.random.fold_in(state.key, state.generation), 6)
  keys = jax.random.split(jax.random.split(key)[1], 9)
  chosen_by = selection.returns_of(evaluator, state, architecture[None], keys)
  assert final.shape == (9,)
  assert not np.isin(final, chosen_by).any()
