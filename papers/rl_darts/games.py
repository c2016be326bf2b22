"""Small games that a CPU can play: procedural grid levels, and MinAtar's."""

from rl.envs import grid_levels, gymnax_env, lanes

__all__ = ['fresh_grid', 'grid', 'minatar']

_FRESH = 1_000_000  # No training has this level.


def grid(
  num_lanes: int, *, levels: int = 0, start: int = 0, cells: int = 5
) -> lanes.Lanes:
  """Grid levels as pictures, two pixels for each cell.

  Args:
    num_lanes: n.
    levels: number of levels; 0: no limit.
    start: number of the first one.
    cells: along each side.
  """
  env = grid_levels.GridLevels(
    cells=cells,
    size=2 * cells,
    num_levels=levels,
    start_level=start,
    max_steps=cells**2,
  )
  return lanes.Lanes(env, num_lanes)


def fresh_grid(num_lanes: int) -> lanes.Lanes:
  """Grid levels that no training has seen."""
  return grid(num_lanes, start=_FRESH)


def minatar(num_lanes: int, *, name: str) -> lanes.Lanes:
  """A game of MinAtar (arXiv:1903.03176), 10 x 10, as gymnax has it."""
  return lanes.Lanes(gymnax_env.make(f'{name}-MinAtar'), num_lanes)
