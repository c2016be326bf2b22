r"""Reproduces the experiments of "An Ode to an ODE" (ODEtoODE).

    python scripts/reproduce_odetoode.py digits --scale tiny --seeds 5
    python scripts/reproduce_odetoode.py mnist --scale paper --mnist data/mnist

band: gradients along the depth (Lemma 4.1). retractions: orders and defects.
params: parameters of the flows. digits: pictures with fifteen corruptions, all
models and ablations. mnist: the same on MNIST, `tiny` at reduced width and
length. pendulum, swimmer: returns of policies by evolution strategies.
swimmer_levels: those of few models, for longer. Writes rows of the ledger with
pictures. `--scale paper` has the published sizes, for accelerators.
"""

import dataclasses
import functools
from collections.abc import Sequence

import reproduce_common as common
import reproduce_odetoode_band as band
import reproduce_odetoode_digits as digits
import reproduce_odetoode_parameters as parameters
import reproduce_odetoode_retractions as retractions
import reproduce_odetoode_rl as rl

from runtime.data import images as images_lib

__all__ = ['ROWS', 'main']

PAPER = '2006.11421'
ROWS: dict[str, common.Experiment] = {
  'band': band.band_rows,
  'retractions': retractions.retraction_rows,
  'params': parameters.params_rows,
  'digits': digits.digits_rows,
  'mnist': digits.digits_rows,
  'pendulum': rl.pendulum_rows,
  'swimmer': rl.swimmer_rows,
  'swimmer_levels': rl.swimmer_levels_rows,
}
# The published width, depth and epochs, and what a laptop can do of them.
_MNIST = {
  'paper': digits.Setting(
    'mnist', images_lib.mnist, 128, 100, 50_000, batch=100, rate=1e-3
  ),
  'tiny': digits.Setting(
    'mnist', images_lib.mnist, 32, 10, 1_000, batch=100, names=digits.SHORT
  ),
}


def main(arguments: Sequence[str] | None = None) -> None:
  """Runs one experiment."""
  parser = common.parser(__doc__, ROWS)
  parser.add_argument('--mnist', help='folder of prepare_mnist.py')
  args = parser.parse_args(arguments)
  experiment = ROWS[args.row]
  if (args.row == 'mnist') != (args.mnist is not None):
    parser.error('the row mnist, and no other, needs --mnist')
  if args.row == 'mnist':
    load = functools.partial(images_lib.mnist, args.mnist)
    setting = dataclasses.replace(_MNIST[args.scale], load=load)
    experiment = functools.partial(experiment, setting=setting)
  common.publish(
    args,
    experiment,
    script='reproduce_odetoode.py',
    paper=PAPER,
    options=('mnist',),
  )


if __name__ == '__main__':
  main()
