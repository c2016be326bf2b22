"""The choice of one architecture at the end of a search.

What a controller holds for the best had the best return in few episodes, of a
perturbed theta. Here candidates meet the same environments with theta itself,
and the winner is judged by episodes that had no part in its choice.
"""

import functools
from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key, PyTree

from nas.es_enas import population as population_lib
from nas.es_enas import search as search_lib
from rl.es import evaluator as evaluator_lib
from rl.es import population as rl_population

__all__ = [
  'Selection',
  'front_returns',
  'random_returns',
  'returns_of',
  'select',
]


@flax.struct.dataclass
class Selection:
  """The chosen architecture.

  Attributes:
    architecture: int32 [D].
    returns: of the final episodes, float32 [e].
    candidates: all that were compared, int32 [c, D]: what the controller holds
      for the best, and proposals.
    candidate_returns: mean of each, float32 [c]; -inf where an episode broke.
  """

  # Not annotated by shape: transformations put other things into the leaves.
  architecture: Any
  returns: Any
  candidates: Any
  candidate_returns: Any


def returns_of(
  evaluator: evaluator_lib.Evaluator,
  state: search_lib.State,
  architectures: Int[Array, 'c D'],
  keys: Key[Array, ' e'],
  thetas: Float[Array, 'c d'] | None = None,
) -> Float[Array, 'c e']:
  """Returns of architectures, in the same environments.

  Args:
    evaluator: runs the rollouts.
    state: of the search, with the statistics of observations.
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


def select(
  search: search_lib.ESENAS,
  state: search_lib.State,
  evaluator: evaluator_lib.Evaluator,
  *,
  proposals: int = 16,
  episodes: int = 16,
  final_episodes: int = 50,
) -> Selection:
  """Chooses among candidates by their mean return.

  Args:
    search: of the state.
    state: at the end.
    evaluator: runs the rollouts.
    proposals: of the controller, as candidates.
    episodes: of every candidate.
    final_episodes: of the chosen one.

  Returns:
    The first of the best.
  """
  # A generation and an evaluation fold in other numbers.
  key = jax.random.fold_in(jax.random.fold_in(state.key, state.generation), 6)
  propose_key, key, final_key = jax.random.split(key, 3)
  candidates = _candidates(search, state, propose_key, proposals)
  keys = jax.random.split(key, episodes)
  means = returns_of(evaluator, state, candidates, keys).mean(axis=1)
  means = jnp.nan_to_num(means, nan=-jnp.inf)
  chosen = candidates[jnp.argmax(means)]
  final_keys = jax.random.split(final_key, final_episodes)
  returns = returns_of(evaluator, state, chosen[None], final_keys)[0]
  return Selection(chosen, returns, candidates, means)


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
  search: search_lib.ESENAS,
  state: search_lib.State,
  key: Key[Array, ''],
  proposals: int,
) -> PyTree:
  controller = search.controller
  found = [controller.best(state.controller)[None]]
  if proposals:
    found.append(controller.propose(state.controller, key, proposals))
  return jnp.concatenate(found)
