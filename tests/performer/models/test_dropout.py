"""Dropout by position: masks that no cut can change, and their statistics."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from performer.models import dropout, layers
from tests import seeds

B, L, D = 3, 13, 7
CUTS = (5, 6, 11, 12)  # Pieces of two lengths.


@functools.partial(jax.jit, static_argnames='rate')
def drop(x, positions, key, *, rate=0.3):
  """One site."""
  module = dropout.PositionalDropout(rate)
  return module.apply({}, x, positions, rngs={'dropout': key})


def rows(length=L, start=0):
  """Positions of sequences that start at different places."""
  return jnp.asarray(start + np.arange(length) + 100 * np.arange(B)[:, None])


def in_pieces(x, positions, key):
  pieces = zip(
    *(np.split(np.asarray(a), CUTS, axis=1) for a in (x, positions)),
    strict=True,
  )
  return np.concatenate([drop(*p, key) for p in pieces], axis=1)


def inputs():
  return jnp.asarray(np.float32(seeds.rng(0).normal(size=(B, L, D))))


@pytest.mark.parametrize('impl', ['threefry2x32', 'rbg'])
def test_masks_do_not_depend_on_the_cut(impl):
  key, x = jax.random.key(1, impl=impl), inputs()
  whole = np.asarray(drop(x, rows(), key))
  np.testing.assert_array_equal(whole, in_pieces(x, rows(), key))
  kept = whole != 0
  assert 0 < kept.sum() < x.size
  np.testing.assert_allclose(whole[kept], x[kept] / 0.7, rtol=1e-4)


def test_masks_belong_to_row_and_position():
  key, x = seeds.key(2), jnp.ones((B, L, D))
  first = drop(x, rows(), key)
  later = drop(x, rows(start=3), key)
  np.testing.assert_array_equal(first[:, 3:], later[:, :-3])
  assert not np.array_equal(first[:, :-3], later[:, :-3])
  same = jnp.broadcast_to(jnp.arange(L), (B, L))
  by_row = drop(x, same, key)
  assert not np.array_equal(by_row[0], by_row[1])
  assert not np.array_equal(first, drop(x, rows(), seeds.key(3)))


@pytest.mark.parametrize(
  ('rate', 'dtype'), [(0.1, 'float32'), (0.3, 'bfloat16')]
)
def test_mean_and_frequency(rate, dtype):
  """Of 2e5 entries; a scale that is off by 1 % would be found."""
  x = jnp.full((4, 256, 200), 2.0, dtype)
  positions = jnp.broadcast_to(jnp.arange(256), (4, 256))
  out = np.asarray(drop(x, positions, seeds.key(4), rate=rate), float)
  kept = out != 0
  deviation = np.sqrt(rate * (1 - rate) / kept.size)
  z = (kept.mean() - (1 - rate)) / deviation
  assert abs(z) < 4, z
  # Kept values, rounded to the dtype, keep the mean.
  rounding = float(jnp.finfo(dtype).eps)
  np.testing.assert_allclose(out[kept], 2 / (1 - rate), rtol=rounding + 1e-4)
  # No two rows, positions or columns share their masks.
  for axis in range(3):
    one, two = np.moveaxis(kept, axis, 0)[:2].reshape(2, -1)
    z = np.corrcoef(one, two)[0, 1] * np.sqrt(one.size)
    assert abs(z) < 4, (axis, z)
  columns = np.corrcoef(kept.reshape(-1, 200)[:, :2].T)[0, 1]
  assert abs(columns) < 4 / np.sqrt(1024)


def test_sites_and_layers_have_masks_of_their_own():
  class Layer(nn.Module):
    @nn.compact
    def __call__(self, x, piece, projection, state):
      site = dropout.make(0.5, train=True, positions=piece.positions)
      ones = jnp.ones_like(x)
      return x, jnp.stack([site(ones), site(ones)])

  @jax.jit
  def masks(positions, x):
    piece = layers.Piece(jnp.ones(x.shape[:2], bool), positions)
    stack = layers.stacked(Layer, 2, remat=False)()
    rngs = {'dropout': seeds.key(5)}
    return stack.apply({}, x, piece, None, None, rngs=rngs)[1]

  x = inputs()
  whole = np.asarray(masks(rows(), x))
  flat = whole.reshape(4, -1)  # Two layers of two sites.
  for i in range(4):
    for j in range(i):
      z = np.corrcoef(flat[i], flat[j])[0, 1] * np.sqrt(x.size)
      assert abs(z) < 4, (i, j, z)
  piece = masks(rows()[:, 5:], x[:, 5:])
  np.testing.assert_array_equal(piece, whole[:, :, :, 5:])


def test_identity_needs_no_key():
  x = inputs()
  for module in (
    dropout.PositionalDropout(0.0),
    dropout.PositionalDropout(0.5, deterministic=True),
  ):
    np.testing.assert_array_equal(module.apply({}, x, rows()), x)


def test_gradients_are_masked_alike():
  x, key = inputs(), seeds.key(6)
  slope = jax.grad(lambda x: drop(x, rows(), key).sum())(x)
  np.testing.assert_allclose(slope, drop(jnp.ones_like(x), rows(), key))


@pytest.mark.parametrize('rate', [-0.1, 1.0])
def test_rates_out_of_range_are_refused(rate):
  with pytest.raises(ValueError, match=f'rate={rate}'):
    dropout.PositionalDropout(rate).apply({}, inputs(), rows())
