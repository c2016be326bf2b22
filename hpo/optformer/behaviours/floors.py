"""Exact likelihoods of the proposals of algorithms: floors for models of them.

No model of an algorithm can have a smaller expected negative log-likelihood than
the algorithm itself has. With Q bins, d real parameters and a gain that tells all
points apart, it is, in nats a trial,

  random search           d ln Q
  shuffled grid           ln(100^d - trials so far)
  hill climbing           about ln d + ln Q
  regularised evolution   at most H + ln d + ln Q, where H = 2.323 is the entropy
                          of the winner of a tournament of 5 out of 25
  grid search             0

The functions below give it for each trial of a study, with parameters of any
type. Those of eagle strategy and GP-UCB have no closed form.
"""

import math
from collections.abc import Callable

import numpy as np
from jaxtyping import Float, Int

from hpo import spaces, studies
from hpo.optformer import quantizing
from hpo.optformer.behaviours import evolution as evolution_lib
from hpo.optformer.behaviours import grid_search
from hpo.optformer.behaviours import hill_climb as hill_climb_lib
from hpo.optformer.behaviours import random_search as random_lib

__all__ = ['floor', 'winner_chances']

Tokens = Int[np.ndarray, 't d']
Sizes = Int[np.ndarray, ' d']


def floor(
  study: studies.Study, bins: int = quantizing.NUM_BINS
) -> Float[np.ndarray, ' t'] | None:
  """The negative log-likelihood of each trial's parameters, in nats.

  Args:
    study: with all trials from the first one on, all completed. The algorithm
      that `problem.algorithm` names wrote it, with the published settings.
    bins: Q.

  Returns:
    None if the algorithm has no closed form.

  Raises:
    ValueError: there is no such algorithm, or a trial is not completed.
  """
  if (study.statuses != studies.COMPLETED).any():
    raise ValueError('a floor needs completed trials only')
  algorithm = study.problem.algorithm
  if algorithm in _UNKNOWN:
    return None
  if algorithm not in _FLOORS:
    raise ValueError(
      f'algorithm must be one of {sorted({*_FLOORS, *_UNKNOWN})}, '
      f'got {algorithm!r}'
    )
  parameters = study.problem.space.parameters
  shuffled = grid_search.ShuffledGridSearch()
  reals = shuffled.resolution if algorithm == shuffled.name else bins
  sizes = np.array([_size(parameter, reals, bins) for parameter in parameters])
  tokens = quantizing.parameter_tokens(parameters, study.codes, bins)
  return _FLOORS[algorithm](tokens, study.gains, sizes)


def winner_chances(
  population: int = 25, tournament: int = 5
) -> Float[np.ndarray, ' p']:
  """P(r): that the member of rank r, from 0 on, is the best of a tournament.

  P(r) = C(p - 1 - r, k - 1) / C(p, k): the k - 1 others have larger ranks.
  """
  found = [
    math.comb(population - 1 - rank, tournament - 1)
    for rank in range(population)
  ]
  return np.array(found) / math.comb(population, tournament)


def _size(parameter: spaces.Parameter, reals: int, bins: int) -> int:
  """Tokens that a uniform draw can give, all equally likely.

  Args:
    parameter: of any type.
    reals: tokens of a real parameter.
    bins: Q.

  Raises:
    ValueError: several whole numbers share a bin.
  """
  if isinstance(parameter, spaces.Float):
    return reals
  if not isinstance(parameter, spaces.Int):
    return len(parameter.values)
  count = int(parameter.high - parameter.low + 1)
  if count > bins or parameter.scale != 'LINEAR':
    raise ValueError(
      f'whole numbers must have bins of their own, got {parameter}'
    )
  return count


def _random(
  tokens: Tokens, gains: Float[np.ndarray, ' t'], sizes: Sizes
) -> Float[np.ndarray, ' t']:
  return np.full(len(tokens), np.log(sizes).sum())


def _grid(
  tokens: Tokens, gains: Float[np.ndarray, ' t'], sizes: Sizes
) -> Float[np.ndarray, ' t']:
  return np.zeros(len(tokens))


def _shuffled(
  tokens: Tokens, gains: Float[np.ndarray, ' t'], sizes: Sizes
) -> Float[np.ndarray, ' t']:
  total = math.prod(sizes.tolist())
  return np.log([total - number % total for number in range(len(tokens))])


def _climb(
  tokens: Tokens, gains: Float[np.ndarray, ' t'], sizes: Sizes
) -> Float[np.ndarray, ' t']:
  found = _random(tokens, gains, sizes)
  for number in range(1, len(tokens)):
    parent = tokens[np.argmax(gains[:number])]
    found[number] = _nats(_mutation(parent, tokens[number], sizes))
  return found


def _evolution(
  tokens: Tokens, gains: Float[np.ndarray, ' t'], sizes: Sizes
) -> Float[np.ndarray, ' t']:
  population = evolution_lib.RegularizedEvolution().population
  tournament = evolution_lib.RegularizedEvolution().tournament
  chances = winner_chances(population, tournament)
  found = _random(tokens, gains, sizes)
  for number in range(population, len(tokens)):
    rows = np.arange(number - population, number)
    ranked = rows[np.argsort(-gains[rows], kind='stable')]
    mutations = [_mutation(tokens[r], tokens[number], sizes) for r in ranked]
    found[number] = _nats(chances @ mutations)
  return found


def _mutation(
  parent: Int[np.ndarray, ' d'], child: Int[np.ndarray, ' d'], sizes: Sizes
) -> float:
  """The chance of a child, if one parameter is drawn anew."""
  same = parent == child
  others = same.sum() - same == len(same) - 1
  return float((others / sizes).mean())


def _nats(chance: float) -> float:
  """Infinite if the algorithm cannot have written the trial."""
  return -math.log(chance) if chance > 0 else math.inf


_FLOORS: dict[str, Callable[..., Float[np.ndarray, ' t']]] = {
  grid_search.GridSearch().name: _grid,
  grid_search.ShuffledGridSearch().name: _shuffled,
  random_lib.RandomSearch().name: _random,
  evolution_lib.RegularizedEvolution().name: _evolution,
  hill_climb_lib.HillClimb().name: _climb,
}
_UNKNOWN = ('designer_eagle_strategy', 'designer_recursive_gp')
