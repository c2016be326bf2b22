"""Definitions of the forms of attention, in float64.

Written from the formulas, quadratic in the length. Arrays are [b, l, h, d];
the functions are differentiable by JAX, with x64 enabled by the caller.
"""

import jax
import jax.numpy as jnp


def _average(
  weights: jax.Array,
  v: jax.Array,
  causal: bool,
  delta: float = 0.0,
  extra: jax.Array | float = 0.0,
) -> jax.Array:
  """Averages values with weights [b, h, i, j]."""
  if causal:
    weights = jnp.tril(weights)
  total = weights.sum(-1, keepdims=True) + extra
  total += 2 * delta * (jnp.abs(total) <= delta)
  return jnp.einsum('bhij,bjhv->bihv', weights / total, v)


def _split_scale(x: jax.Array) -> jax.Array:
  return x * x.shape[-1] ** -0.25


def exact(q: jax.Array, k: jax.Array, v: jax.Array, causal: bool) -> jax.Array:
  """Softmax attention (arXiv:1706.03762, Eq. 1)."""
  logits = jnp.einsum('bihd,bjhd->bhij', _split_scale(q), _split_scale(k))
  if causal:
    logits = jnp.where(jnp.tri(q.shape[1], dtype=bool), logits, -jnp.inf)
  top = jax.lax.stop_gradient(logits.max(-1, keepdims=True))
  return _average(jnp.exp(logits - top), v, causal)


def favor(
  q: jax.Array,
  k: jax.Array,
  v: jax.Array,
  causal: bool,
  *,
  w: jax.Array,
  kernel: str,
) -> jax.Array:
  """Attention by positive random features (arXiv:2009.14794, Lemma 1)."""
  x, y = _split_scale(q), _split_scale(k)
  a = jnp.einsum('blhd,md->bhlm', x, w)
  b = jnp.einsum('blhd,md->bhlm', y, w)
  if kernel == 'softmax_hyp':
    a, b = jnp.concatenate([a, -a], -1), jnp.concatenate([b, -b], -1)
  elif kernel != 'softmax_pos':
    raise ValueError(f'no definition for {kernel=}')
  b -= 0.5 * jnp.square(y).sum(-1).transpose(0, 2, 1)[..., None]
  a -= jax.lax.stop_gradient(a.max(-1, keepdims=True))
  return _average(jnp.exp(a) @ jnp.exp(b).swapaxes(-1, -2), v, causal)


def published(
  q: jax.Array,
  k: jax.Array,
  v: jax.Array,
  causal: bool,
  *,
  w: jax.Array,
  epsilon: float,
  delta: float = 0.0,
  sum_epsilon: float = 0.0,
  detach: bool,
) -> jax.Array:
  """The published stabiliser: maxima without |x|^2 / 2, then an epsilon.

  Args:
    q: queries.
    k: keys.
    v: values.
    causal: whether row i sees keys 0..i only.
    w: projection, [m, d].
    epsilon: added to each feature.
    delta: denominators within it of zero are moved by twice of it.
    sum_epsilon: added to the sums over keys of denominators, if causal.
    detach: whether the maxima carry no gradient.

  Reference: arXiv:2009.14794, section A.3.
  """

  def features(x: jax.Array, axes: tuple[int, ...]) -> jax.Array:
    x = _split_scale(x)
    u = jnp.einsum('blhd,md->bhlm', x, w)
    half = 0.5 * jnp.square(x).sum(-1).transpose(0, 2, 1)[..., None]
    top = u.max(axes, keepdims=True)
    top = jax.lax.stop_gradient(top) if detach else top
    return (jnp.exp(u - half - top) + epsilon) / w.shape[0] ** 0.5

  queries = features(q, (-1,))
  weights = queries @ features(k, (-1, -2)).swapaxes(-1, -2)
  extra = sum_epsilon * queries.sum(-1, keepdims=True) if causal else 0.0
  return _average(weights, v, causal, delta, extra)


def from_features(
  q: jax.Array, k: jax.Array, v: jax.Array, causal: bool
) -> jax.Array:
  """Linear attention whose q and k are features already."""
  return _average(jnp.einsum('bihr,bjhr->bhij', q, k), v, causal)
