"""Learning of a language model as pure functions of its state."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np
import optax
from clu import metrics as clu_metrics
from flax import linen as nn
from jaxtyping import Array, Float, PyTree

from performer import attention, objective
from performer.models import language_model, parallel
from performer.slim import training as slim_training
from runtime import optimizers
from runtime.devices import mesh as mesh_lib
from runtime.record import metrics as metrics_lib

__all__ = [
  'DRIFT',
  'Batch',
  'Learner',
  'TrainState',
  'evaluator',
  'state_shardings',
]

Batch = Mapping[str, Any]
Metrics = dict[str, clu_metrics.Metric]

# Metrics of subtraction, by layer: see `performer.slim.drift`.
DRIFT = 'drift_layer'


@flax.struct.dataclass
class TrainState:
  """Everything that a step changes or draws from.

  The fields hold arrays; the same tree also carries their shapes or shardings.

  Attributes:
    step: finished steps, an int32 scalar.
    params: parameters of the model.
    opt_state: state of the optimiser.
    projections: random matrices of the attention, those of the last redrawing;
      None for attention without them. `Learner.draw_projections` has those of
      any step.
    key: the key that all randomness of the run is folded from.
  """

  step: PyTree
  params: PyTree
  opt_state: PyTree
  projections: PyTree
  key: PyTree

  @property
  def eval_params(self) -> PyTree:
    """The parameters to judge: their average, if the optimiser keeps one."""
    return optimizers.averaged_params(self.params, self.opt_state)


@dataclasses.dataclass(frozen=True)
class Learner:
  """The pure functions of one training run: state, step, metrics.

  Attributes:
    model: the language model, with its attention for one device.
    optimizer: from optax.
    seed: of parameters, dropout and random matrices.
    mesh: devices that share sequences and heads of the attention; None: one.
    chunked: computes gradients by chunks; None: the sequence at once.
  """

  model: language_model.LanguageModel
  optimizer: optax.GradientTransformation
  seed: int
  mesh: jax.sharding.Mesh | None = None
  chunked: slim_training.ChunkedLoss | None = None

  def init_boxed(self) -> PyTree:
    """Parameters that carry the names of their logical axes."""
    # Parameters do not depend on the mechanism; the exact one takes a batch
    # of any size on any mesh.
    model = self.model.clone(attention=attention.Exact())
    token = jnp.zeros((1, 1), jnp.int32)
    variables = model.init(
      _keys(jax.random.key(self.seed))[0],
      token,
      mask=token == 0,
      projections=None,
    )
    return variables['params']

  def init(self) -> TrainState:
    """The state before the first step."""
    key = jax.random.key(self.seed)
    params = nn.unbox(self.init_boxed())
    return TrainState(
      step=jnp.int32(0),
      params=params,
      opt_state=self.optimizer.init(params),
      projections=self.draw_projections(key, 0),
      key=key,
    )

  def shardings(self, mesh: jax.sharding.Mesh) -> TrainState:
    """The sharding of each part of the state on the mesh."""
    return state_shardings(mesh, self.optimizer, self.init, self.init_boxed)

  @property
  def spread_model(self) -> language_model.LanguageModel:
    """The model as the mesh runs it; its batch must divide by the mesh."""
    # One device needs no partition, and is spared its compile time.
    if self.mesh is None or self.mesh.size == 1:
      return self.model
    return self.model.clone(
      attention=parallel.MeshAttention(
        self.model.attention, self.mesh, mesh_lib.BATCH_AXES, 'tensor'
      )
    )

  def loss(
    self,
    params: PyTree,
    projections: PyTree,
    batch: Batch,
    dropout_key: Array | None,
  ) -> tuple[Float[Array, ''], dict[str, clu_metrics.Metric]]:
    """Mean loss per target, and metrics; dropout only with a key."""
    train = dropout_key is not None
    logits = self.spread_model.apply(
      {'params': params},
      batch['tokens'],
      mask=batch['mask'],
      projections=projections,
      train=train,
      rngs={'dropout': dropout_key} if train else {},
    )
    losses = objective.token_losses(logits, batch['targets'])
    metrics = objective.token_metrics(
      logits, losses, batch['targets'], batch['weights']
    )
    return objective.weighted_mean(losses, batch['weights']), metrics

  def metrics(
    self, params: PyTree, projections: PyTree, batch: Batch
  ) -> dict[str, clu_metrics.Metric]:
    """Metrics of a batch, without dropout."""
    if self.chunked is not None:
      return self.chunked.metrics(params, projections, batch)
    return self.loss(params, projections, batch, None)[1]

  def gradients(
    self,
    params: PyTree,
    projections: PyTree,
    batch: Batch,
    dropout_key: Array,
  ) -> tuple[PyTree, dict[str, clu_metrics.Metric]]:
    """Gradients of the loss, and metrics."""
    if self.chunked is None:
      (_, metrics), grads = jax.value_and_grad(self.loss, has_aux=True)(
        params, projections, batch, dropout_key
      )
      return grads, metrics
    grads, metrics, drift = self.chunked.value_and_grad(
      params, projections, batch, dropout_key
    )
    for layer, value in enumerate(() if drift is None else drift):
      metrics[f'{DRIFT}{layer}'] = metrics_lib.Average.of(value)
    return grads, metrics

  def step(
    self, state: TrainState, batch: Batch
  ) -> tuple[TrainState, clu_metrics.Collection]:
    """One optimiser step; metrics are those before the update."""
    dropout_key = jax.random.fold_in(_keys(state.key)[1], state.step)
    grads, metrics = self.gradients(
      state.params, state.projections, batch, dropout_key
    )
    updates, opt_state = self.optimizer.update(
      grads, state.opt_state, state.params
    )
    metrics['grad_norm'] = metrics_lib.Average.of(optax.tree.norm(grads))
    new_state = TrainState(
      step=state.step + 1,
      params=optax.apply_updates(state.params, updates),
      opt_state=opt_state,
      projections=state.projections,
      key=state.key,
    )
    return new_state, clu_metrics.Collection.create_collection(**metrics)

  def redraw(self, state: TrainState) -> TrainState:
    """The state with the random matrices that its step asks for."""
    return state.replace(
      projections=self.draw_projections(state.key, state.step)
    )

  def draw_projections(self, key: PyTree, step: int | PyTree) -> PyTree:
    """The random matrices that a run uses at a step, any step at all.

    Args:
      key: `TrainState.key`, the same during the whole run.
      step: training step; matrices change every `attention.redraw_every`.

    Returns:
      As `LanguageModel.draw_projections`, which takes the key folded from this
      one for matrices alone.
    """
    return self.model.draw_projections(_keys(key)[2], step)


def state_shardings(
  mesh: jax.sharding.Mesh,
  optimizer: optax.GradientTransformation,
  init: Callable[[], TrainState],
  init_boxed: Callable[[], PyTree],
) -> TrainState:
  """The sharding of each part of a state on a mesh.

  Args:
    mesh: the devices.
    optimizer: made the state's `opt_state`.
    init: makes the state.
    init_boxed: makes its parameters with the names of their logical axes.

  Returns:
    A state of shardings.
  """
  params = mesh_lib.param_shardings(mesh, jax.eval_shape(init_boxed))
  abstract = jax.eval_shape(init)
  everywhere = mesh_lib.replicated(mesh)
  return TrainState(
    step=everywhere,
    params=params,
    opt_state=mesh_lib.optimizer_shardings(
      mesh, optimizer, abstract.opt_state, params
    ),
    projections=jax.tree.map(lambda _: everywhere, abstract.projections),
    key=everywhere,
  )


def evaluator(
  metrics: Callable[[PyTree, PyTree, Batch], Metrics],
  batches: Callable[[], Iterable[Batch]],
  mesh: jax.sharding.Mesh,
) -> Callable[[TrainState], dict[str, float]]:
  """Makes an evaluator: state -> metrics over all batches.

  Evaluators of the same function share their program.

  Args:
    metrics: of parameters, random matrices and a batch; pure.
    batches: gives this process's share of each batch, once.
    mesh: the devices.
  """
  compiled = jax.jit(metrics, out_shardings=mesh_lib.replicated(mesh))

  def run(state: TrainState) -> dict[str, float]:
    total = None
    for batch in batches():
      placed = mesh_lib.place_batch(mesh, batch)
      found = compiled(state.eval_params, state.projections, placed)
      found = jax.tree.map(np.float64, jax.device_get(found))
      if total is not None:
        found = {name: total[name].merge(x) for name, x in found.items()}
      total = found
    return {name: float(metric.compute()) for name, metric in total.items()}

  return run


def _keys(key: Array) -> tuple[Array, Array, Array]:
  """Keys of parameters, dropout and random matrices."""
  return tuple(jax.random.fold_in(key, i) for i in range(3))
