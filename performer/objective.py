"""Losses and metrics of language models."""

import jax.numpy as jnp
import optax
from clu import metrics as clu_metrics
from jaxtyping import Array, Float, Int

from runtime.record import metrics

__all__ = ['token_losses', 'token_metrics', 'weighted_mean']


def token_losses(
  logits: Float[Array, 'b l vocab'], targets: Int[Array, 'b l']
) -> Float[Array, 'b l']:
  """Negative log-likelihood of each target, in nats, at least float32."""
  return optax.softmax_cross_entropy_with_integer_labels(
    logits.astype(jnp.promote_types(logits.dtype, jnp.float32)), targets
  )


def weighted_mean(
  values: Float[Array, 'b l'], weights: Float[Array, 'b l']
) -> Float[Array, '']:
  """Mean of `values` under `weights`; 0 if all weights are 0."""
  # A weight counts targets, so below 1 means that there are none.
  return jnp.sum(values * weights) / jnp.maximum(jnp.sum(weights), 1.0)


def token_metrics(
  logits: Float[Array, 'b l vocab'],
  losses: Float[Array, 'b l'],
  targets: Int[Array, 'b l'],
  weights: Float[Array, 'b l'],
) -> dict[str, clu_metrics.Metric]:
  """Loss (nats per target), perplexity and accuracy over weighted targets.

  Perplexity is the exponential of the mean over all targets of a set, not
  clipped (arXiv:2009.14794, Appendix A.1).
  """
  correct = jnp.argmax(logits, axis=-1) == targets
  return {
    'loss': metrics.Average.of(losses, weights),
    'perplexity': metrics.Perplexity.of(losses, weights),
    'accuracy': metrics.Average.of(correct.astype(jnp.float32), weights),
  }
