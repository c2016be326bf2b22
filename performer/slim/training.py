"""Gradients of a language model by chunks, on a mesh of devices.

Every device sweeps its own sequences; gradients are summed once, after the
sweeps, and not after each chunk.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from clu import metrics as clu_metrics
from jaxtyping import Array, PyTree

from performer.models import language_model
from performer.slim import gradients, language, options, planner

__all__ = ['ChunkedLoss', 'make']

P = jax.sharding.PartitionSpec
Metrics = dict[str, clu_metrics.Metric]


@dataclasses.dataclass(frozen=True)
class ChunkedLoss:
  """The loss of a language model, with gradients by chunks.

  Attributes:
    model: as `language.problem` asks for.
    plan: the strategy and the chunk.
    mesh: devices that share sequences.
    batch_axes: mesh axes that split them; gradients need no other axis.
  """

  model: language_model.LanguageModel
  plan: planner.Candidate
  mesh: jax.sharding.Mesh
  batch_axes: tuple[str, ...]

  def value_and_grad(
    self,
    params: PyTree,
    projections: PyTree,
    batch: Mapping[str, Array],
    dropout_key: Array,
  ) -> tuple[PyTree, Metrics, PyTree]:
    """Gradients of the mean loss per target.

    Args:
      params: of the model.
      projections: random matrices.
      batch: as `language.problem` has it; sequences divide by the mesh.
      dropout_key: for all sequences of all devices.

    Returns:
      Gradients; metrics of the batch; drift per layer, the largest of all
      devices, or None without subtraction.
    """

    def sweep(
      params: PyTree, projections: PyTree, batch: Any, key: Array
    ) -> Any:
      targets = self._sum(jnp.sum(batch['weights']))
      constants = language.Constants(projections, self._own(key))
      found = gradients.slim_value_and_grad(
        language.problem(self.model),
        params,
        batch,
        chunk=self.plan.chunk,
        strategy=self.plan.strategy,
        constants=constants,
        normalizer=jnp.maximum(targets, 1.0),
      )
      drift = found.drift
      if drift is not None:
        drift = jax.lax.pmax(drift, self.batch_axes) if self._many else drift
      return self._sum(found.params), self._sum(found.metrics), drift

    return self._spread(sweep)(params, projections, batch, dropout_key)

  def metrics(
    self, params: PyTree, projections: PyTree, batch: Mapping[str, Array]
  ) -> Metrics:
    """Metrics of a batch, without dropout; also by chunks."""
    strategy = self.plan.strategy
    # Forward, all but `full` are one.
    strategy = strategy if strategy == 'full' else 'checkpoint'

    def sweep(params: PyTree, projections: PyTree, batch: Any, _: Any) -> Any:
      found = gradients.slim_apply(
        language.problem(self.model),
        params,
        batch,
        chunk=self.plan.chunk,
        strategy=strategy,
        constants=language.Constants(projections),
      )
      return self._sum(found.metrics)

    return self._spread(sweep)(params, projections, batch, None)

  @property
  def _many(self) -> bool:
    return self.mesh.size > 1

  def _sum(self, tree: PyTree) -> PyTree:
    return jax.lax.psum(tree, self.batch_axes) if self._many else tree

  def _own(self, key: Array) -> Array:
    """Masks count the rows of one device, so each has a key of its own."""
    if not self._many:
      return key
    return jax.random.fold_in(key, jax.lax.axis_index(self.batch_axes))

  def _spread(self, sweep: Any) -> Any:
    if not self._many:
      return sweep
    return jax.shard_map(
      sweep,
      mesh=self.mesh,
      in_specs=(P(), P(), P(self.batch_axes), P()),
      out_specs=P(),
      # Scans inside start from constants, which do not vary over the mesh.
      check_vma=False,
    )


def make(
  model: language_model.LanguageModel,
  config: options.Slim,
  *,
  params: PyTree,
  projections: PyTree,
  batch: Mapping[str, Any],
  mesh: jax.sharding.Mesh,
  batch_axes: tuple[str, ...],
) -> ChunkedLoss:
  """Chooses a plan for a training run.

  Args:
    model: the language model.
    config: settings of the user.
    params: shapes of its parameters.
    projections: shapes of its random matrices.
    batch: shapes of a batch, over all devices.
    mesh: the devices.
    batch_axes: mesh axes that split sequences.

  Returns:
    The loss, with its plan.

  Raises:
    ValueError: if the mesh splits anything but sequences and parameters, the
      model or the strategy does not fit, or nothing fits the budget.
  """
  shares = 1
  for axis, size in mesh.shape.items():
    if axis in batch_axes:
      shares *= size
    elif size > 1:
      raise ValueError(
        'training by chunks splits sequences over devices, not heads or '
        f'positions: mesh axis {axis} must be 1, got {size}'
      )
  local = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(
      (x.shape[0] // shares, *x.shape[1:]), x.dtype
    ),
    batch,
  )
  budget = config.memory_budget_gb
  key = jax.eval_shape(lambda: jax.random.key(0))
  chosen = planner.plan(
    language.problem(model),
    params,
    local,
    memory_budget=None if budget is None else budget * 1e9,
    strategy=config.strategy,
    chunk=config.chunk,
    constants=language.Constants(projections, key),
  ).chosen
  return ChunkedLoss(model, chosen, mesh, batch_axes)
