r"""Studies of a user, of Optuna, Vizier or a table, as data to train on.

  python -m hpo.optformer.importing optuna sqlite:///mine.db --output=mine.jsonl
  python -m hpo.optformer.importing vizier runs/studies.db --owner=attune \
    --output=mine.jsonl
  python -m hpo.optformer.importing csv runs.csv --space=space.json --metric=loss \
    --goal=MINIMIZE --study=task --output=mine.jsonl

A table has a column of each parameter, and one of the metric: a cell that is empty or
not finite means that the trial was infeasible. `--study` names the column whose values
tell studies apart; without it, all rows are one study.

The output is a file for `datasets.StudyFiles`. Studies that nothing can be learnt from
(fewer than 10 completed trials, one objective throughout, nothing that varies, lists
of more than 1000 values) are left out, and counted; so are studies of Optuna or Vizier
with several objectives, whose names are told. Trials that still run are left out too.
"""

import argparse
import collections
import csv
import dataclasses
import math
import os
import pathlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from hpo import spaces, studies
from hpo.optformer import databases, optuna, tokens, tune, vizier
from runtime import commands, optional

__all__ = ['from_optuna', 'from_table', 'from_vizier', 'main']


def from_optuna(study: Any) -> studies.Study:
  """The finished trials of a study of Optuna.

  Args:
    study: an `optuna.Study` with one objective.

  Returns:
    A study of the parameters that all completed trials have with the same range,
    and of the trials that have them all in range. Pruned and failed trials, and
    infinite values, are infeasible.

  Raises:
    ValueError: the study has several objectives, or no parameter of this kind.
  """
  space = optuna.shared_space(study)
  if not space:
    raise ValueError(
      f'the completed trials of {study.study_name!r} share no parameter '
      'that varies'
    )
  problem, columns = optuna.to_problem(study, space)
  problem = dataclasses.replace(problem, name=study.study_name)
  trials = optuna.to_trials(study.get_trials(deepcopy=False), columns, problem)
  return _finished(problem, trials)


def from_vizier(statement: Any, trials: Iterable[Any]) -> studies.Study:
  """The finished trials of a study of Vizier.

  Args:
    statement: a `vizier.pyvizier.ProblemStatement`, or a `StudyConfig`.
    trials: `vizier.pyvizier.Trial` of it.

  Returns:
    The study; completed trials without a finite value are infeasible.

  Raises:
    ValueError: the problem has several objectives, or conditional parameters.
  """
  problem = vizier.to_problem(statement)
  done = [trial for trial in trials if trial.is_completed]
  return _finished(problem, vizier.to_trials(done, problem.metric))


def from_table(
  path: str | os.PathLike[str],
  problem: studies.Problem,
  *,
  study: str | None = None,
) -> list[studies.Study]:
  """The studies of a CSV file with a header.

  Args:
    path: of the file.
    problem: its parameters and its metric name columns; others are ignored.
    study: column whose values tell studies apart; None: there is one study.

  Returns:
    The studies in the order of their first row. The values of `study` become
    their names.

  Raises:
    OSError: the file cannot be read.
    ValueError: a column is missing, or a row is no trial of the problem; names
      file and line.
  """
  found: dict[str, list[studies.Trial]] = collections.defaultdict(list)
  with open(path, encoding='utf-8-sig', newline='') as stream:
    reader = csv.DictReader(stream)
    try:
      columns = reader.fieldnames or ()
    except (csv.Error, UnicodeError) as error:
      raise ValueError(f'{path} is no table: {error}') from error
    _check_columns(path, columns, problem, study)
    try:
      for row in reader:
        name = problem.name if study is None else row[study] or ''
        found[name].append(_trial(row, problem))
    except (csv.Error, ValueError) as error:
      raise ValueError(f'{path}:{reader.line_num}: {error}') from error
  return [
    studies.Study.of(dataclasses.replace(problem, name=name), trials)
    for name, trials in found.items()
  ]


def _finished(
  problem: studies.Problem, trials: Iterable[studies.Trial]
) -> studies.Study:
  done = [trial for trial in trials if trial.status != 'PENDING']
  return studies.Study.of(problem, done)


def _check_columns(
  path: str | os.PathLike[str],
  columns: Sequence[str],
  problem: studies.Problem,
  study: str | None,
) -> None:
  needed = [p.name for p in problem.space.parameters]
  needed += [problem.metric, *filter(None, [study])]
  missing = [name for name in needed if name not in columns]
  if missing:
    raise ValueError(
      f'{path} must have the columns {needed}; {missing} are missing, '
      f'got {list(columns)}'
    )


def _trial(
  row: Mapping[str, str | None], problem: studies.Problem
) -> studies.Trial:
  """A trial of a row, whose numbers are texts."""
  point = {
    p.name: _value(p, row[p.name] or '') for p in problem.space.parameters
  }
  problem.space.codes(point)
  text = row[problem.metric] or ''
  value = _number(problem.metric, text) if text.strip() else math.nan
  if math.isfinite(value):
    return studies.Trial(point, value)
  return studies.Trial(point, None, 'INFEASIBLE')


def _value(parameter: spaces.Parameter, text: str) -> spaces.Value:
  if isinstance(parameter, spaces.Categorical):
    return text
  value = _number(parameter.name, text)
  is_whole = isinstance(parameter, spaces.Int) and value.is_integer()
  return int(value) if is_whole else value


def _number(name: str, text: str) -> float:
  try:
    return float(text)
  except ValueError:
    raise ValueError(f'{name} must be a number, got {text!r}') from None


def _of_storage(url: str) -> list[studies.Study | None]:
  """All studies of a storage of Optuna; None in place of unfit ones."""
  library = optional.load('optuna', extra='optuna')
  with databases.told(url):
    databases.check_exists(url)
    found = [
      library.load_study(study_name=name, storage=url)
      for name in library.get_all_study_names(url)
    ]
    return [_fit(study.study_name, from_optuna, study) for study in found]


def _of_database(path: pathlib.Path, owner: str) -> list[studies.Study | None]:
  """All studies of an owner of Vizier's service; None in place of unfit ones."""
  load = lambda name: optional.load(name, extra='vizier')
  vz = load('vizier.service.pyvizier')
  errors = load('vizier._src.service.custom_errors')
  with databases.told(path):
    store = databases.vizier_store(path)
    try:
      found = store.list_studies(f'owners/{owner}')
    except errors.NotFoundError as error:
      raise ValueError(f'{path} has no studies of {owner!r}') from error
    return [
      _fit(
        study.name,
        from_vizier,
        vz.StudyConfig.from_proto(study.study_spec),
        map(vz.TrialConverter.from_proto, store.list_trials(study.name)),
      )
      for study in found
    ]


def _fit(
  name: str, convert: Callable[..., studies.Study], *arguments: Any
) -> studies.Study | None:
  """A converted study; None, and a line that says why, if that is impossible."""
  try:
    return convert(*arguments)
  except ValueError as error:
    print(f'left out {name}: {error}')
    return None


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
  parser = commands.plain(__doc__)
  parts = parser.add_subparsers(dest='source', required=True)
  storage = parts.add_parser('optuna', help='all studies of a storage')
  storage.add_argument('storage', help='URL, such as sqlite:///mine.db')
  database = parts.add_parser('vizier', help="a database of Vizier's service")
  database.add_argument('database', type=commands.path)
  database.add_argument('--owner', default='attune', help='of the studies')
  table = parts.add_parser('csv', help='a table with a header')
  table.add_argument('table', type=commands.path)
  table.add_argument('--space', required=True, help='.json, or module:name')
  table.add_argument('--metric', required=True, help='column of the objective')
  table.add_argument('--goal', choices=studies.GOALS, required=True)
  table.add_argument('--study', help='column that tells studies apart')
  for part in (storage, database, table):
    part.add_argument(
      '--output',
      type=commands.path,
      required=True,
      help='file to write, .jsonl',
    )
  options = parser.parse_args(argv)
  if options.output.suffix != '.jsonl':
    parser.error(f'--output must end in .jsonl, got {options.output}')
  return options


def _read(options: argparse.Namespace) -> list[studies.Study | None]:
  if options.source == 'optuna':
    return _of_storage(options.storage)
  if options.source == 'vizier':
    return _of_database(options.database, options.owner)
  space = tune.load_space(options.space)
  problem = studies.Problem(space, options.goal, '', options.metric)
  return from_table(options.table, problem, study=options.study)


def main(argv: Sequence[str] | None = None) -> None:
  """Runs the command.

  Args:
    argv: arguments of the command; None: those of the process.

  Raises:
    ValueError: no study is left.
  """
  options = _arguments(argv)
  found = _read(options)
  usable = [study for study in found if study and tokens.is_usable(study)]
  if not usable:
    raise ValueError(
      f'none of {len(found)} studies has 10 completed trials, two different '
      'objectives and a parameter that varies'
    )
  studies.write(options.output, usable)
  trials = sum(map(len, usable))
  print(
    f'wrote {len(usable)} studies with {trials} trials to {options.output}; '
    f'left out {len(found) - len(usable)}'
  )


if __name__ == '__main__':
  commands.run(main)
