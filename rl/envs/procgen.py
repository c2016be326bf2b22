"""Procgen's sixteen games, in EnvPool's build.

Reference: arXiv:1912.01588; ranges of returns from github.com/openai/
  train-procgen, train_procgen/constants.py (for jumper and leaper in easy mode
  the paper prints a smallest return of 3).
"""

from typing import Any

import numpy as np
from jaxtyping import Array, Float

from rl.envs import envpool_env

__all__ = [
  'EASY_RANGES',
  'GAMES',
  'HARD_RANGES',
  'make',
  'normalized',
  'reward_scale',
]

# (return of a policy that sees nothing, largest return).
EASY_RANGES = {
  'bigfish': (1.0, 40.0),
  'bossfight': (0.5, 13.0),
  'caveflyer': (3.5, 12.0),
  'chaser': (0.5, 13.0),
  'climber': (2.0, 12.6),
  'coinrun': (5.0, 10.0),
  'dodgeball': (1.5, 19.0),
  'fruitbot': (-1.5, 32.4),
  'heist': (3.5, 10.0),
  'jumper': (1.0, 10.0),
  'leaper': (1.5, 10.0),
  'maze': (5.0, 10.0),
  'miner': (1.5, 13.0),
  'ninja': (3.5, 10.0),
  'plunder': (4.5, 30.0),
  'starpilot': (2.5, 64.0),
}

HARD_RANGES = {
  'bigfish': (0.0, 40.0),
  'bossfight': (0.5, 13.0),
  'caveflyer': (2.0, 13.4),
  'chaser': (0.5, 14.2),
  'climber': (1.0, 12.6),
  'coinrun': (5.0, 10.0),
  'dodgeball': (1.5, 19.0),
  'fruitbot': (-0.5, 27.2),
  'heist': (2.0, 10.0),
  'jumper': (1.0, 10.0),
  'leaper': (1.5, 10.0),
  'maze': (4.0, 10.0),
  'miner': (1.5, 20.0),
  'ninja': (2.0, 10.0),
  'plunder': (3.0, 30.0),
  'starpilot': (1.5, 35.0),
}

GAMES = tuple(EASY_RANGES)
_RANGES = {'easy': EASY_RANGES, 'hard': HARD_RANGES}


def _check(game: str, distribution_mode: str) -> None:
  if game not in GAMES:
    raise ValueError(f'game must be one of {GAMES}, got {game!r}')
  if distribution_mode not in _RANGES:
    raise ValueError(
      f'distribution_mode must be one of {tuple(_RANGES)}, '
      f'got {distribution_mode!r}'
    )


def normalized(
  returns: Float[Array | np.ndarray, '...'] | float,
  game: str,
  distribution_mode: str = 'easy',
) -> Float[Array | np.ndarray, '...'] | float:
  """(return - smallest) / (largest - smallest) of a game.

  The two modes have ranges of their own; the hard ones give other numbers on
  easy levels.

  Args:
    returns: undiscounted, of the raw rewards.
    game: one of GAMES.
    distribution_mode: 'easy' or 'hard'.

  Raises:
    ValueError: if there is no such game or mode.
  """
  _check(game, distribution_mode)
  low, high = _RANGES[distribution_mode][game]
  return (returns - low) / (high - low)


def reward_scale(game: str, distribution_mode: str = 'easy') -> float:
  """The factor on rewards with which the largest return of a game is 1.

  Args:
    game: one of GAMES.
    distribution_mode: 'easy' or 'hard'; their largest returns differ.

  Raises:
    ValueError: if there is no such game or mode.
  """
  _check(game, distribution_mode)
  return 1 / _RANGES[distribution_mode][game][1]


def make(
  game: str,
  num_lanes: int,
  *,
  num_levels: int = 0,
  start_level: int = 0,
  distribution_mode: str = 'easy',
  **options: Any,
) -> envpool_env.EnvPoolVector:
  """Builds lanes of a game; pictures are uint8 [64, 64, 3].

  Args:
    game: one of GAMES.
    num_lanes: n.
    num_levels: number of levels; 0: no limit.
    start_level: the first of them.
    distribution_mode: 'easy' or 'hard'.
    **options: of EnvPool and of `envpool_env.EnvPoolVector`.

  Raises:
    ImportError: if EnvPool is not installed, naming the extra.
    ValueError: if there is no such game or mode, or a number is negative.
  """
  _check(game, distribution_mode)
  if num_levels < 0 or start_level < 0:
    raise ValueError(
      f'levels must not be negative, got {num_levels=} {start_level=}'
    )
  return envpool_env.EnvPoolVector(
    f'{game.capitalize()}{distribution_mode.capitalize()}-v0',
    num_lanes,
    num_levels=num_levels,
    start_level=start_level,
    channel_first=False,
    **options,
  )
