"""Small mazes: walls, one goal; numbered levels, or levels that are given."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key, Shaped

from rl import ranges
from rl.envs import levels, protocol, spaces

__all__ = ['Maze', 'MazeState', 'distances']

_MOVES = np.array([[-1, 0], [1, 0], [0, -1], [0, 1]], np.int32)
# Colours of floor, wall, goal and agent, without a level's own tint.
_PALETTE = np.array(
  [[0.35, 0.35, 0.35], [0.1, 0.1, 0.1], [0.1, 0.9, 0.1], [0.9, 0.9, 0.9]],
  np.float32,
)
_LEVELS, _TINTS = 3, 4  # Purposes of a level's key.


class MazeState(NamedTuple):
  """A maze and the agent in it.

  Attributes:
    walls: row 0 at the top.
    goal: its row and column.
    start: of the agent, as `goal`.
    agent: where it is now.
    tint: added to the colours of floor, walls, goal and agent; zeros where
      observations have no colours.
    level: the level's number; -1 of a level without.
  """

  walls: Bool[Array, 'n n']
  goal: Int[Array, ' 2']
  start: Int[Array, ' 2']
  agent: Int[Array, ' 2']
  tint: Float[Array, '4 3']
  level: Int[Array, '']


def distances(
  walls: Bool[Array, 'n n'], goal: Int[Array, ' 2']
) -> Int[Array, 'n n']:
  """Steps from each cell to the goal; n * n where there is no way.

  Args:
    walls: which block.
    goal: row and column.
  """
  far = walls.size
  found = jnp.full(walls.shape, far, jnp.int32).at[tuple(goal)].set(0)

  def spread(_: Any, found: Array) -> Array:
    wide = jnp.pad(found, 1, constant_values=far)
    sides = wide[:-2, 1:-1], wide[2:, 1:-1], wide[1:-1, :-2], wide[1:-1, 2:]
    nearest = jnp.minimum(found, 1 + jnp.min(jnp.stack(sides), 0))
    return jnp.where(walls, far, nearest)

  return jax.lax.fori_loop(0, far, spread, found)


@dataclasses.dataclass(frozen=True)
class Maze:
  """Walks to the goal, which pays 1 and terminates.

  Actions are up, down, left, right; walls and the border block. In a level each
  cell is a wall with a probability; then goal and start are drawn among the free
  cells. A level is a function of its number alone.

  Attributes:
    cells: n, cells along each side.
    walls: probability of a wall.
    solvable: whether the start is drawn among cells with a way to the goal;
      otherwise some levels have none. Where no cell has one, walls vanish.
    colors: whether observations are pictures of one pixel per cell, in colours
      that each level shifts by its own tint; otherwise three planes of walls,
      goal and agent.
    tint: largest shift of a colour.
    num_levels: number of levels; 0 for no limit.
    start_level: number of the first one.
    max_steps: time limit.

  Raises:
    ValueError: if a number is out of range.
  """

  cells: int = 5
  walls: float = 0.4
  solvable: bool = True
  colors: bool = False
  tint: float = 0.3
  num_levels: int = 0
  start_level: int = 0
  max_steps: int = 32

  def __post_init__(self) -> None:
    ranges.check_counts(least=2, cells=self.cells)
    ranges.check_counts(max_steps=self.max_steps)
    ranges.check_shares(walls=self.walls, tint=self.tint)
    levels.check_levels(self.num_levels, self.start_level)

  @property
  def observation_space(self) -> spaces.Space:
    """Pictures, or planes of zeros and ones."""
    if self.colors:
      return spaces.pixels(self.cells)
    return spaces.Box((self.cells, self.cells, 3), 0.0, 1.0)

  @property
  def action_space(self) -> spaces.Space:
    """Up, down, left, right."""
    return spaces.Discrete(4)

  def reset(
    self, key: Key[Array, '']
  ) -> tuple[MazeState, Shaped[Array, 'n n 3']]:
    """Draws a level's number and builds the level."""
    number = levels.draw_level(key, self.num_levels, self.start_level)
    return self.restart(self.build(number))

  def build(self, level: Int[Array, '']) -> MazeState:
    """The level of a number, as it starts."""
    key = levels.level_key(level, _LEVELS)
    return self.draw(key, self.walls, self.cells**2)._replace(
      tint=self._tint(level), level=level.astype(jnp.int32)
    )

  def draw(
    self,
    key: Key[Array, ''],
    walls: Float[Array, ''] | float,
    distance: Float[Array, ''] | int,
  ) -> MazeState:
    """A level of given difficulty, as it starts.

    Args:
      key: of the level.
      walls: probability of a wall.
      distance: greatest number of steps from start to goal, at least 1;
        rounded down. It is read only where levels are `solvable`.
    """
    wall_key, goal_key, start_key = jax.random.split(key, 3)
    shape = self.cells, self.cells
    blocked = jax.random.uniform(wall_key, shape) < walls
    goal = _pick(goal_key, ~blocked, jnp.ones(shape, bool))
    blocked = blocked.at[tuple(goal)].set(False)
    candidates = ~blocked
    if self.solvable:
      steps = distances(blocked, goal)
      alone = jnp.sum(steps < blocked.size) < 2
      blocked = blocked & ~alone
      steps = jnp.where(alone, distances(blocked, goal), steps)
      most = jnp.clip(jnp.floor(distance), 1, blocked.size - 1)
      candidates = steps <= most
    others = jnp.ones(shape, bool).at[tuple(goal)].set(False)
    start = _pick(start_key, candidates & others, others)
    blocked = blocked.at[tuple(start)].set(False)
    tint, level = jnp.zeros((4, 3)), jnp.int32(-1)
    return MazeState(blocked, goal, start, start, tint, level)

  def _tint(self, level: Int[Array, '']) -> Float[Array, '4 3']:
    if not self.colors:
      return jnp.zeros((4, 3))
    key = levels.level_key(level, _TINTS)
    return jax.random.uniform(key, (4, 3), minval=-1) * self.tint

  def restart(
    self, state: MazeState
  ) -> tuple[MazeState, Shaped[Array, 'n n 3']]:
    """The same level from its start."""
    state = state._replace(agent=state.start)
    return state, self.observe(state)

  def step(
    self, state: MazeState, action: Int[Array, ''], key: Key[Array, '']
  ) -> tuple[MazeState, protocol.Step]:
    """Moves by one cell; draws nothing from the key."""
    del key
    goes = state.agent + jnp.asarray(_MOVES)[action]
    inside = jnp.all((goes >= 0) & (goes < self.cells))
    free = inside & ~state.walls[tuple(goes)]
    state = state._replace(agent=jnp.where(free, goes, state.agent))
    ends = jnp.all(state.agent == state.goal)
    info = {'level': state.level}
    reward = ends.astype(jnp.float32)
    return state, protocol.Step(self.observe(state), reward, ends, info)

  def observe(self, state: MazeState) -> Shaped[Array, 'n n 3']:
    """The observation of a state."""
    shape = self.cells, self.cells
    one = lambda place: jnp.zeros(shape, bool).at[tuple(place)].set(True)
    goal, agent = one(state.goal), one(state.agent)
    if not self.colors:
      planes = jnp.stack([state.walls, goal, agent], -1)
      return planes.astype(jnp.float32)
    code = jnp.where(agent, 3, jnp.where(goal, 2, state.walls))
    colors = jnp.clip(_PALETTE + state.tint, 0, 1)
    return jnp.round(255 * colors[code.astype(jnp.int32)]).astype(jnp.uint8)


def _pick(
  key: Key[Array, ''], where: Bool[Array, 'n n'], otherwise: Bool[Array, 'n n']
) -> Int[Array, ' 2']:
  """A cell among those marked, uniformly; among others if none is."""
  weight = jnp.where(where.any(), where, otherwise).reshape(-1)
  place = jax.random.categorical(key, jnp.where(weight, 0, -jnp.inf))
  return jnp.stack(jnp.divmod(place, where.shape[1])).astype(jnp.int32)
