"""Learning of OptFormer as pure functions of its state.

The loss is the mean negative log-likelihood of parameters and objectives, in nats
per token; other tokens count nothing. The paper sums instead (Equation 3), which
`study_loss` reports.

Reference: arXiv:2205.13320, Equation 3 and Appendix D.2.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from clu import metrics as clu_metrics
from flax import linen as nn
from jaxtyping import Array, Float, Int, PyTree

from hpo.optformer import legality, models, places, relative, tokens
from performer import learner as learner_lib
from performer import objective
from rl import ranges
from runtime.record import metrics as metrics_lib

__all__ = ['Learner', 'Loss']

Batch = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Loss:
  """Switches of the loss.

  Attributes:
    objective_weight: of an objective token beside a parameter token; published:
      1. There are D parameters for each, so D balances the two.
    z_loss: weight of the squared log-partition function (that of t5x: 1e-4).
    legal_only: whether the likelihood of a parameter is that among its legal
      tokens, as in decoding, so that nothing is spent on learning which are.
    soft_bins: standard deviation, in bins, of the target of an objective: a
      Gaussian over the two bins on both sides. 0: the bin alone, as published.
  """

  objective_weight: float = 1.0
  z_loss: float = 1e-4
  legal_only: bool = False
  soft_bins: float = 0.0

  def __post_init__(self) -> None:
    ranges.check_not_negative(
      objective_weight=self.objective_weight,
      z_loss=self.z_loss,
      soft_bins=self.soft_bins,
    )

  def __call__(
    self, logits: Float[Array, 'b l v'], batch: Batch, bins: tuple[int, int]
  ) -> tuple[Float[Array, ''], dict[str, clu_metrics.Metric]]:
    """The loss of a batch, and metrics.

    Args:
      logits: of the targets.
      batch: see `tokens`.
      bins: (id of bin 0, Q).

    Returns:
      The scalar to minimise; negative log-likelihoods of all, of parameter and
      of objective tokens, and their sum over a study.
    """
    if self.legal_only:
      logits = _among_legal(logits, batch, bins)
    losses = objective.token_losses(logits, batch['targets'])
    weights = batch['weights']
    is_objective = batch['slots'] == tokens.OBJECTIVE
    shares = weights * jnp.where(is_objective, self.objective_weight, 1.0)
    trained = losses
    if self.soft_bins:
      soft = _soft_losses(logits, batch['targets'], bins, self.soft_bins)
      trained = jnp.where(is_objective, soft, losses)
    trained += self.z_loss * nn.logsumexp(logits, axis=-1) ** 2
    average = metrics_lib.Average.of
    metrics = {
      'loss': average(losses, weights),
      'param_loss': average(losses, weights * ~is_objective),
      'objective_loss': average(losses, weights * is_objective),
      'study_loss': average(
        (losses * weights).sum(axis=1), jnp.float32(weights.any(axis=1))
      ),
    }
    return objective.weighted_mean(trained, shares), metrics


def _among_legal(
  logits: Float[Array, 'b l v'], batch: Batch, bins: tuple[int, int]
) -> Float[Array, 'b l v']:
  """Logits with those hidden that a parameter cannot have."""
  first, count = bins
  beside = first, logits.shape[-1] - first - count
  is_legal = legality.is_legal(batch['legal'], count)
  is_legal = jnp.pad(is_legal, ((0, 0), (0, 0), beside))
  is_free = (batch['slots'] != tokens.PARAMETER)[..., None]
  return jnp.where(is_legal | is_free, logits, relative.HIDDEN)


def _soft_losses(
  logits: Float[Array, 'b l v'],
  targets: Int[Array, 'b l'],
  bins: tuple[int, int],
  width: float,
) -> Float[Array, 'b l']:
  """Cross entropy with a Gaussian over near bins; statuses stay as they are."""
  first, count = bins
  offsets = jnp.arange(-2, 3)
  near = targets[..., None] + offsets
  mass = jnp.exp(-((offsets / width) ** 2) / 2)
  inside = (near >= first) & (near < first + count)
  is_bin = (targets >= first) & (targets < first + count)
  mass = jnp.where(is_bin[..., None], mass * inside, offsets == 0)
  near = jnp.clip(near, 0, logits.shape[-1] - 1)
  log_probs = jnp.take_along_axis(nn.log_softmax(logits), near, axis=-1)
  return -(log_probs * mass).sum(-1) / mass.sum(-1)


@dataclasses.dataclass(frozen=True)
class Learner:
  """The pure functions of one training run: state, step, metrics.

  Attributes:
    model: the network.
    optimizer: from optax.
    loss: of a batch.
    seed: of parameters, dropout and random matrices.
  """

  model: models.OptFormer
  optimizer: optax.GradientTransformation
  loss: Loss
  seed: int

  def init_boxed(self) -> PyTree:
    """Parameters that carry the names of their logical axes."""
    key = jax.random.key(self.seed)
    ids = jnp.ones((1, 2), jnp.int32)
    variables = self.model.init(
      _keys(key)[0],
      ids,
      ids,
      legal=ids,
      projections=self.draw_projections(key, 0),
    )
    return variables['params']

  def init(self) -> learner_lib.TrainState:
    """The state before the first step."""
    key = jax.random.key(self.seed)
    params = nn.unbox(self.init_boxed())
    return learner_lib.TrainState(
      step=jnp.int32(0),
      params=params,
      opt_state=self.optimizer.init(params),
      projections=self.draw_projections(key, 0),
      key=key,
    )

  def shardings(self, mesh: jax.sharding.Mesh) -> learner_lib.TrainState:
    """The sharding of each part of the state on the mesh."""
    return learner_lib.state_shardings(
      mesh, self.optimizer, self.init, self.init_boxed
    )

  def evaluate(
    self,
    params: PyTree,
    projections: PyTree,
    batch: Batch,
    dropout_key: Array | None = None,
  ) -> tuple[Float[Array, ''], dict[str, clu_metrics.Metric]]:
    """The loss of a batch, and metrics; dropout only with a key."""
    logits = self.model.apply(
      {'params': params},
      batch['metadata'],
      batch['tokens'],
      legal=places.legal_codes(batch, self.model.first_trial),
      projections=projections,
      rngs={} if dropout_key is None else {'dropout': dropout_key},
    )
    return self.loss(logits, batch, (self.model.first_bin, self.model.bins))

  def step(
    self, state: learner_lib.TrainState, batch: Batch
  ) -> tuple[learner_lib.TrainState, clu_metrics.Collection]:
    """One optimiser step; metrics are those before the update."""
    dropout_key = jax.random.fold_in(_keys(state.key)[1], state.step)
    grads, metrics = jax.grad(self.evaluate, has_aux=True)(
      state.params, state.projections, batch, dropout_key
    )
    updates, opt_state = self.optimizer.update(
      grads, state.opt_state, state.params
    )
    metrics['grad_norm'] = metrics_lib.Average.of(optax.tree.norm(grads))
    after = state.replace(
      step=state.step + 1,
      params=optax.apply_updates(state.params, updates),
      opt_state=opt_state,
    )
    return after, clu_metrics.Collection.create_collection(**metrics)

  def redraw(self, state: learner_lib.TrainState) -> learner_lib.TrainState:
    """The state with the random matrices that its step asks for."""
    return state.replace(
      projections=self.draw_projections(state.key, state.step)
    )

  def draw_projections(self, key: Array, step: int | Array) -> PyTree:
    """The random matrices that a run uses at a step."""
    return self.model.draw_projections(_keys(key)[2], step)


def _keys(key: Array) -> tuple[Array, Array, Array]:
  """Keys of parameters, dropout and random matrices."""
  return tuple(jax.random.fold_in(key, i) for i in range(3))
