"""Quadratic float64 twins of the attention functions, and shared inputs.

Written from the formulas alone: no import of the package under test. Call
inside `jax.enable_x64(True)` where gradients are wanted.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np

_FUNCTIONS = {
  'exp': jnp.exp,
  'relu': lambda u: jnp.maximum(u, 0),
  'sigmoid': lambda u: 1 / (1 + jnp.exp(-u)),
  'abs': lambda u: jnp.where(u < 0, -u, u),
  'requ': lambda u: jnp.where(u > 0, u * u, 0),
  'elu1': lambda u: jnp.where(u > 0, u + 1, jnp.exp(jnp.minimum(u, 0))),
  'square': lambda u: u * u,
  'tanh': lambda u: 1 - 2 / (jnp.exp(2 * u) + 1),
  'gelu': lambda u: u / 2 * (1 + jax.lax.erf(u / math.sqrt(2))),
  'cos': jnp.cos,
  'sin': jnp.sin,
  'identity': lambda u: u,
}


def inputs(seed, *, b=2, l=21, h=2, d=8, v=8, scale=1.0):  # noqa: E741
  keys = jax.random.split(jax.random.key(seed), 3)
  q = scale * jax.random.normal(keys[0], (b, l, h, d))
  k = scale * jax.random.normal(keys[1], (b, l, h, d))
  return q, k, jax.random.normal(keys[2], (b, l, h, v))


def kernel_matrix(q, k, w, *, kernel, epsilon=1e-3):
  """Estimated kernel of all pairs: log of it, and its sign, [b, h, lq, lk]."""
  q, k = q.transpose(0, 2, 1, 3), k.transpose(0, 2, 1, 3)
  if kernel.startswith('softmax'):
    q, k = q / q.shape[-1] ** 0.25, k / k.shape[-1] ** 0.25
  wt = 1.0 if w is None else jnp.swapaxes(w, -1, -2)
  a, b = (q, k) if w is None else (q @ wt, k @ wt)
  if not kernel.startswith('softmax'):
    f = _FUNCTIONS[kernel]
    a, b = f(a) + epsilon, f(b) + epsilon
    matrix = a @ jnp.swapaxes(b, -1, -2)
    return jnp.log(jnp.abs(matrix)), jnp.sign(matrix)
  norm = (q**2).sum(-1)[..., :, None] / 2 + (k**2).sum(-1)[..., None, :] / 2
  if kernel == 'softmax_trig':
    angle = a[..., :, None, :] - b[..., None, :, :]
    matrix = jnp.cos(angle).mean(-1)
    return jnp.log(jnp.abs(matrix)) + norm, jnp.sign(matrix)
  exponent = a[..., :, None, :] + b[..., None, :, :]
  if 'hyp' in kernel:
    exponent = jnp.concatenate([exponent, -exponent], axis=-1)
  top = jax.lax.stop_gradient(exponent.max(-1, keepdims=True))
  log = jnp.log(jnp.exp(exponent - top).mean(-1)) + top[..., 0]
  return log - norm, jnp.ones_like(log)


def attend(
  q, k, v, w, mask=None, *, kernel, causal, renormalize=True, epsilon=1e-3
):
  """Attention from the full matrix, [b, l, h, v]."""
  if kernel == 'exact':
    log = jnp.einsum('bihd,bjhd->bhij', q, k) / math.sqrt(q.shape[-1])
    sign = jnp.ones_like(log)
  else:
    log, sign = kernel_matrix(q, k, w, kernel=kernel, epsilon=epsilon)
  visible = jnp.ones(log.shape, bool)
  if causal:
    visible &= jnp.tril(jnp.ones(log.shape[-2:], bool))
  if mask is not None:
    visible &= mask[:, None, None, :]
  log = jnp.where(visible, log, -jnp.inf)
  top = jnp.maximum(log.max(-1, keepdims=True), -1e300)
  if not renormalize:
    top = jnp.zeros_like(top)
  top = jax.lax.stop_gradient(top)
  matrix = sign * jnp.exp(log - top)
  if renormalize:
    total = matrix.sum(-1, keepdims=True)
    matrix = matrix / jnp.where(total == 0, 1, total)
  return jnp.einsum('bhij,bjhv->bihv', matrix, v)


def double(*arrays):
  """Float64 copies; None stays, booleans stay."""
  return [
    x
    if x is None or x.dtype == bool
    else jnp.asarray(np.asarray(x, np.float64))
    for x in arrays
  ]


def value_and_grad(q, k, v, w, mask=None, **options):
  """Float64 output and gradients of sum(sin(output)) in q, k, v."""
  with jax.enable_x64(True):
    q, k, v, w, mask = double(q, k, v, w, mask)

    def loss(q, k, v):
      out = attend(q, k, v, w, mask, **options)
      return jnp.sin(out).sum(), out

    grads, out = jax.grad(loss, (0, 1, 2), has_aux=True)(q, k, v)
    return np.asarray(out), [np.asarray(g) for g in grads]
