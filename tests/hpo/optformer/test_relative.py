"""Buckets and biases of distances against the formula, one pair at a time."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hpo.optformer import relative
from tests import seeds


def bucket(key_minus_query, *, causal, count=32, far=128):
  """Section 2.1 of arXiv:1910.10683 and its code, for one pair."""
  offset, distance = 0, -key_minus_query
  if not causal:
    count //= 2
    offset = count if key_minus_query > 0 else 0
    distance = abs(key_minus_query)
  distance = max(distance, 0)
  exact = count // 2
  if distance < exact:
    return offset + distance
  share = math.log(distance / exact) / math.log(far / exact)
  return offset + min(exact + int(share * (count - exact) + 1e-6), count - 1)


@pytest.mark.parametrize('causal', [True, False])
def test_buckets(causal):
  found, middle = relative.buckets(32, 128, causal=causal)
  for distance in range(-128, 129):
    expected = bucket(distance, causal=causal)
    assert found[distance + middle] == expected, distance
  assert bucket(-1000, causal=causal) == found[0]


@pytest.mark.parametrize('causal', [True, False])
def test_biases_of_whole_sequences(causal):
  module = relative.Bias(2, causal=causal, max_distance=18)
  params = {'params': {'table': jnp.asarray(seeds.rng(0).normal(size=(32, 2)))}}
  length = 21
  found = np.asarray(jax.jit(lambda p: module.apply(p, length))(params))
  table = np.asarray(params['params']['table'])
  for i in range(length):
    for j in range(length):
      row = table[bucket(j - i, causal=causal, far=18)]
      np.testing.assert_allclose(found[0, :, i, j], row, rtol=1e-6)
  places = jnp.arange(length)[None]
  at = jax.jit(lambda p: module.apply(p, places, places, method='at'))
  some = np.asarray(at(params))
  seen = np.tri(length, dtype=bool)
  np.testing.assert_array_equal(
    np.where(seen, found, relative.HIDDEN)[0], some[0]
  )


def test_attention_is_softmax_without_a_scale():
  rng = seeds.rng(1)
  q, k, v = (jnp.asarray(rng.normal(size=(2, 5, 3, 4))) for _ in 'qkv')
  bias = jnp.asarray(rng.normal(size=(1, 3, 5, 5)))
  mask = jnp.array([[True] * 5, [True, True, False, True, False]])
  attend = relative.Softmax()
  for causal in (True, False):
    out = attend(
      q, k, v, projection=relative.Keys(bias), causal=causal, key_mask=mask
    )
    for b, h, i in np.ndindex(2, 3, 5):
      seen = mask[b] & (np.arange(5) <= (i if causal else 5))
      logits = k[b, :, h] @ q[b, i, h] + bias[0, h, i]
      weights = np.where(seen, np.exp(logits), 0)
      expected = weights @ v[b, :, h] / weights.sum()
      np.testing.assert_allclose(out[b, i, h], expected, rtol=2e-5, atol=1e-5)
  assert attend.draw(jax.random.key(0), layer=0, step=0) is None
