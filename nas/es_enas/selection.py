"""The choice of one architecture, during a search and at its end.

The architecture that a controller holds for the best had the best return in few
episodes, of a perturbed theta. Here candidates meet the same environments with theta itself.
The winner must be judged by episodes that had no part in its choice.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key, PyTree

from nas.es_enas import controllers
from nas.es_enas import population as population_lib
from nas.es_enas import search as search_lib
from rl.es import evaluator as evaluator_lib
from rl.es import population as rl_population
from rl.es import search as rl_search

__all__ = [
  'Selection',
  'choose',
  'final_returns',
  'front_returns',
  'random_returns',
  'returns_of',
]


class Selection(NamedTuple):
  """The chosen architecture, and how it did.

  Attributes:
    architecture: int32 [D].
    returns: of `final_returns`, float32 [e].
  """

  architecture: Int[Array, ' D']
  returns: Float[Array, ' e']


def returns_of(
  evaluator: evaluator_lib.Evaluator,
  state: rl_search.StateLike,
  architectures: Int[Array, 'c D'],
  keys: Key[Array, ' e'],
  thetas: Float[Array, 'c d'] | None = None,
) -> Float[Array, 'c e']:
  """Returns of architectures, in the same environments.

  Args:
    evaluator: runs the rollouts.
    state: with the statistics of observations.
    architectures: any number.
    keys: of the episodes.
    thetas: of each architecture; None: that of the state.

  Returns:
    NaN where an episode was lost or broke.
  """
  count, episodes = architectures.shape[0], keys.shape[0]
  repeated = functools.partial(jnp.repeat, repeats=episodes, axis=0)
  inner = (
    rl_population.Repeated(state.theta)
    if thetas is None
    else rl_population.Listed(repeated(thetas))
  )
  population = population_lib.WithArchitectures(inner, repeated(architectures))
  found = evaluator.evaluate(
    population, jnp.tile(keys, count), state.normalizer
  )
  returns = jnp.where(found.valid, found.returns, jnp.nan)
  return returns.reshape(count, episodes)


def front_returns(
  state: search_lib.State,
  evaluator: evaluator_lib.Evaluator,
  *,
  episodes: int = 16,
) -> Float[Array, 'c e']:
  """Returns of the members of the front, by new episodes.

  Args:
    state: with a front.
    evaluator: runs the rollouts.
    episodes: of every member.

  Returns:
    Of the used places, in their order. Observations are normalised as they are
    now, which is not as they were when the member was found.
  """
  key = jax.random.fold_in(jax.random.fold_in(state.key, state.generation), 8)
  used = np.asarray(state.front.used)
  thetas, architectures = jax.tree.map(lambda x: x[used], state.front.items)
  keys = jax.random.split(key, episodes)
  return returns_of(evaluator, state, architectures, keys, thetas)


def choose(
  search: search_lib.ESENAS,
  state: search_lib.State,
  evaluator: evaluator_lib.Evaluator,
  *,
  proposals: int = 16,
  episodes: int = 16,
) -> Int[Array, ' D']:
  """The best of the controller's candidates, by their mean return.

  Candidates are what the controller holds for the best, and new proposals. The
  same state has the same winner. There is no rollout if nothing is to be chosen.

  Args:
    search: of the state.
    state: at any generation.
    evaluator: runs (`proposals` + 1) * `episodes` episodes.
    proposals: of the controller, as candidates.
    episodes: of every candidate, which all meet the same environments.

  Returns:
    The first of the best. A candidate with a lost or broken episode is the last
    choice.
  """
  if not search.space.length:
    return jnp.zeros(0, jnp.int32)
  # A generation and an evaluation fold in other numbers.
  key = jax.random.fold_in(jax.random.fold_in(state.key, state.generation), 6)
  propose_key, key = jax.random.split(key)
  find = _candidates_program if search.controller.pure else _candidates
  found = find(search.controller, state.controller, propose_key, proposals)
  keys = jax.random.split(key, episodes)
  means = returns_of(evaluator, state, found, keys).mean(axis=1)
  return found[jnp.argmax(jnp.nan_to_num(means, nan=-jnp.inf))]


def final_returns(
  state: search_lib.State,
  evaluator: evaluator_lib.Evaluator,
  architecture: Int[Array, ' D'],
  *,
  episodes: int = 50,
) -> Float[Array, ' e']:
  """Returns of the chosen architecture, by new episodes.

  Args:
    state: of the choice.
    evaluator: runs the rollouts.
    architecture: of `choose`.
    episodes: e.
  """
  key = jax.random.fold_in(jax.random.fold_in(state.key, state.generation), 9)
  keys = jax.random.split(key, episodes)
  return returns_of(evaluator, state, architecture[None], keys)[0]


def random_returns(
  search: search_lib.ESENAS,
  state: search_lib.State,
  evaluator: evaluator_lib.Evaluator,
  *,
  count: int = 16,
  episodes: int = 4,
) -> Float[Array, 'c e']:
  """Returns of random architectures with theta: what the choice is worth.

  Args:
    search: of the state.
    state: at the end.
    evaluator: runs the rollouts.
    count: c, of architectures.
    episodes: e, of each.
  """
  key = jax.random.fold_in(jax.random.fold_in(state.key, state.generation), 7)
  key, episode_key = jax.random.split(key)
  drawn = jax.vmap(search.space.sample)(jax.random.split(key, count))
  keys = jax.random.split(episode_key, episodes)
  return returns_of(evaluator, state, drawn, keys)


def _candidates(
  controller: controllers.Controller,
  state: PyTree,
  key: Key[Array, ''],
  proposals: int,
) -> Int[Array, 'c D']:
  found = [controller.best(state)[None]]
  if proposals:
    found.append(controller.propose(state, key, proposals))
  return jnp.concatenate(found)


_candidates_program = jax.jit(_candidates, static_argnums=(0, 3))
