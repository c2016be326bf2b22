r"""The whole study of a search in one command, which may be interrupted.

    python -m nas.rl_darts.study --workdir=runs/study --seeds=3

searches, trains the distinct cells along every search from scratch, trains the
baselines, and writes two tables: all returns (study), and medians and quartiles
over seeds (summary). Both tell what networks cost; see `costs.Cost`. Every part is
a run in a folder of its own. The same command continues where it was interrupted:
finished parts are read, and the part that was running goes on from its last
checkpoint.
"""

import argparse
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

import runtime
from nas.rl_darts import costs, data, train_lib
from rl import training
from runtime import commands, context, paths
from runtime.config import sessions
from runtime.record import tables, writers

__all__ = ['COSTS', 'Part', 'cells', 'main', 'score', 'summary']

_SEARCH = 'configs/nas/rl_darts_grid_tiny.gin'
_CELL = 'configs/nas/evaluate_genotype.gin'
_BASELINES = (
  'configs/nas/rl_darts_random_tiny.gin',
  'configs/nas/rl_darts_impala_tiny.gin',
)

COSTS = ('parameters', 'multiply-adds')  # Columns of `costs.Cost`.


class Part(NamedTuple):
  """One run.

  Attributes:
    name: in the table; also that of its folder.
    gin_file: configuration.
    seed: of the run.
    gin_params: statements that override the file.
    kind: what it is of all seeds; '': the name.
  """

  name: str
  gin_file: str
  seed: int
  gin_params: tuple[str, ...] = ()
  kind: str = ''

  def folder(self, workdir: pathlib.Path) -> pathlib.Path:
    """The folder of the run."""
    return workdir / f'{self.name}-seed{self.seed}'


def cells(
  gin_file: str, seed: int, params: Sequence[str], folder: pathlib.Path
) -> Iterator[Part]:
  """The distinct cells along a finished search, from scratch.

  Args:
    gin_file: reads the macro GENOTYPE.
    seed: of the search, and of the training from scratch.
    params: statements that override the file.
    folder: of the search.
  """
  files = sorted((folder / 'report' / 'genotypes').glob('*.json'))
  digests = [data.genotype_file(path).digest() for path in files]
  for index, (path, digest) in enumerate(zip(files, digests, strict=True)):
    if digest not in digests[:index]:
      name = f'cell_{path.stem.removeprefix("iteration_")}'
      chosen = f"GENOTYPE = '{path.as_posix()}'"
      kind = 'last cell' if digest == digests[-1] else 'earlier cells'
      yield Part(name, gin_file, seed, (*params, chosen), kind)


def score(part: Part, workdir: pathlib.Path) -> dict[str, Any]:
  """A row of the table: the last evaluation of a run, its steps and minutes.

  Of several agents, such as random cells, the mean and the best return, and the
  steps of each.
  """
  rows = writers.read_metrics(part.folder(workdir))
  last: Mapping[str, float] = {}
  steps, seconds = 0, 0.0
  for row in rows:
    last = {k: v for k, v in row.items() if k.startswith('eval/')} or last
    steps = row.get('time/examples', steps)
    seconds = row.get('time/train_s', seconds)
  found: dict[str, Any] = {'part': part.name, 'seed': part.seed}
  found |= {'steps': steps, 'minutes': seconds / 60}
  for name in sorted(last):
    if name.endswith('/episode_return'):
      agents = [v for k, v in last.items() if k.startswith(f'{name}_agent')]
      label = name.removeprefix('eval/').removesuffix('/episode_return')
      found[label] = last[name]
      if agents:
        found[f'{label}, best'] = max(agents)
  return found


def _cost(folder: pathlib.Path, modules: Sequence[str]) -> dict[str, float]:
  """Columns of the networks of a finished run; none of runs without agents."""
  with runtime.restore(str(folder), allow_module=modules) as run:
    if not isinstance(run.trainer, training.AgentTrainer):
      return {}
    cost = costs.trained_cost(run.trainer, run.state)
  return dict(zip(COSTS, cost, strict=True))


def summary(
  parts: Sequence[Part], rows: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
  """Medians and quartiles of returns, of all parts of a kind; medians of costs.

  Args:
    parts: of the study.
    rows: of `score` and of the networks' costs, one for each part.
  """
  kinds: dict[str, list[Mapping[str, Any]]] = {}
  for part, row in zip(parts, rows, strict=True):
    kinds.setdefault(part.kind or part.name, []).append(row)
  found = []
  for kind, some in kinds.items():
    line: dict[str, Any] = {'part': kind, 'runs': len(some)}
    for column in some[0]:
      if column not in ('part', 'seed', 'steps', 'minutes'):
        values = [row[column] for row in some]
        low, middle, high = np.percentile(values, (25, 50, 75))
        line[column] = middle
        if column not in COSTS:
          line[f'{column}, quartiles'] = f'{low:.4g}, {high:.4g}'
    found.append(line)
  return found


def _train(part: Part, workdir: pathlib.Path, modules: Sequence[str]) -> bool:
  """Trains, or continues; False if a signal interrupted it."""
  folder = part.folder(workdir)
  print(f'== {folder}', flush=True)
  with sessions.session(
    train_lib.train, [part.gin_file], part.gin_params, allow=modules
  ) as parsed:
    result = parsed.build(
      workdir=str(folder),
      seed=part.seed,
      context=context.RunContext(
        config=parsed.text,
        operative_config=parsed.operative,
        check_config=parsed.check,
      ),
    )
  return result.finished


def _parser() -> argparse.ArgumentParser:
  parser = commands.parser(__doc__)
  parser.add_argument('--workdir', required=True, help='folder of the study')
  parser.add_argument('--seeds', type=int, default=3, help='number of seeds')
  parser.add_argument('--search', default=_SEARCH, help='gin file')
  parser.add_argument(
    '--cell', default=_CELL, help='gin file with the macro GENOTYPE'
  )
  parser.add_argument('--baseline', action='append', help='gin file; repeat it')
  parser.add_argument(
    '--search_param',
    action='append',
    default=[],
    help='statement for the search only',
  )
  return parser


def main(arguments: Sequence[str] | None = None) -> None:
  """Runs the study of the command line.

  Raises:
    ValueError: if there is no seed, or a configuration cannot be used.
  """
  args = _parser().parse_args(arguments)
  if args.seeds < 1:
    raise ValueError(f'seeds must be positive, got {args.seeds}')
  workdir = paths.local(args.workdir)
  done: list[Part] = []
  table: list[dict[str, Any]] = []
  for part in _parts(args, workdir):
    if not _train(part, workdir, args.allow_module):
      print('interrupted; the same command continues')
      return
    done.append(part)
    cost = _cost(part.folder(workdir), args.allow_module)
    table.append(score(part, workdir) | cost)
    tables.write_table(table, workdir / 'study')
    short = summary(done, table)
    tables.write_table(short, workdir / 'summary')
  print(f'\n{tables.table(table)}\n{tables.table(short)}\n{workdir}')


def _parts(args: argparse.Namespace, workdir: pathlib.Path) -> Iterator[Part]:
  """All runs in their order; cells are known once their search is finished."""
  common = tuple(args.gin_param)
  for seed in range(args.seeds):
    search = Part('search', args.search, seed, (*common, *args.search_param))
    yield search
    yield from cells(args.cell, seed, common, search.folder(workdir))
    for gin_file in args.baseline or _BASELINES:
      yield Part(pathlib.Path(gin_file).stem, gin_file, seed, common)


if __name__ == '__main__':
  commands.run(main)
