"""The interface of an algorithm, and the loop in which it writes a study."""

import abc
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import flax
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, PyTree

from hpo.optformer.behaviours import cube as cube_lib

__all__ = ['Behaviour', 'History', 'Stateless', 'run']

# (key, point [d]) -> the gain of the point, which is maximised.
Objective = Callable[[Key[Array, ''], Float[Array, ' d']], Float[Array, '']]


@flax.struct.dataclass
class History:
  """The trials so far, in arrays that have room for all.

  Attributes:
    points: float32 [t, d] in the unit cube; 0 behind the trials so far.
    gains: float32 [t], maximised; -inf behind the trials so far.
    count: int32, the number of trials so far.
  """

  points: Any
  gains: Any
  count: Any

  @classmethod
  def empty(cls, trials: int, width: int) -> 'History':
    """No trial yet."""
    points = jnp.zeros((trials, width))
    return cls(points, jnp.full(trials, -jnp.inf), jnp.int32(0))

  def add(self, point: Float[Array, ' d'], gain: Float[Array, '']) -> 'History':
    """With one more trial."""
    return History(
      self.points.at[self.count].set(point),
      self.gains.at[self.count].set(gain),
      self.count + 1,
    )

  @property
  def known(self) -> Array:
    """Which rows are trials, bool [t]."""
    return jnp.arange(self.gains.shape[0]) < self.count

  @property
  def best(self) -> Array:
    """The best point [d], the first of equals."""
    return self.points[jnp.argmax(self.gains)]


@runtime_checkable
class Behaviour(Protocol):
  """An algorithm that chooses one trial after the other; pure and hashable.

  It is written for one study; `jax.vmap` makes a batch.

  Attributes:
    name: of the algorithm in the metadata of studies.
  """

  @property
  def name(self) -> str:
    """See the class."""
    ...

  def init(self, cube: cube_lib.Cube) -> PyTree:
    """The memory before the first trial, kept beside the history."""
    ...

  def propose(
    self,
    key: Key[Array, ''],
    cube: cube_lib.Cube,
    history: History,
    memory: PyTree,
  ) -> tuple[Float[Array, ' d'], PyTree]:
    """The next point and memory.

    Args:
      key: of this proposal.
      cube: of the study.
      history: with room for this trial.
      memory: from the proposal before.

    Returns:
      A legal point of the cube, and a memory of the same structure.
    """
    ...


class Stateless(abc.ABC):
  """A behaviour that needs nothing but the history."""

  def init(self, cube: cube_lib.Cube) -> tuple[()]:
    """See `Behaviour`."""
    return ()

  def propose(
    self,
    key: Key[Array, ''],
    cube: cube_lib.Cube,
    history: History,
    memory: tuple[()],
  ) -> tuple[Float[Array, ' d'], tuple[()]]:
    """See `Behaviour`."""
    return self.point(key, cube, history), memory

  @abc.abstractmethod
  def point(
    self, key: Key[Array, ''], cube: cube_lib.Cube, history: History
  ) -> Float[Array, ' d']:
    """The next point; see `Behaviour.propose`."""


def run(
  behaviour: Behaviour,
  key: Key[Array, ''],
  cube: cube_lib.Cube,
  objective: Objective,
  trials: int,
) -> History:
  """One study.

  Args:
    behaviour: chooses the points.
    key: of the algorithm and of the noise.
    cube: of the study.
    objective: to be maximised.
    trials: number of trials, static.
  """

  def trial(carry: PyTree, number: Array) -> tuple[PyTree, None]:
    history, memory = carry
    first, second = jax.random.split(jax.random.fold_in(key, number))
    point, memory = behaviour.propose(first, cube, history, memory)
    gain = objective(second, point)
    return (history.add(point, gain), memory), None

  empty = History.empty(trials, cube.counts.shape[-1])
  start = (empty, behaviour.init(cube))
  (history, _), _ = jax.lax.scan(trial, start, jnp.arange(trials))
  return history
