"""Small studies without end, to try the whole system out in minutes.

Two algorithms on random quadratics, sums of moduli and rippled bowls over one
to four real parameters: random search and hill climbing, which changes one
parameter of the best point at a time. A model of them has exact floors: ln Q
nats for each of D parameters of random search, ln D + ln Q for a step of hill
climbing.
"""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float

from hpo import spaces, studies
from hpo.optformer import datasets
from rl import ranges

__all__ = ['ALGORITHMS', 'ToyStudies', 'study']

ALGORITHMS = ('designer_random_search', 'designer_hill_climb')
_SPACES = tuple(
  spaces.Space(tuple(spaces.Float(f'x{i}', -5.0, 5.0) for i in range(d)))
  for d in range(1, 5)
)


def study(
  rng: np.random.Generator, algorithm: str, *, trials: int = 40
) -> studies.Study:
  """One study of a random function.

  Args:
    rng: of the function and of the algorithm.
    algorithm: in `ALGORITHMS`.
    trials: number of trials.

  Raises:
    ValueError: there is no such algorithm.
  """
  space = _SPACES[rng.integers(len(_SPACES))]
  function = _function(rng, len(space))
  if algorithm == ALGORITHMS[0]:
    codes = rng.uniform(-5, 5, (trials, len(space)))
  elif algorithm == ALGORITHMS[1]:
    codes = _climb(rng, function, (trials, len(space)))
  else:
    raise ValueError(
      f'algorithm must be one of {ALGORITHMS}, got {algorithm!r}'
    )
  problem = studies.Problem(space, 'MINIMIZE', 'toy', 'y', algorithm)
  return studies.Study(
    problem, codes, function(codes), np.zeros(trials, np.int8)
  )


def _function(
  rng: np.random.Generator, width: int
) -> Callable[[Float[np.ndarray, 't d']], Float[np.ndarray, ' t']]:
  kind, shift = rng.integers(3), rng.uniform(-4, 4, width)
  slopes = np.exp(rng.normal(size=width))
  squares = lambda z: (slopes * z**2).sum(axis=1)
  ripples = lambda z: 0.3 * squares(z) + (1 - np.cos(2 * z)).sum(axis=1)
  moduli = lambda z: (slopes * np.abs(z)).sum(axis=1)
  shape = (squares, moduli, ripples)[kind]
  return lambda x: shape(x - shift)


def _climb(
  rng: np.random.Generator,
  function: Callable[[Float[np.ndarray, 't d']], Float[np.ndarray, ' t']],
  shape: tuple[int, int],
) -> Float[np.ndarray, 't d']:
  codes = rng.uniform(-5, 5, shape)
  changed = rng.integers(shape[1], size=shape[0])
  best, lowest = codes[0], np.inf
  for number in range(shape[0]):
    if number:
      fresh = codes[number, changed[number]]
      codes[number] = best
      codes[number, changed[number]] = fresh
    value = function(codes[number : number + 1])[0]
    if value < lowest:
      best, lowest = codes[number].copy(), value
  return codes


@dataclasses.dataclass(frozen=True)
class ToyStudies(datasets.StudyData):
  """Studies of `ALGORITHMS` in turn; a split for each, of other functions.

  Attributes:
    trials: of a study.
    eval_studies: of a split.
  """

  trials: int = 40
  eval_studies: int = 64

  def __post_init__(self) -> None:
    ranges.check_counts(trials=self.trials, eval_studies=self.eval_studies)

  @property
  def splits(self) -> tuple[str, ...]:
    """See `datasets.StudyData`."""
    return tuple(name.removeprefix('designer_') for name in ALGORITHMS)

  def training_study(self, seed: int) -> Callable[[int], studies.Study]:
    """See `datasets.StudyData`."""
    return lambda number: study(
      np.random.default_rng((seed, number, 0)),
      ALGORITHMS[number % len(ALGORITHMS)],
      trials=self.trials,
    )

  def evaluation_studies(self, split: str) -> Sequence[studies.Study]:
    """See `datasets.StudyData`."""
    if split not in self.splits:
      raise ValueError(f'split must be one of {self.splits}, got {split!r}')
    algorithm = f'designer_{split}'
    return [
      # Training seeds are below 2**32.
      study(np.random.default_rng((2**32, n)), algorithm, trials=self.trials)
      for n in range(self.eval_studies)
    ]
