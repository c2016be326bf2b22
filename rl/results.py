"""What a finished run leaves for a reader: curves, a table, a film."""

import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from absl import logging
from jaxtyping import Float

from rl import film as film_lib
from rl import training
from rl.envs import optional
from runtime.record import report as report_lib
from runtime.record import writers

__all__ = ['draw_returns', 'report', 'returns', 'score_rows']

Row = report_lib.Row


def returns(
  rows: Sequence[Row], name: str
) -> tuple[Float[np.ndarray, ' t'], Float[np.ndarray, 'agents t']]:
  """The returns of every agent over the steps of a run.

  Args:
    rows: of `metrics.jsonl`.
    name: of the returns' mean, such as 'eval/test/episode_return'.

  Returns:
    Steps, and returns: one row per agent, or only one.
  """
  steps, mean = report_lib.series(rows, name)
  agents = []
  while any(training.agent_name(name, len(agents)) in row for row in rows):
    column = training.agent_name(name, len(agents))
    agents.append(report_lib.series(rows, column)[1])
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
      error = report_lib.series(rows, f'{name}_error')[1]
      line['over'] = 'episodes'
      line['error'] = error[-1] if error.size else None
    table.append(line)
  for name, values in random.items():
    line = {'returns': f'random actions, {name}', 'step': None}
    table.append(line | {'over': 'episodes'} | _summary(values))
  return table


def _summary(values: Float[np.ndarray, ' n']) -> dict[str, float]:
  low, middle, high = np.nanpercentile(values, (25, 50, 75))
  return {
    'mean': np.nanmean(values),
    'error': np.nanstd(values) / np.sqrt(len(values)),
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
  return report_lib.quartiles(lines, path, axes_labels=labels)


def _return_names(rows: Sequence[Row]) -> list[str]:
  names = dict.fromkeys(name for row in rows for name in row)
  return [name for name in names if name.endswith('/episode_return')]


def report(
  workdir: str | os.PathLike[str],
  *,
  trainer: training.Trainer,
  state: Any,
  seed: int,
  steps_per_iteration: int,
  film: film_lib.Film | None,
  argv: Sequence[str] = (),
) -> None:
  """Prints the final table and writes `workdir/report/`; on process 0 only.

  Args:
    workdir: folder of the run.
    trainer: that ran.
    state: the last one.
    seed: of the run.
    steps_per_iteration: examples per step of the loop.
    film: what to film; None: nothing.
    argv: the command line, to show how to continue.
  """
  if jax.process_index() != 0:
    return
  folder = pathlib.Path(workdir) / 'report'
  rows = writers.read_metrics(workdir)
  if not rows:
    logging.warning('no report: there are no steps in %s', workdir)
    return
  scores = score_rows(rows, trainer.random_returns(seed))
  report_lib.write_table(scores, folder / 'scores')
  print(f'\n{report_lib.table(scores)}')
  pictures = report_lib.can_draw()
  report_lib.run_report(workdir, pictures=pictures)
  if pictures:
    draw_returns(
      rows,
      folder / 'returns.png',
      steps_per_iteration=steps_per_iteration,
    )
    if film is not None:
      _shoot(film, trainer.player(state), seed, folder / 'film.gif')
  else:
    logging.warning('no pictures: they need the extra `report` (matplotlib)')
  print(f'Curves and tables: {folder}')
  if argv:
    print(report_lib.how_to_continue('rl.train', argv))


def _shoot(
  film: film_lib.Film, player: film_lib.Player, seed: int, path: pathlib.Path
) -> None:
  try:
    frames = film.shoot(player, jax.random.key(seed))
    film_lib.write_gif(frames, path, frame_s=film.frame_s)
  except optional.RendererError as error:
    logging.warning('no film: %s', error)
  finally:
    film.env.close()
