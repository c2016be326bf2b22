"""Drives a sweep: asks, starts, retries, tells, and keeps all of it in a file.

The file `sweep.json` is written whole after every change, so that a driver that is
killed goes on where it was: it starts the members without a result again, and
each continues from its own checkpoints.

A tuner is told results in the order in which it was asked, and is asked for the
next job when the oldest has its result. Its choices then depend on the seed and on
the number of jobs at a time, not on which run was faster.
"""

import dataclasses
import difflib
import json
import os
import pathlib
import re
from typing import Any

import numpy as np

from runtime.sweeping import calls as calls_lib
from runtime.sweeping import members as members_lib
from runtime.sweeping import plans

__all__ = ['LOGS', 'RUNS', 'Run', 'Sweep', 'Trial', 'member_of']

RUNS, LOGS = 'members', 'logs'
_FILE = 'sweep.json'
_FINAL = ('finished', 'infeasible', 'failed')


@dataclasses.dataclass
class Run:
  """A member and how it does.

  Attributes:
    name: of its folder.
    seed: of the run.
    status: 'waiting', 'running', 'finished', 'infeasible' or 'failed'.
    value: of the metric.
    step: of the run, when it ended.
    failures: so far.
    message: of the last failure.
  """

  name: str
  seed: int
  status: str = 'waiting'
  value: float | None = None
  step: int | None = None
  failures: int = 0
  message: str = ''


@dataclasses.dataclass
class Trial:
  """A job of the tuner: one point, a run for each seed.

  Attributes:
    job: what was asked for.
    runs: by seed.
    told: whether the tuner knows the score.
  """

  job: plans.Job
  runs: list[Run]
  told: bool = False

  @property
  def is_over(self) -> bool:
    """Whether all runs have ended."""
    return all(run.status in _FINAL for run in self.runs)

  @property
  def value(self) -> float | None:
    """Mean of the metric over seeds; None unless all runs finished with one."""
    values = [run.value for run in self.runs]
    if any(r.status != 'finished' for r in self.runs) or None in values:
      return None
    return float(np.mean(values))


class Sweep:
  """The state of a sweep, in its folder.

  Attributes:
    plan: what is run.
    trials: in the order of asking.

  Args:
    plan: what is run.
    folder: of the sweep.
    tuner: chooses the jobs.
    parallel: jobs at a time, if results decide the next; None: all at once.
    most: number of jobs; None: as many as the tuner has.
    retries: how often a run is started again after a failure.
    in_order: tell results in the order of asking.
  """

  def __init__(
    self,
    plan: plans.Plan,
    folder: pathlib.Path,
    tuner: plans.Tuner,
    *,
    parallel: int | None,
    most: int | None,
    retries: int,
    in_order: bool = True,
  ) -> None:
    self.plan, self.trials = plan, []
    self._folder, self._tuner = folder, tuner
    self._parallel, self._most = parallel, most
    self._retries, self._in_order = retries, in_order
    self._config = ''

  def load(self, config: str) -> None:
    """Continues the sweep of the folder, if there is one.

    Runs of a list that failed are tried again. The metric of a list may change:
    its runs are then scored anew.

    Args:
      config: merged configuration of the first member.

    Raises:
      ValueError: the folder holds another sweep, and the difference is shown, or
        its file is damaged.
    """
    self._config = config
    path = self._folder / _FILE
    if not path.exists():
      return
    try:
      saved = json.loads(path.read_text(encoding='utf-8'))
    except ValueError as error:
      raise ValueError(
        f'{path} is damaged, start anew in another --workdir: {error}'
      ) from None
    before, now = _lines(saved), _lines(self._identity())
    if before != now:
      difference = '\n'.join(
        difflib.unified_diff(
          before, now, f'{path} (the sweep there)', 'this command',
          lineterm='', n=0,
        )
      )  # fmt: skip
      raise ValueError(
        f'{self._folder} holds another sweep; choose another --workdir.\n'
        f'{difference}'
      )
    self._tuner.restore(saved['tuner'])
    self.trials = [_trial(described) for described in saved['trials']]
    for run in self.runs:
      again = self.plan.points is not None and (
        run.status == 'failed' or saved['metric'] != self.plan.metric
      )
      if again or run.status == 'running':
        run.status, run.failures = 'waiting', 0

  @property
  def runs(self) -> list[Run]:
    """The runs of all trials."""
    return [run for trial in self.trials for run in trial.runs]

  @property
  def best(self) -> Trial | None:
    """The best of all trials, whatever their budgets; None before any."""
    known = [trial for trial in self.trials if trial.value is not None]
    return max(known, key=lambda t: self.plan.sign * t.value, default=None)

  def advance(self, pool: calls_lib.Pool, seconds: float) -> bool:
    """Asks, starts, waits and tells.

    Args:
      pool: runs the members.
      seconds: the longest time to wait.

    Returns:
      Whether anything is left to do.
    """
    self._ask_and_tell()
    self._start(pool)
    if not pool.running:
      return False
    for outcome in pool.wait(seconds):
      self._note(outcome)
      self._save()
    self._ask_and_tell()
    return True

  def _ask_and_tell(self) -> None:
    """The order depends on results alone, never on when they came."""
    while self._ask() or self._tell():
      self._save()

  def _ask(self) -> bool:
    open_trials = sum(not trial.told for trial in self.trials)
    wanted = 1000 if self._parallel is None else self._parallel - open_trials
    if self._most is not None:
      wanted = min(wanted, self._most - len(self.trials))
    jobs = self._tuner.ask(wanted) if wanted > 0 else []
    for job in jobs:
      self.plan.statements(job.params, job.budget)  # Refuses a lost budget.
      names = _names(job, self.plan.seeds)
      runs = [Run(name, seed) for seed, name in enumerate(names)]
      self.trials.append(Trial(plans.Job(*job), runs))
    return bool(jobs)

  def _tell(self) -> bool:
    waiting = [trial for trial in self.trials if not trial.told]
    over = [trial for trial in waiting if trial.is_over]
    if not over or (self._in_order and over[0] is not waiting[0]):
      return False
    trial = over[0]
    score = None if trial.value is None else self.plan.sign * trial.value
    steps = [run.step for run in trial.runs if run.step is not None]
    self._tuner.tell(trial.job.id, score, max(steps, default=None))
    trial.told = True
    return True

  def _start(self, pool: calls_lib.Pool) -> None:
    for trial in self.trials:
      for run in trial.runs:
        if len(pool.running) >= pool.workers:
          return
        if run.status == 'waiting':
          run.status = 'running'
          member = self.member(trial, run)
          log = self._folder / LOGS / f'{run.name}.txt'
          pool.start(
            run.name, members_lib.train, member, self.plan.metric, log=str(log)
          )

  def member(self, trial: Trial, run: Run) -> members_lib.Member:
    """The run as a process of the pool gets it."""
    parent = ''
    if trial.job.parent is not None:
      before = self.trials[trial.job.parent].runs[run.seed]
      parent = str(self._folder / RUNS / before.name)
    made = member_of(self.plan, trial.job.params, trial.job.budget)
    return dataclasses.replace(
      made,
      name=run.name,
      workdir=str(self._folder / RUNS / run.name),
      seed=run.seed,
      parent=parent,
    )

  def _note(self, outcome: calls_lib.Outcome) -> None:
    """Writes down how a run ended; one that failed waits for its next try."""
    [run] = [run for run in self.runs if run.name == outcome.key]
    if outcome.error is not None:
      name = type(outcome.error).__name__
      self._failed(run, f'{name}: {outcome.error}', final=False)
      return
    ended: members_lib.Ended = outcome.value
    if ended.status == 'refused':
      log = self._folder / LOGS / f'{run.name}.txt'
      self._failed(run, ended.message or _refusal(log), final=True)
    elif ended.status == 'stopped':
      self._failed(run, 'it was asked to stop', final=False)
    else:
      run.status, run.message = ended.status, ended.message
      run.value, run.step = ended.value, ended.step

  def _failed(self, run: Run, message: str, *, final: bool) -> None:
    run.failures += 1
    run.message = message
    final = final or run.failures > self._retries
    run.status = 'failed' if final else 'waiting'

  def _identity(self) -> dict[str, Any]:
    plan = self.plan.described()
    if self.plan.points is not None:
      del plan['metric'], plan['goal']
    return {'plan': plan, 'config': self._config}

  def _save(self) -> None:
    """Writes the file whole or not at all."""
    trials = [
      dataclasses.asdict(trial) | {'job': trial.job._asdict()}
      for trial in self.trials
    ]
    found = self._identity() | {'metric': self.plan.metric, 'trials': trials}
    found['tuner'] = self._tuner.state()
    part = self._folder / f'{_FILE}.part'
    part.write_text(json.dumps(found), encoding='utf-8')
    os.replace(part, self._folder / _FILE)


def member_of(
  plan: plans.Plan, params: plans.Point, budget: int | None = None
) -> members_lib.Member:
  """A member without a folder, as it is checked."""
  name = ', '.join(f'{key}={value}' for key, value in params.items())
  return members_lib.Member(
    name=name or 'the configuration',
    workdir='unused',
    files=plan.files,
    params=plan.statements(params, budget),
    allow=plan.allow,
  )


def _names(job: plans.Job, seeds: int) -> list[str]:
  """Folders of a job's runs: its number and its settings, as far as they fit."""
  settings = ','.join(
    f'{name.rpartition(".")[2]}={_short(value)}'
    for name, value in job.params.items()
  )
  settings = re.sub(r'[^\w.,=+-]', '', settings)[:80]
  name = f'{job.id:03d}-{settings}'.rstrip('-,')
  return [f'{name}-seed{i}' if seeds > 1 else name for i in range(seeds)]


def _short(value: Any) -> str:
  return f'{value:.4g}' if isinstance(value, float) else str(value)


def _trial(described: dict[str, Any]) -> Trial:
  return Trial(
    plans.Job(**described['job']),
    [Run(**run) for run in described['runs']],
    described['told'],
  )


def _lines(saved: dict[str, Any]) -> list[str]:
  """The identity of a sweep, in lines that can be compared."""
  plan = json.dumps(saved['plan'], indent=1, sort_keys=True)
  return [*plan.splitlines(), *saved['config'].splitlines()]


def _refusal(path: pathlib.Path) -> str:
  """The message with which the launcher refused a configuration."""
  text = path.read_text(errors='replace')
  return text.rpartition('error: ')[2].strip()
