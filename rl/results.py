"""The report of an agent's run: a table and curves of returns, and a film."""

import functools
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Float

from rl import film as film_lib
from runtime import loop as loop_lib
from runtime.record import pictures as pictures_lib
from runtime.record import series as series_lib

__all__ = [
  'agent_name',
  'draw_returns',
  'pictures',
  'returns',
  'score_rows',
  'tables',
]

Row = series_lib.Row


def agent_name(metric: str, agent: int) -> str:
  """The metric of one of several agents, such as 'loss_agent03'."""
  return f'{metric}_agent{agent:02d}'


def returns(
  rows: Sequence[Row], name: str
) -> tuple[Float[np.ndarray, ' t'], Float[np.ndarray, 'agents t']]:
  """The returns of every agent over the steps of a run.

  Args:
    rows: of `metrics.jsonl`.
    name: of the returns' mean, such as 'eval/test/episode_return'.

  Returns:
    Steps, and returns: one row per agent, or only one; NaN where an agent
    finished no episode.
  """
  steps, mean = series_lib.series(rows, name)
  agents = []
  while any(agent_name(name, len(agents)) in row for row in rows):
    # An agent has no returns in a row in which none of its episodes ended.
    found = series_lib.series(rows, agent_name(name, len(agents)))
    at = dict(zip(*found, strict=True))
    agents.append(np.array([at.get(step, np.nan) for step in steps]))
  return steps, np.stack(agents or [mean])


def score_rows(
  rows: Sequence[Row], random: Mapping[str, Float[np.ndarray, ' e']]
) -> list[dict[str, Any]]:
  """The final table: the last returns, beside those of random actions.

  Args:
    rows: of `metrics.jsonl`.
    random: returns of random actions, by the name of the evaluation.

  Returns:
    One row per set: mean and its standard error, median and quartiles, over
    agents if there are several; of one agent's evaluation, over its episodes.
  """
  table = []
  for name in _return_names(rows):
    steps, values = returns(rows, name)
    last = values[:, -1]
    line = {'returns': name.removesuffix('/episode_return')}
    line |= {'step': int(steps[-1]), 'over': f'{len(last)} agents'}
    line |= _summary(last)
    if len(last) == 1:
      error = series_lib.series(rows, f'{name}_error')[1]
      line['over'] = 'episodes'
      line['error'] = error[-1] if error.size else None
    table.append(line)
  for name, values in random.items():
    line = {'returns': f'random actions, {name}', 'step': None}
    table.append(line | {'over': 'episodes'} | _summary(values))
  return table


def _summary(values: Float[np.ndarray, ' n']) -> dict[str, float]:
  known = values[np.isfinite(values)]
  if not known.size:
    return {}
  low, middle, high = np.percentile(known, (25, 50, 75))
  return {
    'mean': known.mean(),
    'error': known.std() / np.sqrt(known.size),
    'lower quartile': low,
    'median': middle,
    'upper quartile': high,
  }


def draw_returns(
  rows: Sequence[Row],
  path: str | os.PathLike[str],
  *,
  steps_per_iteration: int,
) -> pathlib.Path:
  """Draws returns over the steps of one agent: median and quartiles of agents.

  Args:
    rows: of `metrics.jsonl`.
    path: PNG file to write.
    steps_per_iteration: examples per step of the loop.

  Returns:
    The path.
  """
  lines = {}
  for name in _return_names(rows):
    steps, values = returns(rows, name)
    lines[name.removesuffix('/episode_return')] = (
      steps * steps_per_iteration,
      values,
    )
  labels = ('steps of an agent, or members', 'return')
  return pictures_lib.quartiles(lines, path, axes_labels=labels)


def _return_names(rows: Sequence[Row]) -> list[str]:
  names = dict.fromkeys(name for row in rows for name in row)
  return [name for name in names if name.endswith('/episode_return')]


def tables(
  rows: Sequence[Row], random: Mapping[str, Float[np.ndarray, ' e']]
) -> dict[str, list[dict[str, Any]]]:
  """The tables of a run's report; see `score_rows`."""
  return {'scores': score_rows(rows, random)}


def pictures(
  rows: Sequence[Row],
  *,
  steps_per_iteration: int,
  film: film_lib.Film | None,
  player: Callable[[], film_lib.Player],
  seed: int,
) -> dict[str, loop_lib.Draw]:
  """The pictures of a run's report.

  Args:
    rows: of `metrics.jsonl`.
    steps_per_iteration: examples per step of the loop.
    film: settings of the film; None: no film.
    player: makes what acts in the film, if there is one.
    seed: of the film's lanes and actions.
  """
  found = {}
  if _return_names(rows):
    found['returns.png'] = functools.partial(
      draw_returns, rows, steps_per_iteration=steps_per_iteration
    )
  if film is not None:
    # Once, for both files.
    shoot = functools.cache(lambda: film.shoot(player(), jax.random.key(seed)))
    found['film.gif'] = lambda path: film_lib.write_gif(
      shoot(), path, frame_s=film.frame_s
    )
    found['film.png'] = lambda path: film_lib.write_strip(shoot(), path)
  return found
