r"""Reproduces the experiments of "Sub-Linear Memory: How to Make Performers SLiM".

    python scripts/reproduce_slim.py memory --scale tiny
    python scripts/reproduce_slim.py text --scale paper --corpus ptb \
      --train_file ptb.train.txt --valid_file ptb.valid.txt
    python scripts/reproduce_slim.py text --scale paper --corpus enwik8 \
      --train_file enwik8

memory: memory, time and FLOPs against L and C. precision: errors of gradients
in chunks. copying, copying_128, text: FULL, chunks and FINE-TUNE on the copy task,
also in longer windows, and on bytes. constant: a sequence of 131072 positions.
switch: from whole sequences to chunks half way. Writes rows of the ledger with
pictures. `--scale paper` has the published sizes, for accelerators, and files of
text by path.
"""

import functools
from collections.abc import Sequence

import reproduce_common as common
import reproduce_slim_constant as constant
import reproduce_slim_curves as curves
import reproduce_slim_memory as memory
import reproduce_slim_precision as precision
import reproduce_slim_switch as switch

__all__ = ['ROWS', 'main']

PAPER = '2012.11346'
ROWS: dict[str, common.Experiment] = {
  'memory': memory.memory_rows,
  'precision': precision.precision_rows,
  'copying': curves.copying_rows,
  'copying_128': curves.long_copying_rows,
  'text': curves.text_rows,
  'constant': constant.constant_rows,
  'switch': switch.switch_rows,
}


def main(arguments: Sequence[str] | None = None) -> None:
  """Runs one experiment."""
  parser = common.parser(__doc__, ROWS)
  group = parser.add_argument_group('text')
  group.add_argument('--corpus', choices=('sample', 'ptb', 'enwik8'))
  group.add_argument('--train_file')
  group.add_argument('--valid_file')
  args = parser.parse_args(arguments)
  experiment = ROWS[args.row]
  if args.row == 'text':
    name = args.corpus or 'sample'
    if (name == 'sample') != (args.scale == 'tiny'):
      parser.error('the sample is for --scale tiny, ptb and enwik8 for paper')
    corpus = curves.Corpus(name, args.train_file, args.valid_file)
    experiment = functools.partial(experiment, corpus=corpus)
  elif args.corpus or args.train_file or args.valid_file:
    parser.error(f'files are for the row text, got {args.row}')
  common.publish(
    args,
    experiment,
    script='reproduce_slim.py',
    paper=PAPER,
    options=('corpus', 'train_file', 'valid_file'),
  )


if __name__ == '__main__':
  main()
