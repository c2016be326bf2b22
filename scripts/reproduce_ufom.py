r"""Reproduces "UFOM: unbiased first-order methods" (arXiv:2106.02487).

    python scripts/reproduce_ufom.py divergence --scale tiny
    python scripts/reproduce_ufom.py hypercleaning --scale paper --mnist DIR

divergence: first order does not converge on the counter-example. q: D2, V2 and
the best q against the inner rate. adaptive: cost with adaptive q, of the same
problem. hypercleaning: wrong labels, and adaptive q. fewshot: accuracy at equal
cost on digits, or on characters or emoji with --glyphs. rates: learning rates of a
small Performer. memory: what the compiler plans against r. Writes rows of the
ledger with pictures. `--scale paper` has the published sizes.
"""

import functools
from collections.abc import Sequence

import reproduce_common as common
import reproduce_ufom_adaptive as adaptive
import reproduce_ufom_fewshot as fewshot
import reproduce_ufom_hypercleaning as hypercleaning
import reproduce_ufom_memory as memory
import reproduce_ufom_rates as rates
import reproduce_ufom_synthetic as synthetic

__all__ = ['ROWS', 'main']

PAPER = '2106.02487'
ROWS: dict[str, common.Experiment] = {
  'divergence': synthetic.divergence_rows,
  'q': synthetic.q_rows,
  'adaptive': adaptive.adaptive_rows,
  'hypercleaning': hypercleaning.hypercleaning_rows,
  'fewshot': fewshot.fewshot_rows,
  'rates': rates.rates_rows,
  'memory': memory.memory_rows,
}
_FOLDERS = {'mnist': 'hypercleaning', 'glyphs': 'fewshot'}


def main(arguments: Sequence[str] | None = None) -> None:
  """Runs one experiment."""
  parser = common.parser(__doc__, ROWS)
  parser.add_argument('--mnist', help='folder of scripts/prepare_mnist.py')
  parser.add_argument('--glyphs', help='file of scripts/prepare_glyphs.py')
  args = parser.parse_args(arguments)
  experiment = ROWS[args.row]
  for name, row in _FOLDERS.items():
    path = getattr(args, name)
    if path is not None and args.row != row:
      parser.error(f'--{name} is for the row {row}, got {args.row}')
    if path is not None:
      experiment = functools.partial(experiment, **{name: path})
  common.publish(
    args,
    experiment,
    script='reproduce_ufom.py',
    paper=PAPER,
    options=tuple(_FOLDERS),
  )


if __name__ == '__main__':
  main()
