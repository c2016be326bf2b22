"""Studies of BBOB without end, made while training.

Study number n is of algorithm n mod 7; dimensions take turns. Studies of one
algorithm and one dimension are made in blocks by one compiled program on the
CPU of the host. A study depends on the seed and on its number alone, so that
any process makes any study, and a resumed run sees the same ones.

Studies that nothing can be learnt from (see `tokens.is_usable`), such as grids
on a plateau, are drawn anew, so that no study stands twice in the data.

Reference: arXiv:2205.13320, Appendices B.1 and C.1.
"""

import collections
import dataclasses
import functools
import threading
import zlib
from collections.abc import Callable, Hashable, Sequence

import jax
import numpy as np
from jaxtyping import Array, Float, Int, Key

from hpo import studies
from hpo.optformer import bbob_problems, behaviours, datasets, disguises, tokens
from rl import ranges
from rl.es import bbob

__all__ = ['BbobStudies', 'Source']

_BLOCKS_IN_MEMORY = 64
_MOST_DRAWS = 20  # Of a block, until enough of its studies can be used.
# Beside these, streams are those of training; see `Source.study`.
_VALIDATION, _HELD_OUT = 'validation', 'held out'


@dataclasses.dataclass(frozen=True)
class Source:
  """Where generated studies come from; a pure function of seed and number.

  Attributes:
    dimensions: numbers of parameters, which take turns.
    trials: of each study.
    kinds: chances of the types of parameters.
    disguise: names and ranges of parameters.
    algorithms: these take turns.
    block: studies made at once.
  """

  dimensions: tuple[int, ...] = (1, 2, 3, 4)
  trials: int = 40
  kinds: bbob_problems.Kinds = bbob_problems.PUBLISHED
  disguise: disguises.Disguise = disguises.PLAIN
  algorithms: tuple[behaviours.Behaviour, ...] = behaviours.BEHAVIOURS
  block: int = 64

  def __post_init__(self) -> None:
    ranges.check_counts(
      dimensions=self.dimensions, trials=self.trials, block=self.block
    )
    if not self.dimensions or not self.algorithms:
      raise ValueError(
        'a source needs dimensions and algorithms, got '
        f'{self.dimensions=} {self.algorithms=}'
      )

  def study(
    self,
    seed: int,
    number: int,
    *,
    stream: str = '',
    families: tuple[str, ...] = bbob_problems.TRAINED,
    family: str | None = None,
  ) -> studies.Study:
    """A study.

    Args:
      seed: of the run, 0..2**32-1.
      number: of the study, from 0 on.
      stream: studies of two streams have nothing in common.
      families: names of functions, each equally often. Dimensions too small for
        one of them are left out.
      family: the one of them to take; None: any.

    Raises:
      ValueError: the family is not among the families, or too few studies of
        the block can be used.
    """
    *place, row = self.origin(number, families)
    first, end = 0, len(families)
    if family is not None:
      if family not in families:
        raise ValueError(f'family must be one of {families}, got {family!r}')
      first = families.index(family)
      end = first + 1
    found = _block(
      self,
      families,
      (first, end),
      (seed, zlib.crc32(stream.encode())),
      tuple(place),
    )
    return found[row]

  def origin(
    self, number: int, families: tuple[str, ...] = bbob_problems.TRAINED
  ) -> tuple[int, int, int, int]:
    """The algorithm, dimension, block, and row in it that a study comes from.

    Args:
      number: of the study.
      families: see `study`.
    """
    least = max(bbob.FUNCTIONS[name].least for name in families)
    dimensions = [d for d in self.dimensions if d >= least]
    if not dimensions:
      raise ValueError(
        f'{families} need dimensions from {least} on, got {self.dimensions}'
      )
    rest, index = divmod(number, len(self.algorithms))
    # Shifted by algorithm, so that neighbours have several dimensions.
    turn, place = divmod(rest + index, len(dimensions))
    return index, dimensions[place], *divmod(turn, self.block)


# Blocks are made once, by whichever thread needs one first.
_lock = threading.Lock()
_blocks: collections.OrderedDict = collections.OrderedDict()


def _block(*where: Hashable) -> list[studies.Study]:
  with _lock:
    if where not in _blocks:
      _blocks[where] = _made(*where)
      while len(_blocks) > _BLOCKS_IN_MEMORY:
        _blocks.popitem(last=False)
    _blocks.move_to_end(where)
    return _blocks[where]


def _made(
  source: Source,
  families: tuple[str, ...],
  bounds: tuple[int, int],
  seeds: tuple[int, int],
  place: tuple[int, int, int],
) -> list[studies.Study]:
  rng = np.random.default_rng((*seeds, *bounds, *place))
  usable: list[studies.Study] = []
  for _ in range(_MOST_DRAWS):
    drawn = _drawn(source, families, bounds, rng, place)
    usable += filter(tokens.is_usable, drawn)
    if len(usable) >= source.block:
      return usable[: source.block]
  index, dimension, _ = place
  raise ValueError(
    f'{source.block} studies of {source.algorithms[index].name} must be fit to '
    f'learn from, got {len(usable)} of {_MOST_DRAWS * source.block} with '
    f'{dimension=} trials={source.trials}'
  )


def _drawn(
  source: Source,
  families: tuple[str, ...],
  bounds: tuple[int, int],
  rng: np.random.Generator,
  place: tuple[int, int, int],
) -> list[studies.Study]:
  """As many studies as a block has, fit to learn from or not."""
  index, dimension, _ = place
  with jax.default_device(jax.local_devices(backend='cpu')[0]):
    found = _batch(
      jax.random.key(int(rng.integers(2**32))),
      index,
      bounds,
      source.algorithms,
      families,
      source.kinds,
      (dimension, source.trials, source.block),
    )
    problems, histories = jax.device_get(found)
  name = source.algorithms[index].name
  return [
    _study(source.disguise, name, rng, *row)
    for row in zip(
      problems.kinds,
      problems.cube.counts,
      histories.points,
      histories.gains,
      strict=True,
    )
  ]


@functools.partial(jax.jit, static_argnums=(3, 4, 5, 6))
def _batch(
  key: Key[Array, ''],
  index: Int[Array, ''] | int,
  bounds: tuple[Int[Array, ''] | int, Int[Array, ''] | int],
  choice: tuple[behaviours.Behaviour, ...],
  families: tuple[str, ...],
  kinds: bbob_problems.Kinds,
  sizes: tuple[int, int, int],
) -> tuple[bbob_problems.Problem, behaviours.History]:
  dimension, trials, count = sizes
  behaviour = behaviours.OneOf(choice, index)

  def one(key: Key[Array, '']) -> tuple:
    first, second = jax.random.split(key)
    problem = bbob_problems.draw(first, dimension, bounds, kinds)
    gain = bbob_problems.objective(problem, families)
    run = behaviours.run(behaviour, second, problem.cube, gain, trials)
    return problem, run

  return jax.vmap(one)(jax.random.split(key, count))


def _study(
  disguise: disguises.Disguise,
  algorithm: str,
  rng: np.random.Generator,
  kinds: Int[np.ndarray, ' d'],
  counts: Int[np.ndarray, ' d'],
  points: Float[np.ndarray, 't d'],
  gains: Float[np.ndarray, ' t'],
) -> studies.Study:
  problem = disguise.problem(rng, kinds, counts, algorithm)
  codes = problem.space.from_unit(points)
  statuses = np.zeros(len(gains), np.int8)
  return studies.Study(problem, codes, -gains.astype(np.float64), statuses)


@dataclasses.dataclass(frozen=True)
class BbobStudies(datasets.StudyData):
  """Generated studies, without end or a number, and splits to judge a model by.

  There is a split for each algorithm, with other instances of the families of
  training, and one for each family that is held out, with all algorithms in
  turn.

  Attributes:
    source: makes the studies.
    eval_studies: of each split.
    limit: training studies, which come again and again; None: no end of them.
  """

  source: Source = dataclasses.field(default_factory=Source)
  eval_studies: int = 64
  limit: int | None = None

  def __post_init__(self) -> None:
    ranges.check_counts(eval_studies=self.eval_studies, limit=self.limit)

  @property
  def num_studies(self) -> int | None:
    """See `datasets.StudyData`."""
    return self.limit

  @property
  def splits(self) -> tuple[str, ...]:
    """Names of algorithms, without `designer_`, then of held-out families."""
    return (*self._algorithms, *bbob_problems.HELD_OUT)

  @property
  def longest_list(self) -> int:
    """See `datasets.StudyData`."""
    return bbob_problems.MOST_LISTED

  @property
  def _algorithms(self) -> tuple[str, ...]:
    found = (b.name for b in self.source.algorithms)
    return tuple(name.removeprefix('designer_') for name in found)

  def training_study(self, seed: int) -> Callable[[int], studies.Study]:
    """See `datasets.StudyData`."""
    study = functools.partial(self.source.study, seed)
    return study if self.limit is None else lambda n: study(n % self.limit)

  def evaluation_studies(self, split: str) -> Sequence[studies.Study]:
    """See `datasets.StudyData`."""
    numbers = range(self.eval_studies)
    if split in bbob_problems.HELD_OUT:
      make = functools.partial(
        self.source.study,
        0,
        stream=_HELD_OUT,
        families=bbob_problems.HELD_OUT,
        family=split,
      )
    elif split in self._algorithms:
      index, count = self._algorithms.index(split), len(self._algorithms)
      numbers = [index + count * number for number in numbers]
      make = functools.partial(self.source.study, 0, stream=_VALIDATION)
    else:
      raise ValueError(f'split must be one of {self.splits}, got {split!r}')
    return [make(number) for number in numbers]
