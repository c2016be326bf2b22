"""How gradients fare along the depth of a classifier.

Source: arXiv:2006.11421, Section 4.1.
"""

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Integer, PyTree

from rl.odetoode import heads

__all__ = ['gradient_norms', 'relative_norms']


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
