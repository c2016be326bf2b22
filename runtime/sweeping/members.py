"""Members of a sweep: one run each, with a command line of its own.

What is here runs in the processes of a pool. `check` loads and builds members, as
a dry run does; `train` is `python -m runtime.train`.
"""

import contextlib
import dataclasses
import io
import pathlib
import runpy
import shutil
import sys
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from runtime import context
from runtime.record import workdirs

__all__ = ['Ended', 'Member', 'check', 'train']

# Seconds to wait for a process that still saves in the workdir: the sweep that
# started it was killed.
_PATIENCE = 120.0


@dataclasses.dataclass(frozen=True)
class Member:
  """A run of a sweep.

  Attributes:
    name: of its workdir's last folder.
    workdir: folder of the run.
    files: gin files.
    params: gin statements.
    allow: modules that the configuration may name.
    seed: of the run.
    parent: workdir whose run is continued; empty: none.
  """

  name: str
  workdir: str
  files: tuple[str, ...]
  params: tuple[str, ...] = ()
  allow: tuple[str, ...] = ()
  seed: int = 0
  parent: str = ''


class Ended(NamedTuple):
  """How a member ended.

  Attributes:
    status: 'finished'; 'infeasible': a step or the score was not finite;
      'refused': a mistake in its configuration; 'stopped': somebody asked it to
      save and end, and it can be continued.
    value: the last value of the metric; None unless finished.
    step: of the run.
    message: what went wrong.
  """

  status: str
  value: float | None = None
  step: int | None = None
  message: str = ''


def check(members: Sequence[Member], metric: str) -> tuple[str, str]:
  """Loads and builds members without training.

  Args:
    members: to check.
    metric: name that the evaluations of the first one must give; empty: none.

  Returns:
    The merged configuration of the first member; and the first mistake, with
    the name of its member, or an empty text.
  """
  text = ''
  for number, member in enumerate(members):
    try:
      found = _built(member, '' if number else metric)
    except (ValueError, OSError) as error:
      from runtime.config import sessions

      return text, f'{member.name}: {sessions.tell(error, root="train")}'
    text = text or found
  return text, ''


def _built(member: Member, metric: str) -> str:
  """Does what `--dry_run` does, silently; returns the merged configuration."""
  from runtime import trainer
  from runtime.config import sessions
  from runtime.devices import mesh as mesh_lib

  with sessions.session(
    trainer.train, member.files, member.params, allow=member.allow
  ) as parsed:
    with contextlib.redirect_stdout(io.StringIO()):
      parsed.build(
        workdir=member.workdir,
        seed=member.seed,
        context=context.RunContext(check_config=parsed.check, dry_run=True),
      )
    if metric.startswith('eval/'):
      found = parsed.arguments()
      mesh = found.get('mesh', mesh_lib.MeshConfig()).make()
      with found['trainer'].experiment(seed=member.seed, mesh=mesh) as opened:
        opened.check_metric(metric, setting='--metric')
    return parsed.text


def train(member: Member, metric: str) -> Ended:
  """Trains a member in its workdir, or continues there.

  Args:
    member: run to train.
    metric: name of a scalar in its `metrics.jsonl`; empty: none.

  Returns:
    How it ended.

  Raises:
    Exception: what ended the training, if it was no mistake of configuration
      and no metric that is not finite; the run can be tried again.
  """
  from runtime.record import metrics as metrics_lib

  folder = pathlib.Path(member.workdir)
  workdirs.wait_until_free(folder, _PATIENCE)
  if member.parent and not folder.exists():
    _branch(pathlib.Path(member.parent), folder)
  try:
    _launch(member)
  except metrics_lib.NonFiniteError as error:
    return Ended('infeasible', message=str(error))
  except SystemExit as stop:
    if stop.code:
      return Ended('refused')
  status = workdirs.read_status(folder)
  if status.get('state') != 'finished':
    return Ended('stopped', step=status.get('step'))
  return _scored(folder, metric, status['step'])


def _branch(parent: pathlib.Path, folder: pathlib.Path) -> None:
  """Copies a run whole or not at all."""
  part = folder.with_name(f'{folder.name}.part')
  shutil.rmtree(part, ignore_errors=True)
  left_out = shutil.ignore_patterns('report', '.lock', 'profile')
  shutil.copytree(parent, part, ignore=left_out)
  part.rename(folder)


def _launch(member: Member) -> None:
  """Does what `python -m runtime.train` does; a process does it once."""
  words = [f'--gin_file={name}' for name in member.files]
  words += [f'--gin_param={text}' for text in member.params]
  words += [f'--allow_module={name}' for name in member.allow]
  words += [f'--workdir={member.workdir}', f'--seed={member.seed}']
  if member.parent:
    words.append('--allow_config_change')
  sys.argv = ['runtime.train', *words]
  runpy.run_module('runtime.train', run_name='__main__', alter_sys=True)


def _scored(folder: pathlib.Path, metric: str, step: int) -> Ended:
  """The last value of the metric."""
  from runtime.record import series, writers

  if not metric:
    return Ended('finished', step=step)
  rows = writers.read_metrics(folder)
  _, values = series.series(rows, metric)
  if not values.size:
    known = sorted(
      {n for row in rows for n in row if not n.startswith('time/')}
    )
    message = f'the run gives no metric {metric!r}, but {", ".join(known)}'
    return Ended('refused', None, step, message)
  if not np.isfinite(values[-1]):
    return Ended('infeasible', None, step, f'{metric} is not finite')
  return Ended('finished', float(values[-1]), step)
