"""Compiled attention calls that the tests share, so that each compiles once."""

import functools
import warnings

import jax
import jax.numpy as jnp
import numpy as np

from performer import attention
from tests import seeds
from tests.performer.attention import attention_twin as twin

CHUNK = 8
FEATURES = 16
# A hybrid needs a multiple of 8 n, or of 2 (4 n + 1).
HYBRIDS = {
  'softmax_angular': {'features': 64, 'mix_rows': 2},
  'softmax_gaussian': {'features': 72, 'mix_rows': 2},
}


def favor(kernel='softmax_hyp', **options):
  """A small Favor, without the warning of signed kernels."""
  small = HYBRIDS.get(kernel, {'features': FEATURES})
  options = {'chunk': CHUNK, **small, **options}
  with warnings.catch_warnings():
    warnings.simplefilter('ignore', UserWarning)
    return attention.Favor(kernel=kernel, **options)


def projection(mechanism, *, seed=9, heads=2, d=8):
  return mechanism.draw(
    seeds.key(seed), layer=0, step=0, num_heads=heads, head_dim=d
  )


def arguments(mechanism, seed, *, mask=None, **sizes):
  """(q, k, v, projection), and a mask of keys if its seed is given."""
  q, k, v = twin.inputs(seed, **sizes)
  w = projection(mechanism, heads=q.shape[2], d=q.shape[3])
  masks = () if mask is None else (twin.mask(mask, *k.shape[:2]),)
  return q, k, v, w, *masks


@functools.partial(jax.jit, static_argnames=('mechanism', 'causal'))
def _attend(mechanism, q, k, v, w, mask, ids, *, causal):
  return mechanism(
    q, k, v, projection=w, causal=causal, key_mask=mask, segment_ids=ids
  )


def attend(mechanism, q, k, v, w, mask=None, ids=None, *, causal):
  """Output; a mask of ones instead of None, for one program less."""
  mask = np.ones(k.shape[:2], bool) if mask is None else mask
  return _attend(mechanism, q, k, v, w, mask, ids, causal=causal)


@functools.partial(jax.jit, static_argnames=('mechanism', 'causal'))
def _value_and_grad(mechanism, q, k, v, w, mask, ids, rows, *, causal):
  def loss(q, k, v):
    out = _attend(mechanism, q, k, v, w, mask, ids, causal=causal)
    return jnp.sum(jnp.where(rows[:, None, None], jnp.sin(out), 0.0)), out

  grads, out = jax.grad(loss, (0, 1, 2), has_aux=True)(q, k, v)
  return out, grads


def value_and_grad(
  mechanism, q, k, v, w, mask=None, ids=None, *, causal, rows=None
):
  """Output, and gradients of sum(sin(output[:, rows])) in q, k and v."""
  mask = np.ones(k.shape[:2], bool) if mask is None else mask
  rows = np.ones(q.shape[1], bool) if rows is None else rows
  return _value_and_grad(mechanism, q, k, v, w, mask, ids, rows, causal=causal)
