"""Lanes of several environments side by side, such as two ranges of levels."""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key, PyTree, Shaped

from rl.envs import lanes, protocol, spaces

__all__ = ['Joined', 'JoinedState']


class JoinedState(NamedTuple):
  """States of the parts, and the statistics of all lanes."""

  parts: tuple[PyTree, ...]
  stats: lanes.EpisodeStats


@dataclasses.dataclass(frozen=True)
class Joined:
  """A `protocol.VectorEnvironment` of the lanes of others, in their order.

  The logits of a bi-level search learn from the last lanes: give these levels
  that the others never see.

  Attributes:
    parts: with the same spaces, all pure or all simulators.

  Raises:
    ValueError: if there are none, or they differ in spaces or kind.
  """

  parts: tuple[protocol.VectorEnvironment, ...]

  def __post_init__(self) -> None:
    kinds = {
      (str(p.observation_space), str(p.action_space), p.pure, p.resets_at_once)
      for p in self.parts
    }
    if len(kinds) != 1:
      raise ValueError(
        'parts must have the same spaces, and all or none be pure, got '
        f'{sorted(map(str, kinds))}'
      )

  @property
  def num_lanes(self) -> int:
    """Of all parts."""
    return sum(part.num_lanes for part in self.parts)

  @property
  def observation_space(self) -> spaces.Space:
    """Of a lane."""
    return self.parts[0].observation_space

  @property
  def action_space(self) -> spaces.Space:
    """Of a lane."""
    return self.parts[0].action_space

  @property
  def pure(self) -> bool:
    """See `protocol.VectorEnvironment`."""
    return self.parts[0].pure

  @property
  def resets_at_once(self) -> bool:
    """See `protocol.VectorEnvironment`."""
    return self.parts[0].resets_at_once

  def _split(self, x: Array | np.ndarray) -> list[Array | np.ndarray]:
    ends = np.cumsum([part.num_lanes for part in self.parts])
    starts = [0, *ends[:-1]]
    return [x[a:b] for a, b in zip(starts, ends, strict=True)]

  def _join(self, trees: Sequence[PyTree]) -> PyTree:
    concatenate = (jnp if self.pure else np).concatenate
    return jax.tree.map(lambda *leaves: concatenate(leaves), *trees)

  def reset(
    self, keys: Key[Array, ' n']
  ) -> tuple[JoinedState, Shaped[Array, 'n ...']]:
    """See `protocol.VectorEnvironment`."""
    found = [
      part.reset(some)
      for part, some in zip(self.parts, self._split(keys), strict=True)
    ]
    states, shown = zip(*found, strict=True)
    return self._state(states), self._join(shown)

  def _state(self, states: Sequence[Any]) -> JoinedState:
    return JoinedState(
      tuple(states), self._join([state.stats for state in states])
    )

  def step(
    self, state: JoinedState, action: Shaped[Array | np.ndarray, 'n ...']
  ) -> tuple[JoinedState, protocol.Transition]:
    """See `protocol.VectorEnvironment`."""
    found = [
      part.step(one, some)
      for part, one, some in zip(
        self.parts, state.parts, self._split(action), strict=True
      )
    ]
    states, seen = zip(*found, strict=True)
    return self._state(states), self._join(seen)

  def close(self) -> None:
    """Closes all parts."""
    for part in self.parts:
      part.close()
