r"""Runs many members of one configuration: seeds, grids, tuners.

  python -m runtime.sweep --gin_file=configs/hpo/ufom_toy_tiny.gin --seeds=4 \
    --grid='Q=[0.0, 0.5]' --workers=2
  python -m runtime.sweep --gin_file=configs/rl/ppo_cartpole_tiny.gin \
    --space=space.json --tuner=random --trials=20 \
    --metric=eval/greedy/return --goal=MAXIMIZE

A space is a file that lists parameters; their names are gin macros or bindings:

  [{"type": "FLOAT", "name": "LEARNING_RATE", "low": 1e-4, "high": 0.1, "scale": "LOG"},
   {"type": "CATEGORICAL", "name": "ATTENTION", "values": ["@attention.Exact()"]}]

All members are loaded and built before the first one starts. Each has a workdir in
WORKDIR/members, and its output in WORKDIR/logs. A member that fails is tried again
from its last checkpoint; one whose loss is not finite is infeasible. The same
command continues a sweep that was interrupted. At the end there are tables, curves
and, for a tuner, the trials and the study in WORKDIR/report.

Members run in processes of this machine, or on a Ray cluster with --ray_address
(HOST:PORT, or 'local'), whose machines share WORKDIR.
"""

import argparse
import contextlib
import json
import os
import pathlib
import signal
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax

from runtime import commands, paths
from runtime import errors as run_errors
from runtime.config import files as files_lib
from runtime.record import tables, workdirs
from runtime.sweeping import calls as calls_lib
from runtime.sweeping import driving, plans, reporting, watching
from runtime.sweeping import members as members_lib
from runtime.sweeping import pool as pool_lib

__all__ = ['checked', 'main', 'plan_of', 'run']

_TRIALS = 20


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
  parser = commands.parser(__doc__)
  _add_points(parser.add_argument)
  _add_tuner(parser.add_argument)
  _add_machines(parser.add_argument)
  return parser.parse_args(argv)


def _add_points(add: Callable[..., Any]) -> None:
  """Options of a plan, whether a tuner chooses its points or not."""
  add(
    '--gin_file',
    action='append',
    required=True,
    help='repeat it; later ones override',
  )
  add('--workdir', help='of the sweep; default: runs/ and the names of files')
  add('--seeds', type=commands.positive, default=1, help='runs of each point')
  add(
    '--grid',
    action='append',
    default=[],
    help="such as 'Q=[0.0, 0.5]'; repeat it",
  )
  add('--metric', default='', help='of metrics.jsonl: the score is its last')
  add('--goal', choices=plans.GOALS, help='of the metric')
  add(
    '--dry_run',
    action='store_true',
    help='check and list the members, then exit',
  )


def _add_tuner(add: Callable[..., Any]) -> None:
  add(
    '--space', type=commands.path, help='.json with the parameters of a tuner'
  )
  add('--tuner', default='', help='name or module:function, with (options)')
  add(
    '--tuner_seed',
    type=commands.natural,
    default=0,
    help="of the tuner's draws",
  )
  add(
    '--trials',
    type=commands.positive,
    help=f'points of a tuner; default: {_TRIALS}',
  )
  add('--budget', default='', help="setting for a tuner's budgets: STEPS")
  add(
    '--any_order',
    action='store_true',
    help='tell the tuner results as they come',
  )


def _add_machines(add: Callable[..., Any]) -> None:
  add('--workers', type=commands.positive, default=1, help='members at a time')
  add(
    '--retries',
    type=commands.natural,
    default=2,
    help='of a member that failed',
  )
  add('--cpus', type=commands.positive, help='threads of a member')
  add('--gpus', type=commands.natural, default=0, help='GPUs of a member')
  add(
    '--resources',
    type=_resources,
    default={},
    help='of Ray, such as \'{"TPU": 4}\'',
  )
  add('--ray_address', help="HOST:PORT of a Ray cluster, or 'local'")


def _resources(text: str) -> dict[str, float]:
  """Reads numbers by name, an object of JSON."""
  try:
    found = json.loads(text)
  except ValueError:
    found = None
  numbers = found.values() if isinstance(found, dict) else [None]
  if not all(type(x) in (int, float) and x > 0 for x in numbers):
    raise argparse.ArgumentTypeError(
      f'must be positive numbers by name, as in {{"TPU": 4}}, got {text!r}'
    )
  return found


def plan_of(options: argparse.Namespace) -> plans.Plan:
  """The plan that the options describe.

  Raises:
    ValueError: options do not fit each other.
    OSError: there is no such file.
  """
  if options.tuner and options.grid:
    raise ValueError('a tuner chooses the points: drop --grid or --tuner')
  needless = [
    f'--{name}'
    for name in ('trials', 'budget', 'any_order', 'tuner_seed')
    if getattr(options, name) and not options.tuner
  ]
  if needless:
    raise ValueError(f'only a --tuner reads {", ".join(needless)}')
  return plans.Plan(
    files=tuple(str(files_lib.find(name)) for name in options.gin_file),
    params=tuple(options.gin_param),
    allow=tuple(options.allow_module),
    points=None if options.tuner else plans.grid(options.grid),
    space=plans.read_space(options.space) if options.space else (),
    tuner=options.tuner,
    seeds=options.seeds,
    metric=options.metric,
    goal=options.goal or '',
    budget=options.budget,
  )


def _folder(options: argparse.Namespace) -> pathlib.Path:
  names = [pathlib.Path(name).stem for name in options.gin_file]
  return paths.local(options.workdir or f'runs/{"-".join(names)}-sweep')


def _sweep(
  options: argparse.Namespace, plan: plans.Plan, folder: pathlib.Path
) -> driving.Sweep:
  if not plan.tuner:
    tuner, parallel, most = plans.Listed(plan.points), None, None
  else:
    tuner = plans.make_tuner(plan.tuner, plan.space, options.tuner_seed)
    parallel = -(-options.workers // plan.seeds)
    most = options.trials or _TRIALS
  return driving.Sweep(
    plan,
    folder,
    tuner,
    parallel=parallel,
    most=most,
    retries=options.retries,
    in_order=bool(plan.tuner) and not options.any_order,
  )


def _probes(plan: plans.Plan, tuner_seed: int) -> list[members_lib.Member]:
  """Members to check; of a tuner with budgets, one has the first budget."""
  found = [driving.member_of(plan, point) for point in plan.probes()]
  if plan.budget:
    # A tuner of its own: asking changes it.
    first = plans.make_tuner(plan.tuner, plan.space, tuner_seed).ask(1)[0]
    if first.budget is None:
      raise ValueError(
        f'the tuner {plan.tuner} gives no budgets: drop --budget={plan.budget}'
      )
    found.append(driving.member_of(plan, first.params, first.budget))
  return found


def checked(
  plan: plans.Plan, pool: calls_lib.Pool, log: pathlib.Path, tuner_seed: int = 0
) -> str:
  """Loads and builds members in the pool; returns the first's configuration.

  Args:
    plan: whose points are checked; of a space, its ends.
    pool: of the processes that will train.
    log: file for what the processes print.
    tuner_seed: of the tuner's draws.

  Raises:
    ValueError: a member cannot be built; names it. Or no job has a budget, but
      the plan has a setting for budgets.
  """
  found = _probes(plan, tuner_seed)
  print(f'building {len(found)} members, to find mistakes', flush=True)
  count = min(pool.workers, len(found))
  calls = {
    i: (members_lib.check, found[i::count], '' if i else plan.metric)
    for i in range(count)
  }
  done = dict(pool_lib.results(pool, calls, log=str(log)))
  for _, mistake in done.values():
    if mistake:
      raise ValueError(mistake)
  return done[0][0]


@contextlib.contextmanager
def _stoppable() -> Iterator[None]:
  """SIGTERM is Ctrl-C: members save and end, the sweep can be continued."""

  def stop(number: int, frame: object) -> None:
    del number, frame
    raise KeyboardInterrupt

  before = signal.signal(signal.SIGTERM, stop)
  try:
    yield
  finally:
    signal.signal(signal.SIGTERM, before)


def run(
  options: argparse.Namespace, plan: plans.Plan, folder: pathlib.Path
) -> driving.Sweep:
  """Runs a sweep, or continues it, and writes its report.

  Args:
    options: of the command line.
    plan: what is run.
    folder: of the sweep.

  Returns:
    The sweep, with all results.

  Raises:
    ValueError: a member cannot be built, or the folder holds another sweep or
      belongs to another process.
  """
  sweep = _sweep(options, plan, folder)
  resources = calls_lib.Resources(options.cpus, options.gpus, options.resources)
  with (
    workdirs.claimed(folder) as claim,
    pool_lib.make(
      options.workers, resources=resources, ray_address=options.ray_address
    ) as pool,
  ):
    logs = claim.folder / driving.LOGS
    logs.mkdir(exist_ok=True)
    sweep.load(checked(plan, pool, logs / 'check.txt', options.tuner_seed))
    if options.dry_run:
      return sweep
    claim.keep()
    watch = watching.Watch(sweep, folder)
    while sweep.advance(pool, 1.0):
      watch.show()
    watch.show(last=True)
    workdirs.write_status(claim.folder, state='finished')
  reporting.write(sweep, folder)
  return sweep


def main(argv: Sequence[str] | None = None) -> None:
  """Runs the command.

  Args:
    argv: arguments of the command; None: those of the process.
  """
  options = _arguments(argv)
  # The tuner computes here; accelerators belong to the members.
  jax.config.update('jax_platforms', 'cpu')
  # Members that differ in their seeds are one program; they inherit the variable.
  os.environ.setdefault('JAX_COMPILATION_CACHE_DIR', '.cache/jax')
  plan, folder = plan_of(options), _folder(options)
  try:
    with _stoppable():
      sweep = run(options, plan, folder)
  except KeyboardInterrupt:
    print(f'\nstopped; the same command continues the sweep in {folder}')
    return
  if options.dry_run:
    print(tables.table([{'member': p} | p for p in plan.probes()]))
    return
  if plan.tuner and not options.trials and len(sweep.trials) == _TRIALS:
    print(
      f'these are {_TRIALS} trials, the default; with a larger --trials the same '
      'command goes on'
    )
  failed = [run.name for run in sweep.runs if run.status == 'failed']
  if failed:
    raise run_errors.RunError(
      f'{len(failed)} of {len(sweep.runs)} members failed; see '
      f'{folder / driving.LOGS}: {", ".join(failed)}'
    )


if __name__ == '__main__':
  commands.run(main)
