"""Procedural grid levels: coins, hazards, walls and a goal."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Int8, Key, UInt8

from rl.envs import levels, protocol, scenes, spaces

__all__ = ['COIN', 'FLOOR', 'GOAL', 'HAZARD', 'WALL', 'GridLevels', 'GridState']

FLOOR, WALL, COIN, HAZARD, GOAL = range(5)
GOAL_REWARD = 10.0
_MOVES = np.array([[0, 0], [-1, 0], [1, 0], [0, -1], [0, 1]], np.int32)
# Colours of walls, coins, hazards and goal, and of the floor.
_COLORS = [
  [0.45, 0.4, 0.5],
  [0.95, 0.8, 0.1],
  [0.8, 0.15, 0.1],
  [0.2, 0.7, 0.3],
]
_FLOOR = [[[0.1, 0.1, 0.15]]]
_AGENT = [[0.3, 0.6, 1.0]]


class GridState(NamedTuple):
  """The cells, the agent and the level.

  Attributes:
    cells: codes FLOOR, WALL, COIN, HAZARD, GOAL; row 0 at the top.
    agent: its row and column.
    level: the level's number.
  """

  cells: Int8[Array, 'n n']
  agent: Int[Array, ' 2']
  level: Int[Array, '']


@dataclasses.dataclass(frozen=True)
class GridLevels:
  """Walks on a grid: collect coins, reach the goal, avoid hazards.

  Actions are stay, up, down, left, right; walls and the border block. A coin
  gives 1 and is gone, the goal gives 10 and terminates, a hazard terminates
  with 0. A level is a function of its number alone: start and goal are drawn
  among all cells, a random shortest way between them is kept free of walls and
  hazards, and each other cell is a wall with probability 1/4, else a hazard
  with 1/10; coins lie on a tenth of what is free, the way included. Coins
  behind walls may be out of reach; the goal never is. Levels are chosen as in Procgen
  (arXiv:1912.01588); the game is this project's own.

  Attributes:
    cells: n, cells along each side.
    size: pixels along each side of the picture.
    num_levels: number of levels; 0 for no limit.
    start_level: number of the first one.
    max_steps: time limit.

  Raises:
    ValueError: if cells < 3, size < cells or 8, or the range of levels does
      not exist.
  """

  cells: int = 9
  size: int = 36
  num_levels: int = 0
  start_level: int = 0
  max_steps: int = 100

  def __post_init__(self) -> None:
    scenes.check_size(self.size)
    levels.check_levels(self.num_levels, self.start_level)
    if not 3 <= self.cells <= self.size:
      raise ValueError(
        f'cells must be between 3 and size, got {self.cells=} {self.size=}'
      )

  @property
  def observation_space(self) -> spaces.Space:
    """Pictures."""
    return spaces.pixels(self.size)

  @property
  def action_space(self) -> spaces.Space:
    """Stay, up, down, left, right."""
    return spaces.Discrete(5)

  def reset(
    self, key: Key[Array, '']
  ) -> tuple[GridState, UInt8[Array, 's s 3']]:
    """Draws a level's number and builds the level."""
    level = levels.draw_level(key, self.num_levels, self.start_level)
    state = self.build(level)
    return state, scenes.picture(self, state)

  def build(self, level: Int[Array, '']) -> GridState:
    """The level of a number, as it starts."""
    ends, way, fill, coin = jax.random.split(levels.level_key(level, 2), 4)
    count = self.cells**2
    start, goal = jax.random.choice(ends, count, (2,), replace=False)
    start, goal = (jnp.stack(jnp.divmod(x, self.cells)) for x in (start, goal))
    free = _shortest_way(way, start, goal, self.cells)
    drawn = jax.random.uniform(fill, (self.cells, self.cells))
    coins = jax.random.uniform(coin, drawn.shape) < 0.1
    blocked = jnp.where(drawn < 0.25, WALL, FLOOR)
    blocked = jnp.where((drawn >= 0.25) & (drawn < 0.325), HAZARD, blocked)
    cells = jnp.where(free, FLOOR, blocked)
    cells = jnp.where(coins & (cells == FLOOR), COIN, cells)
    cells = cells.at[tuple(start)].set(FLOOR).at[tuple(goal)].set(GOAL)
    return GridState(
      cells.astype(jnp.int8), start.astype(jnp.int32), level.astype(jnp.int32)
    )

  def step(
    self, state: GridState, action: Int[Array, ''], key: Key[Array, '']
  ) -> tuple[GridState, protocol.Step]:
    """Moves by one cell; draws nothing from the key."""
    del key
    goes = state.agent + jnp.asarray(_MOVES)[action]
    inside = jnp.all((goes >= 0) & (goes < self.cells))
    blocked = state.cells[tuple(goes)] == WALL
    agent = jnp.where(inside & ~blocked, goes, state.agent)
    found = state.cells[tuple(agent)]
    reward = GOAL_REWARD * (found == GOAL) + 1.0 * (found == COIN)
    ends = (found == GOAL) | (found == HAZARD)
    left = jnp.where(found == COIN, FLOOR, found).astype(jnp.int8)
    cells = state.cells.at[tuple(agent)].set(left)
    state = GridState(cells, agent, state.level)
    image = scenes.picture(self, state)
    info = {'level': state.level}
    return state, protocol.Step(image, reward.astype(jnp.float32), ends, info)

  def scene(
    self, state: GridState, points: Float[Array, 'h w 2']
  ) -> scenes.Scene:
    """Cells and the agent; beyond the border there is wall."""
    column = (points[..., 0] + 1) * self.cells / 2
    row = (1 - points[..., 1]) * self.cells / 2
    i, j = (jnp.floor(x).astype(jnp.int32) for x in (row, column))
    inside = (jnp.minimum(i, j) >= 0) & (jnp.maximum(i, j) < self.cells)
    i, j = (jnp.clip(x, 0, self.cells - 1) for x in (i, j))
    code = jnp.where(inside, state.cells[i, j], WALL)
    width = scenes.pixel_width(points) * self.cells / 2
    disc = jnp.sqrt((row - i - 0.5) ** 2 + (column - j - 0.5) ** 2)
    disc = scenes.cover(disc - 0.3, width)
    down, right = row - state.agent[0] - 0.5, column - state.agent[1] - 0.5
    agent = scenes.cover(jnp.sqrt(down**2 + right**2) - 0.4, width)
    codes = code == jnp.array([WALL, COIN, HAZARD, GOAL])[:, None, None]
    shape = jnp.where(code == COIN, disc, 1.0)
    coverage = jnp.concatenate([codes * shape, agent[None]])
    palette = jnp.array(_COLORS + _AGENT)
    return scenes.Scene(jnp.array(_FLOOR), coverage, palette)


def _shortest_way(
  key: Key[Array, ''],
  start: Int[Array, ' 2'],
  goal: Int[Array, ' 2'],
  cells: int,
) -> Array:
  """Marks a random monotone way from start to goal, boolean [n, n]."""
  down, right = goal - start
  steps = jnp.arange(2 * cells - 2)
  vertical = steps < jnp.abs(down)
  horizontal = ~vertical & (steps < jnp.abs(down) + jnp.abs(right))
  moves = jnp.stack([vertical * jnp.sign(down), horizontal * jnp.sign(right)])
  moves = jax.random.permutation(key, moves, axis=1)
  path = start[:, None] + jnp.cumsum(moves, axis=1)
  return jnp.zeros((cells, cells), bool).at[tuple(path)].set(True)
