"""Gradients along the depth of a classifier.

Source: arXiv:2006.11421, Section 4.1.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Integer, PyTree

from rl.odetoode import heads

__all__ = ['beyond_band', 'gradient_norms', 'relative_norms']


def gradient_norms(
  model: heads.Classifier,
  variables: PyTree,
  images: Float[Array, 'B *inputs'],
  labels: Integer[Array, ' B'],
) -> Float[Array, 'N1 B']:
  """|dL/dx_n| of every example's own cross-entropy, for n = 0, ..., N.

  Args:
    model: whose body has steps of its own choice, not an adaptive solver.
    variables: of the model.
    images: examples.
    labels: their classes.
  """
  run = lambda nudges: model.apply(variables, images, nudges, method='states')
  shape = jax.eval_shape(run, None)[0]

  def loss(nudges: Array) -> Array:
    losses = optax.softmax_cross_entropy_with_integer_labels(
      run(nudges)[1], labels
    )
    return losses.sum()

  gradients = jax.grad(loss)(jnp.zeros(shape.shape, shape.dtype))
  return jnp.linalg.norm(gradients, axis=-1)


def relative_norms(norms: Float[Array, 'N1 *B']) -> Float[Array, 'N1 *B']:
  """|g_n| / |g_N|; NaN for examples whose gradient has vanished.

  Args:
    norms: of `gradient_norms`.
  """
  last = norms[-1]
  # Below, squares of entries are no normal numbers and norms are wrong.
  sound = last > 1e-15
  return jnp.where(sound, norms / jnp.where(sound, last, 1.0), jnp.nan)


def beyond_band(norms: Float[np.ndarray, 'N1 B'], time: float) -> float:
  """Distance of |g_n| / |g_N| from the band of Lemma 4.1.

  The band is from (1 - eta)^(N-n) to (1 + eta)^(N-n) with eta = T / N.

  Args:
    norms: of `relative_norms`; NaN are left out.
    time: T.

  Returns:
    The logarithm of the greatest factor over steps and examples; below 0 if all
    lie inside.
  """
  depth = norms.shape[-2] - 1
  left = np.arange(depth, -1, -1)[:, None]
  eta = time / depth
  with np.errstate(divide='ignore'):
    low = left * np.log(max(1 - eta, 0.0)) if eta < 1 else -np.inf * (left > 0)
    logs = np.log(norms)
  below = np.where(left > 0, low - logs, 0.0)
  above = np.where(left > 0, logs - left * math.log1p(eta), 0.0)
  return float(max(np.nanmax(below), np.nanmax(above)))
