"""Small games that a CPU can play: procedural grid levels, and MinAtar's."""

from rl.envs import grid_levels, gymnax_env, lanes

__all__ = ['fresh_grid', 'grid', 'minatar']

_CELLS = 5  # Along each side of a grid.
_FRESH = 1_000_000  # No training has this level.


def grid(num_lanes: int, *, levels: int = 0, start: int = 0) -> lanes.Lanes:
  """Grid levels as pictures, two pixels for each cell.

  Args:
    num_lanes: n.
    levels: number of levels; 0: no limit.
    start: number of the first one.
  """
  env = grid_levels.GridLevels(
    cells=_CELLS,
    size=2 * _CELLS,
    num_levels=levels,
    start_level=start,
    max_steps=_CELLS**2,
  )
  return lanes.Lanes(env, num_lanes)


def fresh_grid(num_lanes: int) -> lanes.Lanes:
  """Grid levels that no training has seen."""
  return grid(num_lanes, start=_FRESH)


def minatar(num_lanes: int, *, name: str) -> lanes.Lanes:
  """A game of MinAtar (arXiv:1903.03176), 10 x 10, as gymnax has it."""
  return lanes.Lanes(gymnax_env.make(f'{name}-MinAtar'), num_lanes)
