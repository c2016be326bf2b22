r"""Tunes a Python function with OptFormer.

  python -m hpo.optformer.tune --objective=my_module:train --space=space.json \
    --trials=50 --output=runs/tuned

The objective is called with the parameters by name, and returns a number; nan
means that the trial is infeasible. The space is a file that lists the parameters, or
module:name of a `hpo.spaces.Space`:

  [{"type": "FLOAT", "name": "lr", "low": 1e-5, "high": 0.1, "scale": "LOG"},
   {"type": "INT", "name": "layers", "low": 1, "high": 8},
   {"type": "CATEGORICAL", "name": "optimizer", "values": ["sgd", "adam"]}]

Each trial is written to OUTPUT/study.jsonl at once: the same command continues, also
after an error of the objective. One process writes to OUTPUT at a time.
At the end there are trials.csv, trials.md and incumbent.png. The model is the one
that comes with the package, or a file of `hpo.optformer.pack`.
"""

import argparse
import importlib
import math
import os
import pathlib
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from hpo import spaces, studies
from hpo.optformer import asking, trained
from rl import ranges
from runtime import commands
from runtime.record import pictures, tables, workdirs

__all__ = [
  'Objective',
  'add_problem',
  'load_objective',
  'load_space',
  'main',
  'problem_of',
  'report',
  'tune',
  'value_at',
]

Objective = Callable[..., float]
MODEL_HELP = 'file; default: the one of the package'
_STUDY = 'study.jsonl'


def load_objective(name: str) -> Objective:
  """The function that 'module:function' names.

  Raises:
    ValueError: the name is malformed, or the module has no such function.
  """
  found = _named(name)
  if not callable(found):
    raise ValueError(f'an objective must be a function, got {name}: {found!r}')
  return found


def load_space(text: str) -> spaces.Space:
  """The space of a JSON file, or the one that 'module:name' names.

  Raises:
    OSError: there is no such file.
    ValueError: it describes no space.
  """
  if text.endswith('.json'):
    try:
      content = pathlib.Path(text).read_text(encoding='utf-8')
      return spaces.Space.from_json(content)
    except ValueError as error:
      raise ValueError(f'{text}: {error}') from error
  found = _named(text)
  if not isinstance(found, spaces.Space):
    raise ValueError(
      f'a space must be a .json file or a hpo.spaces.Space, got {text}: '
      f'{found!r}'
    )
  return found


def _named(name: str) -> Any:
  module, colon, attribute = name.partition(':')
  if not colon or not module or not attribute:
    raise ValueError(f'expected module:name, got {name!r}')
  try:
    found = importlib.import_module(module)
  except ModuleNotFoundError as error:
    # Not one of those that the module itself imports.
    if not error.name or not f'{module}.'.startswith(f'{error.name}.'):
      raise
    raise ValueError(f'cannot import {name}: {error}') from error
  if not hasattr(found, attribute):
    raise ValueError(f'module {module} has no {attribute!r}')
  return getattr(found, attribute)


def tune(
  optimizer: asking.Optimizer,
  objective: Objective,
  trials: int,
  folder: pathlib.Path,
) -> studies.Study:
  """Runs trials until there are enough, and writes each to the folder.

  Args:
    optimizer: with the trials that the folder has.
    objective: of the parameters by name.
    trials: in the end, those of before included.
    folder: of the study.

  Returns:
    The study.
  """
  started = len(optimizer.trials)
  begin = time.monotonic()
  while len(optimizer.trials) < trials:
    [point] = optimizer.ask()
    optimizer.tell(point, value_at(objective, point))
    study = studies.Study.of(optimizer.problem, optimizer.trials)
    _write(folder / _STUDY, study)
    done = len(optimizer.trials)
    workdirs.write_status(folder, state='running', step=done)
    pace = (time.monotonic() - begin) / (done - started)
    print(
      f'trial {done}/{trials}  value {_text(optimizer.trials[-1].value)}  '
      f'best {_text(optimizer.best and optimizer.best.value)}  '
      f'{pace * (trials - done):.0f} s left',
      flush=True,
    )
  return studies.Study.of(optimizer.problem, optimizer.trials)


def value_at(
  objective: Objective, point: Mapping[str, spaces.Value]
) -> float | None:
  """The value of an objective at a point; None: it is infeasible.

  Raises:
    RuntimeError: the objective raised an error, which is the cause.
    ValueError: the objective returned no number.
  """
  try:
    found = objective(**point)
  except Exception as error:
    raise RuntimeError(f'the objective failed at {dict(point)}') from error
  try:
    value = float(found)
  except (OverflowError, TypeError, ValueError) as error:
    raise ValueError(
      f'the objective must return a number, got {found!r} at {dict(point)}'
    ) from error
  return value if math.isfinite(value) else None


def _text(value: float | None) -> str:
  return 'infeasible' if value is None else f'{value:.6g}'


def _write(path: pathlib.Path, study: studies.Study) -> None:
  """Whole or not at all."""
  part = path.with_suffix('.part')
  studies.write(part, [study])
  os.replace(part, path)


def report(study: studies.Study, folder: pathlib.Path) -> None:
  """Writes tables of all trials and a picture of the best value so far.

  Args:
    study: with one trial or more.
    folder: to write to; the best trials are printed too.
  """
  best = np.fmax.accumulate(study.gains) * study.problem.sign
  rows: list[dict[str, Any]] = [
    {
      'trial': number,
      'value': trial.value,
      'best': None if math.isnan(best[number]) else float(best[number]),
      **{_column(name): value for name, value in trial.parameters.items()},
    }
    for number, trial in enumerate(study.trials)
  ]
  tables.write_table(rows, folder / 'trials')
  order = np.argsort(-np.nan_to_num(study.gains, nan=-np.inf), kind='stable')
  print(tables.table([rows[row] for row in order[:5]]))
  if pictures.can_draw() and np.isfinite(best).any():
    numbers = np.arange(len(study))
    pictures.quartiles(
      {'best so far': (numbers, best[None])},
      folder / 'incumbent.png',
      axes_labels=('trial', study.problem.metric or 'objective'),
    )


def _column(name: str) -> str:
  """The column of a parameter, apart from those of the results."""
  return f'{name} (parameter)' if name in ('trial', 'value', 'best') else name


def add_problem(parser: argparse.ArgumentParser) -> None:
  """Adds the options: the objective and its space, the trials, the output."""
  parser.add_argument('--objective', required=True, help='module:function')
  parser.add_argument('--space', required=True, help='.json, or module:name')
  parser.add_argument('--goal', choices=studies.GOALS, default='MINIMIZE')
  parser.add_argument('--trials', type=int, default=50, help='in the end')
  parser.add_argument('--output', type=commands.path, required=True)


def problem_of(
  options: argparse.Namespace,
) -> tuple[Objective, studies.Problem]:
  """The objective and the problem that the options of `add_problem` name.

  Modules of the current folder can be named too.
  """
  ranges.check_counts(trials=options.trials)
  sys.path.insert(0, os.getcwd())
  objective = load_objective(options.objective)
  return objective, studies.Problem(load_space(options.space), options.goal)


def main(argv: Sequence[str] | None = None) -> None:
  """Runs the command.

  Args:
    argv: arguments of the command; None: those of the process.
  """
  parser = commands.plain(__doc__)
  add_problem(parser)
  parser.add_argument('--model', type=commands.path, help=MODEL_HELP)
  parser.add_argument('--seed', type=int, default=0)
  options = parser.parse_args(argv)
  objective, problem = problem_of(options)
  with workdirs.claimed(options.output) as claim:
    optimizer = asking.Optimizer(
      trained.load(options.model) if options.model else trained.shipped(),
      problem,
      seed=options.seed,
      trials=_before(claim.folder / _STUDY, problem),
    )
    claim.keep()
    study = tune(optimizer, objective, options.trials, claim.folder)
    workdirs.write_status(claim.folder, state='finished', step=len(study))
    report(study, claim.folder)


def _before(
  path: pathlib.Path, problem: studies.Problem
) -> list[studies.Trial]:
  """The trials that are done.

  Raises:
    ValueError: they are those of another problem, or there is not one study.
  """
  if not path.exists():
    return []
  found = list(studies.read(path))
  if len(found) != 1:
    raise ValueError(
      f'{path} must hold one study, got {len(found)}; give another output, or '
      'remove it'
    )
  [study] = found
  if study.problem != problem:
    raise ValueError(
      f'{path} holds another problem; give another output, or remove it: '
      f'{study.problem} is not {problem}'
    )
  return study.trials


if __name__ == '__main__':
  commands.run(main)
