r"""Evaluates a trained run, from its workdir alone.

  python -m runtime.evaluate runs/protein_mlm_tiny
  python -m runtime.evaluate runs/ppo_cartpole_tiny --step best --episodes 100
  python -m runtime.evaluate runs/protein_mlm_tiny --split test --report /tmp/x

It prints the scores of every evaluator, or of the one that `--split` names. With
`--report` it also writes tables, curves, pictures and films, as the end of
training does.
"""

import argparse
from collections.abc import Sequence
from typing import Any

import jax

import runtime
from runtime import commands, trainer
from runtime import loop as loop_lib
from runtime.record import tables

__all__ = ['main', 'scores']


def scores(run: Any, split: str | None = None) -> list[dict[str, Any]]:
  """The scores of a restored run as rows of a table.

  Args:
    run: of `runtime.restore`.
    split: name of an evaluator; None: all evaluators that run in training.

  Returns:
    A row per metric.

  Raises:
    ValueError: if there is no such evaluator.
  """
  experiment = run.experiment
  found = experiment.evaluators
  if split is not None:
    known = {**experiment.evaluators, **experiment.on_request}
    if split not in known:
      raise ValueError(f'no split {split!r}; there are {sorted(known)}')
    found = {split: known[split]}
  return [
    {'split': name, 'metric': metric, 'value': float(value)}
    for name, evaluate in found.items()
    for metric, value in evaluate(run.state).items()
  ]


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
  parser = commands.of_run(__doc__)
  parser.add_argument('--split', help='the one evaluator to run; default: all')
  parser.add_argument('--episodes', type=int, help='of agents; default: as set')
  parser.add_argument(
    '--report', type=commands.path, help='folder to write a report to'
  )
  return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
  """Runs the command.

  Args:
    argv: arguments of the command; None: those of the process.
  """
  options = _arguments(argv)
  settings = {}
  if options.episodes is not None:
    settings['eval_episodes'] = options.episodes
  with runtime.restore(
    options.workdir,
    step=options.step,
    params=options.gin_param,
    allow_module=options.allow_module,
    **settings,
  ) as run:
    rows = scores(run, options.split)
    if jax.process_index() == 0:
      print(f'{options.workdir}, step {run.step}\n\n{tables.table(rows)}')
    if options.report is not None:
      result = loop_lib.Result(run.state, run.step, True, run.seconds)
      trainer.write_report(
        run.experiment, result, run.workdir, folder=options.report
      )


if __name__ == '__main__':
  commands.run(main)
