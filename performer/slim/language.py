"""Language models as SLiM sees them.

Letters: b batch, c positions of a chunk.
"""

import dataclasses
from collections.abc import Mapping
from typing import NamedTuple

import jax.numpy as jnp
from clu import metrics as clu_metrics
from jaxtyping import Array, Float, Key, PyTree

from performer import attention as attention_lib
from performer import objective
from performer.models import language_model
from performer.slim import problem as problem_lib

__all__ = ['Constants', 'problem']


class Constants(NamedTuple):
  """The constants that every chunk gets in full.

  Attributes:
    projections: random matrices, `model.draw_projections`.
    dropout: a key; None: no dropout.
  """

  projections: PyTree
  dropout: Key[Array, ''] | None = None


@dataclasses.dataclass(frozen=True)
class _Loss:
  """The loss of a chunk; equal for equal models, so that it compiles once."""

  model: language_model.LanguageModel

  def __call__(
    self,
    mechanism: problem_lib.Mechanism,
    params: PyTree,
    state: PyTree,
    chunk: problem_lib.Chunk,
  ) -> tuple[Float[Array, ''], PyTree, Mapping[str, clu_metrics.Metric]]:
    batch, constants = chunk.inputs, chunk.constants
    dropout = constants.dropout
    logits, state = self.model.clone(attention=mechanism).apply(
      {'params': params},
      batch['tokens'],
      positions=jnp.broadcast_to(chunk.positions, batch['tokens'].shape),
      mask=batch['mask'] & chunk.valid,
      projections=constants.projections,
      state=state,
      train=dropout is not None,
      rngs={} if dropout is None else {'dropout': dropout},
      method='extend',
    )
    weights = jnp.where(chunk.valid, batch['weights'], 0.0)
    losses = objective.token_losses(logits, batch['targets'])
    metrics = objective.token_metrics(logits, losses, batch['targets'], weights)
    return jnp.sum(losses * weights), state, metrics


def problem(model: language_model.LanguageModel) -> problem_lib.Problem:
  """The problem of predicting tokens with a model.

  Its inputs are batches as the data sets yield them: `tokens` and `targets`,
  int [b, l], `weights`, float [b, l], and `mask`, bool [b, l]. Its loss is the
  weighted sum of negative log-likelihoods in nats, its metrics are those of
  `objective.token_metrics`, and its constants are `Constants`.

  Args:
    model: causal, with random features or kernels as attention.

  Returns:
    A problem for `slim_value_and_grad`, with `{'params': ...}` unwrapped.

  Raises:
    ValueError: if the model is not causal or its attention is no `Favor`.
  """
  if not model.causal or not isinstance(model.attention, attention_lib.Favor):
    raise ValueError(
      'SLiM needs a causal model whose attention is an attention.Favor, got '
      f'{model.causal=} {model.attention}'
    )

  return problem_lib.Problem(_Loss(model), model.attention, model.empty_state)
