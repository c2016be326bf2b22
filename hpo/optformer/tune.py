"""Tunes a Python function with OptFormer.

  python -m hpo.optformer.tune --model=model.msgpack --trials=50 \
    --objective=my_module:train --space=space.json --output=runs/tuned

The objective is called with the parameters by name, and returns a number; nan
means that the trial is infeasible.
space.json lists the parameters:

  [{"type": "FLOAT", "name": "lr", "low": 1e-5, "high": 0.1, "scale": "LOG"},
   {"type": "INT", "name": "layers", "low": 1, "high": 8},
   {"type": "CATEGORICAL", "name": "optimizer", "values": ["sgd", "adam"]}]

Each trial is written to OUTPUT/study.jsonl at once: the same command continues.
At the end there are trials.csv, trials.md and incumbent.png.
"""

import argparse
import importlib
import json
import math
import os
import pathlib
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from hpo import spaces, studies
from hpo.optformer import asking, trained
from runtime import commands
from runtime.record import pictures, tables

__all__ = ['load_objective', 'main', 'tune']

_STUDY = 'study.jsonl'


def load_objective(name: str) -> Callable[..., float]:
  """The function that 'module:function' names.

  Raises:
    ValueError: the name is malformed, or the module has no such function.
  """
  module, colon, function = name.partition(':')
  if not colon or not module or not function:
    raise ValueError(f'an objective must be module:function, got {name!r}')
  found = getattr(importlib.import_module(module), function, None)
  if not callable(found):
    raise ValueError(f'{module} must have a function {function!r}, got {found}')
  return found


def tune(
  optimizer: asking.Optimizer,
  objective: Callable[..., float],
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
    optimizer.tell(point, _value(objective, point))
    study = studies.Study.of(optimizer.problem, optimizer.trials)
    _write(folder / _STUDY, study)
    done = len(optimizer.trials)
    pace = (time.monotonic() - begin) / (done - started)
    print(
      f'trial {done}/{trials}  value {_text(optimizer.trials[-1].value)}  '
      f'best {_text(optimizer.best and optimizer.best.value)}  '
      f'{pace * (trials - done):.0f} s left',
      flush=True,
    )
  return studies.Study.of(optimizer.problem, optimizer.trials)


def _value(
  objective: Callable[..., float], point: dict[str, spaces.Value]
) -> float | None:
  value = float(objective(**point))
  return value if math.isfinite(value) else None


def _text(value: float | None) -> str:
  return 'infeasible' if value is None else f'{value:.6g}'


def _write(path: pathlib.Path, study: studies.Study) -> None:
  """Whole or not at all."""
  part = path.with_suffix('.part')
  studies.write(part, [study])
  os.replace(part, path)


def _report(study: studies.Study, folder: pathlib.Path) -> None:
  """Tables of all trials, and a picture of the best value so far."""
  best = np.fmax.accumulate(study.gains) * study.problem.sign
  rows: list[dict[str, Any]] = [
    {
      'trial': number,
      'value': trial.value,
      'best': None if math.isnan(best[number]) else float(best[number]),
      **trial.parameters,
    }
    for number, trial in enumerate(study.trials)
  ]
  tables.write_table(rows, folder / 'trials')
  order = np.argsort(-np.nan_to_num(study.gains, nan=-np.inf), kind='stable')
  print(tables.table([rows[row] for row in order[:5]]))
  if pictures.can_draw():
    numbers = np.arange(len(study))
    pictures.quartiles(
      {'best so far': (numbers, best[None])},
      folder / 'incumbent.png',
      axes_labels=('trial', study.problem.metric or 'objective'),
    )


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--objective', required=True, help='module:function')
  parser.add_argument('--space', type=pathlib.Path, required=True)
  parser.add_argument('--model', type=pathlib.Path, required=True)
  parser.add_argument('--output', type=pathlib.Path, required=True)
  parser.add_argument('--trials', type=int, default=50)
  parser.add_argument('--goal', choices=studies.GOALS, default='MINIMIZE')
  parser.add_argument('--seed', type=int, default=0)
  return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
  """Runs the command.

  Args:
    argv: arguments of the command; None: those of the process.
  """
  options = _arguments(argv)
  sys.path.insert(0, os.getcwd())
  objective = load_objective(options.objective)
  space = spaces.Space.from_json(json.loads(options.space.read_text()))
  problem = studies.Problem(space, options.goal)
  folder = options.output
  folder.mkdir(parents=True, exist_ok=True)
  before = _before(folder / _STUDY, problem)
  optimizer = asking.Optimizer(
    trained.load(options.model), problem, seed=options.seed, trials=before
  )
  study = tune(optimizer, objective, options.trials, folder)
  _report(study, folder)


def _before(
  path: pathlib.Path, problem: studies.Problem
) -> list[studies.Trial]:
  """The trials that are done.

  Raises:
    ValueError: they are those of another problem.
  """
  if not path.exists():
    return []
  [study] = studies.read(path)
  if study.problem != problem:
    raise ValueError(
      f'{path} holds another problem; give another output, or remove it: '
      f'{study.problem} is not {problem}'
    )
  return study.trials


if __name__ == '__main__':
  commands.run(main)
