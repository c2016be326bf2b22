"""Reproduces figures of the Performer paper about attention alone.

    python scripts/reproduce_performer.py E1 --scale tiny
    python scripts/reproduce_performer.py E2 --scale tiny
    python scripts/reproduce_performer.py E3 --scale tiny

E1: error of the output of attention over the number of features (Fig. 4), for
inputs of high and of low norm. E2: errors of the kernel estimators, closed
forms and Monte Carlo, over angle and length of the inputs (Fig. 2). E3: time
over the length of the sequence, against exact attention and against attention
that returns V (Fig. 3). Writes rows of the ledger with pictures.

`--scale paper` measures E3 at lengths that need an accelerator; E1 and E2 have
the published sizes at both scales.
"""

from collections.abc import Sequence

import reproduce_common as common
import reproduce_performer_errors as errors
import reproduce_performer_speed as speed
import reproduce_performer_theory as theory

__all__ = ['ROWS', 'main']

PAPER = '2009.14794'
ROWS: dict[str, common.Experiment] = {
  'E1': errors.rows,
  'E2': theory.rows,
  'E3': speed.rows,
}
_SEEDS = {'E1': 15, 'E2': 10, 'E3': 5}


def main(arguments: Sequence[str] | None = None) -> None:
  """Runs one experiment."""
  parser = common.parser(__doc__, ROWS, seeds=None)
  args = parser.parse_args(arguments)
  args.seeds = args.seeds or _SEEDS[args.row]
  common.publish(
    args, ROWS[args.row], script='reproduce_performer.py', paper=PAPER
  )


if __name__ == '__main__':
  main()
