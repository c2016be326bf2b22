"""Trains agents, strategies and studies; the root of the configurations."""

from typing import Any

from rl import film as film_lib
from rl import results, training
from runtime import context as context_lib
from runtime import loop as loop_lib
from runtime.devices import mesh as mesh_lib

__all__ = ['train']


def train(
  *,
  workdir: str,
  trainer: training.Trainer | training.Study,
  loop: loop_lib.LoopConfig,
  seed: int = 0,
  mesh: mesh_lib.MeshConfig = mesh_lib.MeshConfig(),
  film: film_lib.Film | None = None,
  context: context_lib.RunContext = context_lib.RunContext(),
) -> loop_lib.Result[Any]:
  """Trains, or continues to, and reports what was learnt.

  Args:
    workdir: folder of the run.
    trainer: what learns, and in which environments or from which data.
    loop: duration and intervals; an example is a step of a lane for agents, a
      member of the population for evolution strategies.
    seed: of parameters, environments and exploration.
    mesh: how devices share the work.
    film: makes a film of what was learnt; None: none. Studies have none.
    context: what the launcher knows.

  Returns:
    The last state and how the run ended.

  Raises:
    ValueError: if parts do not fit each other; names the values and the rule.
  """
  if film is not None and not isinstance(trainer, training.Trainer):
    raise ValueError(f'nobody acts in {type(trainer).__name__}: film = None')
  try:
    experiment = trainer.experiment(seed=seed, mesh=mesh.make())
    result = loop_lib.run(
      experiment, loop, workdir=workdir, seed=seed, context=context
    )
    if result.finished and isinstance(trainer, training.Study):
      trainer.report(workdir, result.state, argv=context.argv)
    elif result.finished:
      results.report(
        workdir,
        trainer=trainer,
        state=result.state,
        seed=seed,
        steps_per_iteration=experiment.batch_size,
        film=film,
        argv=context.argv,
      )
    return result
  finally:
    trainer.close()
