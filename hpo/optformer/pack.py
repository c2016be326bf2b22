"""Makes the file of a trained model that others use, from the run that trained it.

  python -m hpo.optformer.pack runs/optformer_shipped --output=model.msgpack

The temperature of its forecasts is fitted to studies of validation of all
algorithms; `trained.load` reads the file, and `tune --model` uses it. `--algorithm`
names the algorithm that makes its candidates.
"""

import argparse
import dataclasses
from collections.abc import Sequence

import runtime
from hpo.optformer import bbob_problems, calibrating, trained, training
from runtime import commands

__all__ = ['main']


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
  parser = commands.of_run(__doc__)
  parser.add_argument('--output', type=commands.path, required=True)
  parser.add_argument(
    '--algorithm',
    default=trained.PUBLISHED,
    help='the one that the model imitates where nothing else is said '
    '(%(default)s)',
  )
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
  ) as run:
    if not isinstance(run.trainer, training.OptFormerTrainer):
      raise ValueError(
        f'{options.workdir} must hold a run of OptFormer, got '
        f'{type(run.trainer).__name__}'
      )
    model = run.trainer.trained(run.state)
    data = run.trainer.data
    # Families that were held out stay unseen.
    names = [name for name in data.splits if name not in bbob_problems.HELD_OUT]
    validation = [s for name in names for s in data.evaluation_studies(name)]
  known = sorted({study.problem.algorithm for study in validation})
  model = dataclasses.replace(
    model, algorithm=options.algorithm, algorithms=tuple(known)
  )
  model = calibrating.fitted(model, validation)
  options.output.parent.mkdir(parents=True, exist_ok=True)
  trained.save(options.output, model)
  size = options.output.stat().st_size / 2**20
  print(
    f'{options.output}: {size:.1f} MiB, temperature {model.temperature:.2f}, '
    f'fitted to {len(validation)} studies'
  )


if __name__ == '__main__':
  commands.run(main)
