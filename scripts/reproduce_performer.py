"""Reproduces figures of the Performer paper about attention alone.

    python scripts/reproduce_performer.py E1 --scale tiny
    python scripts/reproduce_performer.py E2 --scale tiny
    python scripts/reproduce_performer.py E3 --scale tiny
    python scripts/reproduce_performer.py E4 --antibodies data/antibodies

E1: error of the output of attention over the number of features (Fig. 4), for
inputs of high and of low norm. E2: errors of the kernel estimators, closed
forms and Monte Carlo, over angle and length of the inputs (Fig. 2). E3: time
over the length of the sequence, against exact attention and against attention
that returns V (Fig. 3). E4: a pretrained protein model with its attention
exchanged, before and after a little training (Fig. 5). Writes rows of the ledger
with pictures.

`--scale paper` measures E3 at lengths that need an accelerator; the others are
the same at both scales.
"""

import functools
from collections.abc import Sequence

import reproduce_common as common
import reproduce_performer_errors as errors
import reproduce_performer_speed as speed
import reproduce_performer_theory as theory
import reproduce_performer_transfer as transfer

__all__ = ['ROWS', 'main']

PAPER = '2009.14794'
ROWS = {
  'E1': errors.rows,
  'E2': theory.rows,
  'E3': speed.rows,
  'E4': transfer.rows,
}
_SEEDS = {'E1': 15, 'E2': 10, 'E3': 5, 'E4': 3}


def main(arguments: Sequence[str] | None = None) -> None:
  """Runs one experiment."""
  parser = common.parser(__doc__, ROWS, seeds=None)
  parser.add_argument('--antibodies', help='folder of prepare_antibodies.py')
  args = parser.parse_args(arguments)
  if (args.row == 'E4') != (args.antibodies is not None):
    parser.error('the row E4, and no other, needs --antibodies')
  args.seeds = args.seeds or _SEEDS[args.row]
  experiment = ROWS[args.row]
  if args.row == 'E4':
    experiment = functools.partial(experiment, args.antibodies)
  common.publish(
    args,
    experiment,
    script='reproduce_performer.py',
    paper=PAPER,
    options=('antibodies',),
  )


if __name__ == '__main__':
  main()
