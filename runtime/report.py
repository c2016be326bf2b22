"""Writes the report of a trained run again, without training.

python -m runtime.report runs/protein_mlm_tiny

Tables, curves, pictures and films go to `WORKDIR/report`, as at the end of
training.
"""

from collections.abc import Sequence

import runtime
from runtime import commands, trainer
from runtime import loop as loop_lib

__all__ = ['main']


def main(argv: Sequence[str] | None = None) -> None:
  """Runs the command.

  Args:
    argv: arguments of the command; None: those of the process.
  """
  parser = commands.of_run(__doc__)
  options = parser.parse_args(argv)
  with runtime.restore(
    options.workdir,
    step=options.step,
    params=options.gin_param,
    allow_module=options.allow_module,
  ) as run:
    result = loop_lib.Result(run.state, run.step, True, run.seconds)
    trainer.write_report(run.experiment, result, run.workdir)


if __name__ == '__main__':
  commands.run(main)
