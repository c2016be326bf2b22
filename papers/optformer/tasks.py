"""Problems that optimisers are compared on: BBOB of unseen families, real tables.

A task knows what a trial returns and, apart from it, how good each point really is.
Points are scored on the scale of Section 6 of the paper: 0 is the median of random
points, 1 the best point that is known.
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from hpo import hpob, spaces, studies, tabular
from hpo.optformer import bbob_problems, disguises
from rl.es import bbob

__all__ = ['Bbob', 'Hpob', 'Source', 'Tables', 'Task']

_SEED = 2205  # Of the problems; those of training and validation have others.
# Points that are evaluated at once, so that one program serves all.
_CHUNK = 256
_CANDIDATES = 4096
_NOISELESS = list(bbob.NOISES).index('NO_NOISE')


@dataclasses.dataclass(frozen=True, eq=False)
class Task:
  """A problem with known answers.

  Attributes:
    problem: what methods are told.
    observe: (number of the trial, codes [d]) -> its value, with noise.
    truth: codes [n, d] -> values without noise [n].
    zero: the value whose score is 0.
    one: the value whose score is 1.
    snap: codes of a suggestion -> those of the point that is evaluated.
    starts: codes [s, d] that runs begin with, one run after the other; none:
      uniform points.
  """

  problem: studies.Problem
  observe: Callable[[int, Float[np.ndarray, 'd']], float]
  truth: Callable[[Float[np.ndarray, 'n d']], Float[np.ndarray, 'n']]
  zero: float
  one: float
  snap: Callable[[Float[np.ndarray, 'd']], Float[np.ndarray, 'd']] = (
    lambda codes: codes
  )
  starts: Sequence[Float[np.ndarray, 's d']] = ()

  def best_scores(
    self, codes: Float[np.ndarray, 't d']
  ) -> Float[np.ndarray, 't']:
    """The score of the best point so far, after each trial."""
    scores = (self.truth(codes) - self.zero) / (self.one - self.zero)
    return np.maximum.accumulate(scores)


class Source(Protocol):
  """Where tasks come from; hashable settings."""

  def task(self, number: int) -> Task:
    """A task; the same number is the same task."""


@dataclasses.dataclass(frozen=True)
class Tables:
  """Tables of real training runs, in turns.

  Attributes:
    path: file of `scripts/prepare_hpo_tables.py`.
    names: of the tables.
  """

  path: str = 'data/hpo_tables.npz'
  names: tuple[str, ...] = tabular.NAMES

  def task(self, number: int) -> Task:
    """See `Source`."""
    table = tabular.load(self.path, self.names[number % len(self.names)])
    return Task(
      table.problem,
      lambda trial, codes: float(table.at(codes[None])[0]),
      table.at,
      float(np.median(table.values)),
      table.best,
    )


@dataclasses.dataclass(frozen=True)
class Hpob:
  """The problems of HPO-B, with the starts that come with them.

  Attributes:
    folder: of its files.
  """

  folder: str = 'data/hpob'

  def task(self, number: int) -> Task:
    """See `Source`."""
    names = hpob.names(self.folder)
    pool = hpob.load(self.folder, names[number % len(names)])
    truth = lambda codes: pool.values[pool.nearest(codes)]
    return Task(
      pool.problem,
      lambda trial, codes: float(truth(codes[None])[0]),
      truth,
      float(np.median(pool.values)),
      float(pool.values.max()),
      lambda codes: pool.points[pool.nearest(codes[None])[0]],
      [pool.points[pool.starts[name]] for name in sorted(pool.starts)],
    )


@dataclasses.dataclass(frozen=True)
class Bbob:
  """Random problems, by default of the five families that are never trained on.

  They are drawn as in training: shifts, rotations, types of parameters, noise,
  names. Problems without a real parameter are drawn again, since all methods
  exhaust them. Families and then dimensions take turns.

  Attributes:
    dimensions: from 2 on.
    kinds: chances of the types of parameters; those of the shipped model.
    disguise: names and ranges of the parameters.
    families: of functions.
  """

  dimensions: tuple[int, ...] = (2, 3, 4)
  kinds: bbob_problems.Kinds = bbob_problems.Kinds(0.45, 0.2, 0.15, 0.2)
  disguise: disguises.Disguise = disguises.Disguise(1.0)
  families: tuple[str, ...] = bbob_problems.HELD_OUT

  def task(self, number: int) -> Task:
    """See `Source`."""
    rest, family = divmod(number, len(self.families))
    dimension = self.dimensions[rest % len(self.dimensions)]
    key = jax.random.fold_in(jax.random.key(_SEED), number)
    attempts = (jax.random.fold_in(key, n) for n in itertools.count())
    drawn = next(
      problem
      for one in attempts
      if (
        problem := _draw(one, family, dimension, self.kinds)
      ).cube.is_real.any()
    )
    rng = np.random.default_rng((_SEED, number))
    problem = self.disguise.problem(
      rng, np.asarray(drawn.kinds), np.asarray(drawn.cube.counts), ''
    )
    space, noiseless = problem.space, drawn.replace(noise=jnp.int32(_NOISELESS))
    values = functools.partial(_values, self.families, space)

    def observe(trial: int, codes: Float[np.ndarray, 'd']) -> float:
      return float(values(drawn, _numbered(key, trial), codes[None])[0])

    truth = functools.partial(values, noiseless, key)
    return Task(problem, observe, truth, *_landmarks(space, truth, rng))


def _numbered(key: Key[Array, ''], trial: int) -> Key[Array, '']:
  return jax.random.fold_in(jax.random.fold_in(key, 1), trial)


@functools.partial(jax.jit, static_argnums=(2, 3))
def _draw(
  key: Key[Array, ''], family: int, dimension: int, kinds: bbob_problems.Kinds
) -> bbob_problems.Problem:
  return bbob_problems.draw(key, dimension, (family, family + 1), kinds)


@functools.partial(jax.jit, static_argnums=0)
def _gains(
  families: tuple[str, ...],
  problem: bbob_problems.Problem,
  key: Key[Array, ''],
  points: Float[Array, 'n d'],
) -> Float[Array, ' n']:
  gain = bbob_problems.objective(problem, families)
  return jax.vmap(gain)(jax.random.split(key, len(points)), points)


def _values(
  families: tuple[str, ...],
  space: spaces.Space,
  problem: bbob_problems.Problem,
  key: Key[Array, ''],
  codes: Float[np.ndarray, 'n d'],
) -> Float[np.ndarray, 'n']:
  """Values, which are minimised, of any number of points."""
  units = space.to_unit(codes)
  pad = -len(units) % _CHUNK
  chunks = np.pad(units, ((0, pad), (0, 0))).reshape(-1, _CHUNK, len(space))
  found = [
    _gains(families, problem, key, np.float32(chunk)) for chunk in chunks
  ]
  return -np.float64(np.concatenate(found))[: len(units)]


def _landmarks(
  space: spaces.Space,
  truth: Callable[[Float[np.ndarray, 'n d']], Float[np.ndarray, 'n']],
  rng: np.random.Generator,
) -> tuple[float, float]:
  """The median of uniform points, and the least value that a long search finds."""
  units = space.to_unit(space.sample(rng, _CANDIDATES))
  values = truth(space.from_unit(units))
  median = float(np.median(values))
  for size in np.geomspace(0.3, 1e-3, 24):
    best = np.argsort(values, kind='stable')[:16]
    units, values = units[best], values[best]
    moved = np.repeat(units, _CHUNK // 16, axis=0)
    anew = rng.uniform(size=moved.shape) < 0.1
    steps = size * rng.normal(size=moved.shape)
    moved = np.where(anew, rng.uniform(size=moved.shape), moved + steps)
    moved = np.clip(moved, 0, 1)
    units = np.concatenate([units, moved])
    values = np.concatenate([values, truth(space.from_unit(moved))])
  return median, float(values.min())
