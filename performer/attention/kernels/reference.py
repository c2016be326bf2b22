"""The published stabiliser of softmax features, for parity tests only.

Queries subtract their largest exponent, keys the largest over all features and
positions, and both add an epsilon. The maximum leaves -|x|^2/2 out, so all
features of a row can fall below the epsilon, which then pulls its attention
towards uniform; and it reads keys that a causal row must not see.

Reference: arXiv:2009.14794, section A.3.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from performer.attention.kernels import base
from performer.attention.sums import features as features_lib
from performer.attention.sums import form as form_lib

__all__ = ['EPSILON', 'features', 'ready']

# In units of the largest feature (of the row, or of all keys).
EPSILON = 1e-6


def features(
  kernel: base.Kernel,
  q: Float[Array, 'b lq h d'],
  k: Float[Array, 'b lk h d'],
  projection: Float[Array, '... m d'],
  key_mask: Bool[Array, 'b lk'] | None,
) -> tuple[Float[Array, 'b lq h r'], Float[Array, 'b lk h r']]:
  """Computes stabilised features of all queries and keys.

  Args:
    kernel: one that is `published`.
    q: queries, unscaled.
    k: keys.
    projection: W.
    key_mask: keys that the maxima run over; None for all.

  Returns:
    Features of queries and keys, float32, in the models' layout.
  """
  return (
    _features(kernel, q, projection, None, is_query=True),
    _features(kernel, k, projection, key_mask, is_query=False),
  )


def ready(form: form_lib.Form) -> form_lib.Form:
  """The form that sums what `features` computed."""

  def given(features: Float[Array, 'b h l r']) -> features_lib.Features:
    return features_lib.Features(features, None)

  return dataclasses.replace(
    form,
    featurize_queries=given,
    featurize_keys=given,
    finish=form_lib.signed_ratio,
    log=False,
  )


def _features(
  kernel: base.Kernel,
  x: Float[Array, 'b l h d'],
  projection: Float[Array, '... m d'],
  mask: Bool[Array, 'b l'] | None,
  *,
  is_query: bool,
) -> Float[Array, 'b l h r']:
  if mask is not None:
    x = jnp.where(mask[:, :, None, None], x, 0)
  values, weight = kernel.featurize(x.transpose(0, 2, 1, 3), projection)
  weight = weight[..., None]
  constant = kernel.scale(values.shape[-1]) ** 0.5
  keep = True if mask is None else mask[:, None, :, None]
  exponent = values if kernel.log else weight
  axes = -1 if is_query and kernel.log else (-2, -1)
  shift = jax.lax.stop_gradient(
    jnp.max(exponent, axis=axes, keepdims=True, where=keep, initial=-jnp.inf)
  )
  shift = jnp.where(jnp.isfinite(shift), shift, 0.0)
  if kernel.log:
    phi = constant * (jnp.exp(values + weight - shift) + EPSILON)
  else:
    phi = constant * values * jnp.exp(weight - shift)
  return phi.transpose(0, 2, 1, 3)
