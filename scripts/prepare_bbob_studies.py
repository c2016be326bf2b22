"""Writes generated BBOB studies to ArrayRecord files, for the largest trainings.

    python scripts/prepare_bbob_studies.py --output=DIR --studies=1000000 \
      --shards=64 --processes=16 --trials=300 --dimensions=1,2,3,4

Small models need no files: `bbob_studies.BbobStudies` makes studies while training.
Study n depends on the seed and on n alone. Shard s of S holds the studies s, s + S,
s + 2 S, ... in DIR/bbob-SSSSS-of-SSSSS.array_record. Shards that exist are kept, so
that the same command continues; several hosts share the work by --first and --last,
numbers of shards.

Studies of the five held-out families, for tests, are written by --split=held_out,
and studies for validation by --split=validation.
"""

import argparse
import concurrent.futures
import functools
import multiprocessing
import os
import pathlib
from collections.abc import Sequence

from hpo.optformer import bbob_problems, bbob_studies
from rl import ranges
from runtime import commands
from runtime.data import records

__all__ = ['main', 'write_shard']

SPLITS = {
  'train': bbob_problems.TRAINED,
  'validation': bbob_problems.TRAINED,
  'held_out': bbob_problems.HELD_OUT,
}


def write_shard(
  source: bbob_studies.Source,
  split: str,
  seed: int,
  studies: int,
  path: pathlib.Path,
  shard: tuple[int, int],
) -> str:
  """Writes a shard, unless it exists.

  Args:
    source: makes the studies.
    split: in `SPLITS`.
    seed: of all studies.
    studies: of all shards.
    path: of the file.
    shard: its number, and how many there are.

  Returns:
    What was done, for the terminal.
  """
  if path.exists():
    return f'{path}: kept'
  stream = '' if split == 'train' else f'files of {split}'
  families = SPLITS[split]
  numbers = range(shard[0], studies, shard[1])
  made = (
    source.study(seed, number, stream=stream, families=families).to_bytes()
    for number in numbers
  )
  # A name of its own until it is complete, so that no part is taken for it.
  part = path.with_name(f'{path.name}.{os.getpid()}.part')
  count = records.write(str(part), made)
  part.rename(path)
  return f'{path}: {count} studies'


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--output', type=commands.path, required=True)
  parser.add_argument('--studies', type=int, required=True)
  parser.add_argument('--split', choices=sorted(SPLITS), default='train')
  parser.add_argument('--seed', type=int, default=0)
  parser.add_argument('--trials', type=int, default=300)
  parser.add_argument('--dimensions', default=','.join(map(str, range(1, 21))))
  parser.add_argument('--shards', type=int, default=1)
  parser.add_argument('--first', type=int, default=0)
  parser.add_argument('--last', type=int, help='default: all')
  parser.add_argument('--processes', type=int, default=1)
  return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
  """See the module."""
  options = _arguments(argv)
  ranges.check_counts(
    studies=options.studies, shards=options.shards, processes=options.processes
  )
  source = bbob_studies.Source(
    dimensions=tuple(map(int, options.dimensions.split(','))),
    trials=options.trials,
  )
  options.output.mkdir(parents=True, exist_ok=True)
  last = options.shards - 1 if options.last is None else options.last
  write = functools.partial(
    write_shard, source, options.split, options.seed, options.studies
  )
  # JAX does not survive a fork.
  with concurrent.futures.ProcessPoolExecutor(
    options.processes, mp_context=multiprocessing.get_context('spawn')
  ) as pool:
    jobs = []
    for number in range(options.first, last + 1):
      name = f'bbob-{number:05}-of-{options.shards:05}{records.SUFFIX}'
      shard = (number, options.shards)
      jobs.append(pool.submit(write, options.output / name, shard))
    for job in concurrent.futures.as_completed(jobs):
      print(job.result(), flush=True)


if __name__ == '__main__':
  main()
