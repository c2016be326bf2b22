"""Learns outer variables by UFOM; the root of the configurations."""

from typing import Any

from hpo.ufom import results, training
from runtime import context as context_lib
from runtime import loop as loop_lib
from runtime.devices import mesh as mesh_lib

__all__ = ['train']


def train(
  *,
  workdir: str,
  trainer: training.Trainer,
  loop: loop_lib.LoopConfig,
  seed: int = 0,
  mesh: mesh_lib.MeshConfig = mesh_lib.MeshConfig(),
  context: context_lib.RunContext = context_lib.RunContext(),
) -> loop_lib.Result[Any]:
  """Trains, or continues to, and reports what was learnt and what it cost.

  Args:
    workdir: folder of the run.
    trainer: tasks, inner loop and outer optimiser.
    loop: duration and intervals, in outer steps; an example is a task.
    seed: of the start, the tasks and xi.
    mesh: how devices share the tasks.
    context: what the launcher knows.

  Returns:
    The last state and how the run ended.

  Raises:
    ValueError: if parts do not fit each other; names the values and the rule.
  """
  experiment = trainer.experiment(seed=seed, mesh=mesh.make())
  result = loop_lib.run(
    experiment, loop, workdir=workdir, seed=seed, context=context
  )
  if result.finished:
    results.report(
      workdir,
      trainer=trainer,
      state=result.state,
      seconds=result.seconds,
      argv=context.argv,
    )
  return result
