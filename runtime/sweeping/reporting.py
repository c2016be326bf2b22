"""The report of a sweep: trials, the comparison of its members, the study."""

import json
import pathlib
from typing import Any

import numpy as np

from runtime import compare
from runtime.record import pictures, tables
from runtime.sweeping import driving

__all__ = ['study', 'trial_rows', 'write']

# Curves of more groups cannot be told apart.
_MOST_GROUPS = 8


def trial_rows(sweep: driving.Sweep) -> list[dict[str, Any]]:
  """The trials as rows of a table, in the order of asking."""
  return [_trial_row(trial, sweep.plan.metric) for trial in sweep.trials]


def _trial_row(trial: driving.Trial, metric: str) -> dict[str, Any]:
  row: dict[str, Any] = {'trial': trial.job.id, **trial.job.params}
  if trial.job.budget is not None:
    row['budget'] = trial.job.budget
  if trial.job.parent is not None:
    row['continues'] = trial.job.parent
  if metric:
    row[metric] = trial.value
  steps = [run.step for run in trial.runs if run.step is not None]
  row |= {'seeds': len(trial.runs), 'step': max(steps, default=None)}
  states = dict.fromkeys(run.status for run in trial.runs)
  return row | {'state': ', '.join(states)}


def study(sweep: driving.Sweep, name: str) -> dict[str, Any]:
  """The trials of a tuner as an object of JSON; `hpo.studies` reads it.

  Args:
    sweep: of a tuner.
    name: of the study.
  """
  plan = sweep.plan
  return {
    'space': list(plan.space),
    'goal': plan.goal,
    'name': name,
    'metric': plan.metric,
    'algorithm': plan.tuner,
    'trials': [_plain(trial) for trial in sweep.trials],
  }


def _plain(trial: driving.Trial) -> dict[str, Any]:
  parameters = dict(trial.job.params)
  if trial.value is not None:
    return {'parameters': parameters, 'value': trial.value}
  status = 'INFEASIBLE' if trial.is_over else 'PENDING'
  return {'parameters': parameters, 'status': status}


def write(sweep: driving.Sweep, folder: pathlib.Path) -> None:
  """Prints and writes `report/` of a sweep.

  The comparison has the best groups, where there are many.

  Args:
    sweep: that has ended.
    folder: of the sweep.
  """
  out = folder / 'report'
  rows = trial_rows(sweep)
  tables.write_table(rows, out / 'trials')
  print(f'\n{tables.table(rows)}')
  if sweep.plan.tuner:
    line = json.dumps(study(sweep, folder.name))
    (out / 'study.jsonl').write_text(f'{line}\n', encoding='utf-8')
    if sweep.best is not None and pictures.can_draw():
      _draw_incumbent(sweep, out / 'incumbent.png')
  found = _groups(sweep, folder)
  if found:
    compare.write(found, out)


def _groups(
  sweep: driving.Sweep, folder: pathlib.Path
) -> dict[str, list[pathlib.Path]]:
  """Folders of the runs that finished, by trial; the best ones if many."""
  groups = [
    (trial, [run for run in trial.runs if run.status == 'finished'])
    for trial in sweep.trials
  ]
  groups = [(trial, runs) for trial, runs in groups if runs]
  if sweep.plan.metric:
    sign = sweep.plan.sign
    worst = lambda value: -np.inf if value is None else sign * value
    groups.sort(key=lambda group: -worst(group[0].value))
  return {
    _label(runs[0].name): [folder / driving.RUNS / run.name for run in runs]
    for _, runs in groups[:_MOST_GROUPS]
  }


def _label(name: str) -> str:
  """A group has no seed of its own."""
  return name.rpartition('-seed')[0] or name


def _draw_incumbent(sweep: driving.Sweep, path: pathlib.Path) -> None:
  sign = sweep.plan.sign
  values = [np.nan if t.value is None else sign * t.value for t in sweep.trials]
  best = sign * np.fmax.accumulate(values)
  pictures.quartiles(
    {'best so far': (np.arange(len(best)), best[None])},
    path,
    axes_labels=('trial', sweep.plan.metric),
  )
