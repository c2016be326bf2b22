"""The compiled programs of an experiment, and one step by them."""

from typing import Any, Generic, TypeVar

import jax

from runtime.devices import mesh as mesh_lib
from runtime.loop.experiment import Experiment
from runtime.record import metrics as metrics_lib

__all__ = ['Program', 'abstract_state']

State = TypeVar('State')


def abstract_state(experiment: Experiment[State]) -> State:
  """Shapes, dtypes and shardings of an experiment's state."""
  return jax.tree.map(
    lambda leaf, sharding: jax.ShapeDtypeStruct(
      leaf.shape, leaf.dtype, sharding=sharding
    ),
    jax.eval_shape(experiment.init),
    experiment.shardings,
  )


class Program(Generic[State]):
  """Compiles the step of an experiment once, and takes steps.

  Attributes:
    packing: reads the metrics that `step` returns as one vector.

  Args:
    experiment: experiment to train.
  """

  def __init__(self, experiment: Experiment[State]):
    self._experiment = experiment
    self.packing = metrics_lib.Packing()
    mesh, shardings = experiment.mesh, experiment.shardings
    self._init = jax.jit(experiment.init, out_shardings=shardings)
    self._step = jax.jit(
      self._packed_step,
      donate_argnums=0,
      in_shardings=(shardings, mesh_lib.batch_sharding(mesh)),
      out_shardings=(shardings, mesh_lib.replicated(mesh)),
    )
    self._refresh = None
    if experiment.refresh is not None:
      self._refresh = jax.jit(
        experiment.refresh,
        donate_argnums=0,
        in_shardings=(shardings,),
        out_shardings=shardings,
      )

  def _packed_step(self, state: State, batch: Any) -> tuple[State, jax.Array]:
    state, metrics = self._experiment.step(state, batch)
    return state, self.packing.pack(metrics)

  def init(self) -> State:
    """The state before the first step."""
    return self._init()

  def prepare(self, state: State, step: int) -> tuple[State, Any]:
    """Prepares a step: refresh, observe, draw a batch.

    Args:
      state: after `step` steps; its buffers may be taken over.
      step: finished steps.

    Returns:
      The state, refreshed if a refresh is due, and a batch on the mesh.
    """
    interval = self._experiment.refresh_every
    if interval and step and step % interval == 0:
      state = self._refresh(state)
    if self._experiment.observe is not None:
      self._experiment.observe(state)
    batch = next(self._experiment.batches)
    return state, mesh_lib.place_batch(self._experiment.mesh, batch)

  def step(self, state: State, batch: Any) -> tuple[State, jax.Array]:
    """One step.

    Args:
      state: before it; its buffers are taken over.
      batch: on the mesh.

    Returns:
      The state after the step, and its metrics, packed.
    """
    return self._step(state, batch)
