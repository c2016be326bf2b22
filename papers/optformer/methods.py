"""Optimisers that are compared: OptFormer, and those that it imitates.

A method starts on a problem and then chooses one point after the other, from all
trials so far. All see the same first trials.
"""

import dataclasses
import functools
import hashlib
from collections.abc import Callable
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key, PyTree

from hpo import studies
from hpo.optformer import behaviours, suggesting, trained

__all__ = ['Behaviour', 'Choose', 'Method', 'Model', 'OptFormer', 'Random']

# The trials so far -> the codes of the next point.
Choose = Callable[[studies.Study], Float[np.ndarray, 'd']]


class Method(Protocol):
  """An optimiser; a dataclass of its settings."""

  def start(self, problem: studies.Problem, seed: int, trials: int) -> Choose:
    """Begins to optimise.

    Args:
      problem: what is optimised.
      seed: of all draws.
      trials: that there will be at most.
    """


@functools.cache
def _digest() -> str:
  if not trained.SHIPPED.exists():
    return 'absent'
  return hashlib.sha256(trained.SHIPPED.read_bytes()).hexdigest()[:12]


@functools.cache
def _shipped() -> trained.Trained:
  return trained.shipped()


@dataclasses.dataclass(frozen=True)
class Model:
  """The model of the package."""

  # Of its weights: kept runs are those of these weights.
  digest: str = dataclasses.field(default_factory=_digest)

  def load(self) -> trained.Trained:
    """Reads it, once."""
    return _shipped()


@dataclasses.dataclass(frozen=True)
class Random:
  """Uniform points."""

  def start(self, problem: studies.Problem, seed: int, trials: int) -> Choose:
    """See `Method`."""
    rng = np.random.default_rng((seed, 1))
    return lambda study: problem.space.sample(rng, 1)[0]


@dataclasses.dataclass(frozen=True)
class OptFormer:
  """OptFormer."""

  policy: suggesting.Policy = suggesting.Policy()  # How points are chosen.
  # Whether names and ranges are left out of the text; None: as the model was
  # trained.
  minimal: bool | None = None
  temperature: float | None = None  # Of the forecasts; None: as fitted.
  model: Any = dataclasses.field(default_factory=Model)  # Has `load`.

  def loaded(self) -> trained.Trained:
    """The model with these settings."""
    changes = {'minimal': self.minimal, 'temperature': self.temperature}
    changes = {name: x for name, x in changes.items() if x is not None}
    return dataclasses.replace(self.model.load(), **changes)

  def start(self, problem: studies.Problem, seed: int, trials: int) -> Choose:
    """See `Method`."""
    model, key = self.loaded(), jax.random.key(seed)

    def choose(study: studies.Study) -> Float[np.ndarray, 'd']:
      found = suggesting.suggest(
        model,
        problem,
        study.trials,
        jax.random.fold_in(key, len(study)),
        policy=self.policy,
      )
      return problem.space.codes(found.points[0])

    return choose


@dataclasses.dataclass(frozen=True)
class Behaviour:
  """An algorithm that OptFormer imitates, as its studies are made."""

  behaviour: behaviours.Behaviour  # The algorithm.

  def start(self, problem: studies.Problem, seed: int, trials: int) -> Choose:
    """See `Method`."""
    space, key = problem.space, jax.random.key(seed)
    cube = behaviours.Cube.of(space)
    memory = self.behaviour.init(cube)

    def choose(study: studies.Study) -> Float[np.ndarray, 'd']:
      nonlocal memory
      count = len(study)
      points = np.zeros((trials, len(space)), np.float32)
      points[:count] = space.to_unit(study.codes)
      gains = np.full(trials, -np.inf, np.float32)
      gains[:count] = study.gains
      history = behaviours.History(points, gains, jnp.int32(count))
      point, memory = _propose(
        self.behaviour, jax.random.fold_in(key, count), cube, history, memory
      )
      return space.from_unit(np.asarray(point)[None])[0]

    return choose


@functools.partial(jax.jit, static_argnums=0)
def _propose(
  behaviour: behaviours.Behaviour,
  key: Key[Array, ''],
  cube: behaviours.Cube,
  history: behaviours.History,
  memory: PyTree,
) -> tuple[Array, PyTree]:
  return behaviour.propose(key, cube, history, memory)
