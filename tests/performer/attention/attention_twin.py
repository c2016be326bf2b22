"""Quadratic float64 twins of the attention functions, and shared inputs.

Written from the formulas alone: no import of the package under test. Values
are computed by numpy; the same formulas on JAX arrays, with x64 enabled, give
the gradients.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from tests import seeds

_erf = np.vectorize(math.erf)
_FUNCTIONS = {
  'exp': np.exp,
  'relu': lambda u: u.clip(0),
  'sigmoid': lambda u: 1 / (1 + np.exp(-u)),
  'abs': lambda u: (u**2) ** 0.5,
  'requ': lambda u: u.clip(0) ** 2,
  'elu1': lambda u: np.where(u > 0, u + 1, np.exp(u.clip(None, 0))),
  'square': lambda u: u * u,
  'tanh': lambda u: 1 - 2 / (np.exp(2 * u) + 1),
  'gelu': lambda u: u / 2 * (1 + _erf(u / math.sqrt(2))),
  'cos': np.cos,
  'sin': np.sin,
  'identity': lambda u: u,
}


def _draw(seed, *shape):
  return seeds.rng(seed).standard_normal(shape).astype(np.float32)


def normal(seed, *shape):
  """Standard normal float32; numpy, since JAX compiles per shape."""
  return jnp.asarray(_draw(seed, *shape))


def mask(seed, *shape, keep=0.7):
  return jnp.asarray(seeds.rng(seed).random(shape) < keep)


def inputs(seed, *, b=2, l=21, h=2, d=8, v=8, scale=1.0):  # noqa: E741
  q, k = np.float32(scale) * _draw(10 * seed, 2, b, l, h, d)
  return jnp.asarray(q), jnp.asarray(k), normal(10 * seed + 1, b, l, h, v)


def kernel_matrix(
  q, k, w, mask=None, *, kernel, epsilon=1e-3, square=None, bandwidth=1.0
):
  """Estimated kernel of all pairs: log of it, and its sign, [b, h, lq, lk].

  The mask, and `square` where it is a constant, matter to softmax_oprf alone.
  """
  if kernel in ('softmax_angular', 'softmax_gaussian'):
    return _hybrid_matrix(q, k, w, kernel, bandwidth)
  if kernel == 'softmax_oprf':
    return _oprf_matrix(q, k, w, mask, square)
  if kernel == 'softmax_general':
    return _general_matrix(q, k, w)
  xp = np if isinstance(q, np.ndarray) else jnp
  q, k = q.transpose(0, 2, 1, 3), k.transpose(0, 2, 1, 3)
  if kernel.startswith('softmax'):
    q, k = q / q.shape[-1] ** 0.25, k / k.shape[-1] ** 0.25
  a, b = (
    (q, k) if w is None else (q @ w.swapaxes(-1, -2), k @ w.swapaxes(-1, -2))
  )
  if not kernel.startswith('softmax'):
    f = _FUNCTIONS[kernel]
    matrix = (f(a) + epsilon) @ (f(b) + epsilon).swapaxes(-1, -2)
    return xp.log(xp.abs(matrix)), xp.sign(matrix)
  norm = (q**2).sum(-1)[..., :, None] / 2 + (k**2).sum(-1)[..., None, :] / 2
  if kernel == 'softmax_trig':
    angle = a[..., :, None, :] - b[..., None, :, :]
    matrix = xp.cos(angle).mean(-1)
    return xp.log(xp.abs(matrix)) + norm, xp.sign(matrix)
  exponent = a[..., :, None, :] + b[..., None, :, :]
  if 'hyp' in kernel:
    exponent = xp.concatenate([exponent, -exponent], axis=-1)
  top = _constant(exponent.max(-1, keepdims=True))
  log = xp.log(xp.exp(exponent - top).mean(-1)) + top[..., 0]
  return log - norm, xp.ones_like(log)


def _product(log_one, sign_one, weight):
  """log and sign of a weight times exp(log_one) sign_one."""
  with np.errstate(divide='ignore'):
    return log_one + np.log(np.abs(weight)), sign_one * np.sign(weight)


def _hybrid_matrix(q, k, w, kernel, bandwidth):
  """c hyp + (1 - c) trig; numpy alone."""
  omega, tau, second = w
  hyp, _ = kernel_matrix(q, k, omega, kernel='softmax_hyp')
  second = omega if second is None else second
  trig, sign = kernel_matrix(q, k, second, kernel='softmax_trig')
  x, y = (z.transpose(0, 2, 1, 3) / z.shape[-1] ** 0.25 for z in (q, k))
  a = (x @ tau.swapaxes(-1, -2))[..., :, None, :]
  b = (y @ tau.swapaxes(-1, -2))[..., None, :, :]
  if kernel == 'softmax_angular':
    c = ((a > 0) != (b > 0)).mean(-1)
  else:
    c = 1 - np.cos(bandwidth * (a - b)).mean(-1)
  terms = _product(hyp, np.ones_like(hyp), c), _product(trig, sign, 1 - c)
  top = np.maximum(terms[0][0], terms[1][0])
  total = sum(s * np.exp(log - top) for log, s in terms)
  with np.errstate(divide='ignore'):
    return np.log(np.abs(total)) + top, np.sign(total)


def _oprf_matrix(q, k, w, mask, square):
  """Averages exp(2A|w|^2 + B w.(x + y)) D^2; numpy alone."""
  d = q.shape[-1]
  x, y = (z.transpose(0, 2, 1, 3) / d**0.25 for z in (q, k))
  if square is None:
    keep = np.ones(k.shape[:2], bool) if mask is None else np.asarray(mask)
    square = np.zeros(x.shape[:2])
    for i, j in np.ndindex(*square.shape):
      one, two = x[i, j], y[i, j][keep[i]]
      one = one[keep[i]] if len(x[i, j]) == len(y[i, j]) else one
      pairs = ((one[:, None] + two[None]) ** 2).sum(-1)
      square[i, j] = pairs.mean() if pairs.size else 0
  square = np.maximum(np.asarray(square, float), 1e-12)
  root = ((2 * square + d) ** 2 + 8 * d * square) ** 0.5
  rho = (root - 2 * square - d) / (4 * square)
  a = ((1 - 1 / rho) / 8)[..., None, None, None]
  b = (1 - 4 * a) ** 0.5
  u, v = x @ w.swapaxes(-1, -2), y @ w.swapaxes(-1, -2)
  norms = (w**2).sum(-1)[..., None, None, :]
  exponent = 2 * a * norms + b * (u[..., :, None, :] + v[..., None, :, :])
  top = exponent.max(-1, keepdims=True)
  log = np.log(np.exp(exponent - top).mean(-1)) + top[..., 0]
  log = log + d / 2 * np.log(1 - 4 * a[..., 0])
  norm = (x**2).sum(-1)[..., :, None] / 2 + (y**2).sum(-1)[..., None, :] / 2
  return log - norm, np.ones_like(log)


def _general_matrix(q, k, w):
  """softmax_pos of A x and A^-T y; numpy alone."""
  omega, a = w
  if a.ndim == omega.ndim - 1:
    a = a[..., None] * np.eye(a.shape[-1])
  one = np.einsum('blhd,ed->blhe' if a.ndim == 2 else 'blhd,hed->blhe', q, a)
  inverse = np.linalg.inv(a)
  two = np.einsum(
    'blhd,de->blhe' if a.ndim == 2 else 'blhd,hde->blhe', k, inverse
  )
  return kernel_matrix(one, two, omega, kernel='softmax_pos')


def _constant(x):
  return x if isinstance(x, np.ndarray) else jax.lax.stop_gradient(x)


def attend(
  q,
  k,
  v,
  w,
  mask=None,
  *,
  kernel,
  causal,
  renormalize=True,
  epsilon=1e-3,
  same=None,
  **options,
):
  """Attention from the full matrix, [b, l, h, v]; `same` says who sees whom."""
  xp = np if isinstance(q, np.ndarray) else jnp
  if kernel == 'exact':
    log = xp.einsum('bihd,bjhd->bhij', q, k) / math.sqrt(q.shape[-1])
    sign = xp.ones_like(log)
  else:
    log, sign = kernel_matrix(
      q, k, w, mask, kernel=kernel, epsilon=epsilon, **options
    )
  visible = np.ones(log.shape, bool)
  if causal:
    visible = visible & np.tri(log.shape[-1], dtype=bool)
  if mask is not None:
    visible = visible & mask[:, None, None, :]
  if same is not None:
    visible = visible & same[:, None]
  log = xp.where(visible, log, -xp.inf)
  top = xp.maximum(log.max(-1, keepdims=True), -1e300)
  top = _constant(top) if renormalize else 0.0
  matrix = sign * xp.exp(log - top)
  if renormalize:
    total = matrix.sum(-1, keepdims=True)
    matrix = matrix / xp.where(total == 0, 1, total)
  return xp.einsum('bhij,bjhv->bihv', matrix, v)


def double(*arrays):
  """Float64 numpy copies; None, booleans and the shape of pytrees stay."""

  def convert(x):
    return np.asarray(x, bool if x.dtype == bool else float)

  return [jax.tree.map(convert, x) for x in arrays]


def value(q, k, v, w, mask=None, **options):
  """Float64 output."""
  with np.errstate(divide='ignore'):
    return attend(*double(q, k, v, w, mask), **options)


@functools.partial(
  jax.jit, static_argnames=('kernel', 'causal', 'renormalize', 'epsilon')
)
def _gradient(q, k, v, w, mask, same, **options):
  def loss(q, k, v):
    return jnp.sin(attend(q, k, v, w, mask, same=same, **options)).sum()

  return jax.grad(loss, (0, 1, 2))(q, k, v)


def value_and_grad(q, k, v, w, mask=None, *, same=None, **options):
  """Float64 output and gradients of sum(sin(output)) in q, k, v."""
  if mask is None:
    mask = np.ones(k.shape[:2], bool)
  arrays = double(q, k, v, w, mask)
  with jax.enable_x64(True):
    grads = _gradient(*arrays, same, **options)
    grads = [np.asarray(g) for g in grads]
  return value(q, k, v, w, mask, same=same, **options), grads
