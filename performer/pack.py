"""Makes the file of a trained protein model, from the run that trained it.

  python -m performer.pack runs/protein_shipped --output=protein.msgpack

`shipped.load` reads the file, and `performer.generate` writes with it. The
average of the parameters is taken, if the run keeps one.
"""

import argparse
from collections.abc import Sequence

import jax

import runtime
from performer import shipped
from performer.data import proteins
from runtime import commands

__all__ = ['main']


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
  parser = commands.of_run(__doc__, step='best')
  parser.add_argument('--output', type=commands.path, required=True)
  return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
  """Runs the command.

  Args:
    argv: arguments of the command; None: those of the process.
  """
  options = _arguments(argv)
  with runtime.restore(
    options.workdir,
    step=options.step,
    params=options.gin_param,
    allow_module=options.allow_module,
    devices=jax.devices()[:1],
  ) as run:
    data = getattr(run.trainer, 'data', run.trainer)
    if not isinstance(data, proteins.Proteins):
      raise ValueError(
        f'{run.workdir} must hold a protein model, got {type(data).__name__}'
      )
    trained = shipped.Trained(
      run.trainer.model, run.state.eval_params, run.state.projections, data
    )
  options.output.parent.mkdir(parents=True, exist_ok=True)
  shipped.save(options.output, trained)
  size = options.output.stat().st_size / 2**20
  print(f'{options.output}: {size:.1f} MiB, step {run.step}')


if __name__ == '__main__':
  commands.run(main)
