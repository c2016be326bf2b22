"""Baselines against direct sums in float64, and inside a model."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from performer import attention
from performer.baselines import linformer, local, values
from performer.models import attention as attention_lib
from tests import marks, seeds
from tests.performer.models import model_cases

B, L, H, D = 2, 11, 3, 4
FAVOR = attention.Favor(kernel='elu1', features=8, chunk=8)
MECHANISMS = {
  'values': values.Values(),
  'linformer': linformer.Linformer(max_length=16, rows=5, redraw_every=7),
  'local': local.LocalHeads(FAVOR, num_heads=H, local_heads=2, window=3),
}


@pytest.fixture(scope='module')
def qkv():
  rng = seeds.rng(0)
  q, k, v = rng.standard_normal((3, B, L, H, D)).astype(np.float32)
  mask = rng.random((B, L)) < 0.7
  return tuple(map(jnp.asarray, (q, k, v, mask)))


def wide(qkv):
  """The same in float64."""
  *arrays, mask = qkv
  return *(np.asarray(x, float) for x in arrays), np.asarray(mask)


def draw(mechanism, step=0, layer=0):
  return mechanism.draw(
    seeds.key(1), layer=layer, step=step, num_heads=H, head_dim=D
  )


def softmax(logits, seen):
  weights = np.exp(logits) * seen
  total = weights.sum(-1, keepdims=True)
  return weights / np.where(total > 0, total, 1)


def test_linformer_is_attention_to_random_sums(qkv):
  q, k, v, mask = qkv
  mechanism = MECHANISMS['linformer']
  r = draw(mechanism)
  found = mechanism(q, k, v, projection=r, causal=False, key_mask=mask)
  rows = np.asarray(r, float)[:, :L]
  q, k, v, mask = wide(qkv)
  k, v = (x * mask[..., None, None] for x in (k, v))
  k, v = (np.einsum('kl,blhd->bkhd', rows, x) for x in (k, v))
  logits = np.einsum('bihd,bkhd->bhik', q, k) / np.sqrt(D)
  expected = np.einsum('bhik,bkhd->bihd', softmax(logits, True), v)
  np.testing.assert_allclose(found, expected, atol=2e-5)


def test_linformer_matrices(qkv):
  mechanism = linformer.Linformer(max_length=400, rows=300, redraw_every=7)
  r = draw(mechanism)
  assert float(jnp.mean(r**2) * 300) == pytest.approx(1, abs=0.02)
  np.testing.assert_array_equal(r, draw(mechanism, step=6))
  for other in (draw(mechanism, step=7), draw(mechanism, layer=1)):
    assert abs(np.corrcoef(np.ravel(r), np.ravel(other))[0, 1]) < 0.02
  never = linformer.Linformer(max_length=4, rows=3, redraw_every=None)
  np.testing.assert_array_equal(draw(never), draw(never, step=99))
  q, k, v, _ = qkv
  with pytest.raises(ValueError, match='has no causal form'):
    mechanism(q, k, v, projection=r, causal=True)
  with pytest.raises(ValueError, match='at most 4 keys, got 11'):
    never(q, k, v, projection=draw(never), causal=False)


@functools.partial(jax.jit, static_argnames=('window', 'causal'))
def windowed(q, k, v, mask, *, window, causal):
  return local.windowed_attention(
    q, k, v, window=window, causal=causal, key_mask=mask
  )


@pytest.mark.parametrize(
  ('causal', 'window'),
  [
    *((False, 1), (True, 3), (False, 4), (True, 10**9)),
    *marks.slow((True, 1), (False, 3), (True, 4), (False, 10**9)),
    *marks.slow((False, 11), (True, 11)),
  ],
)
def test_windows_are_masks_of_exact_attention(qkv, causal, window):
  q, k, v, mask = qkv
  found = windowed(q, k, v, mask, window=window, causal=causal)
  q, k, v, mask = wide(qkv)
  apart = np.arange(L)[:, None] - np.arange(L)
  seen = (abs(apart) < window) & ((apart >= 0) | (not causal))
  seen = seen & mask[:, None, None, :]
  logits = np.einsum('bihd,bjhd->bhij', q, k) / np.sqrt(D)
  expected = np.einsum('bhij,bjhd->bihd', softmax(logits, seen), v)
  np.testing.assert_allclose(found, expected, atol=1e-5)


def test_windows_do_not_see_what_is_masked_or_far(qkv):
  q, k, v, mask = qkv

  def out(k, v, mask=mask):
    return windowed(q, k, v, mask, window=3, causal=True)

  hidden = jnp.where(mask[..., None, None], k, jnp.nan)
  np.testing.assert_array_equal(out(hidden, v), out(k, v))
  later = k.at[:, 6:].set(1e9)
  np.testing.assert_array_equal(out(later, v)[:, :6], out(k, v)[:, :6])
  grads = jax.jit(jax.grad(lambda k: out(k, v)[:, 10].sum()))(k)
  assert not np.asarray(grads[:, :8]).any()
  assert not np.asarray(out(k, v, mask & False)).any()


def test_heads_are_local_or_linear(qkv):
  q, k, v, mask = qkv
  mechanism = MECHANISMS['local']
  w = draw(mechanism)
  options = {'causal': True, 'key_mask': mask}
  found = mechanism(q, k, v, projection=w, **options)
  near = [x[:, :, :2] for x in (q, k, v)]
  far = [x[:, :, 2:] for x in (q, k, v)]
  np.testing.assert_allclose(
    found[:, :, :2], local.windowed_attention(*near, window=3, **options)
  )
  np.testing.assert_allclose(
    found[:, :, 2:], FAVOR(*far, projection=w, **options), rtol=1e-6
  )
  with pytest.raises(ValueError, match='num_heads=3 heads, on one device'):
    mechanism(*far, projection=w, **options)


def test_values_are_returned(qkv):
  q, k, v, mask = qkv
  mechanism = values.Values()
  np.testing.assert_array_equal(mechanism(q, k, v, causal=True), v)
  found = mechanism(q, k, v, causal=False, key_mask=mask)
  np.testing.assert_array_equal(found, v * mask[..., None, None])
  with pytest.raises(ValueError, match='as many queries as values'):
    mechanism(q[:, :3], k, v, causal=False)


@pytest.mark.parametrize('name', MECHANISMS)
def test_in_a_model(name):
  """The shape of the parameters is that of any other mechanism."""
  mechanism = MECHANISMS[name]
  assert isinstance(mechanism, attention_lib.AttentionFn)
  sizes = {'vocab_size': 5, 'max_length': L, 'd_model': H * D, 'd_ff': 8}
  model = model_cases.small(mechanism, causal=False, num_heads=H, **sizes)
  params, w = model_cases.init(model)
  run = jax.jit(model.apply)
  tokens = np.zeros((1, L), np.int32)
  logits = run({'params': params}, tokens, mask=tokens == 0, projections=w)
  assert logits.shape == (1, L, 5)
  assert np.isfinite(logits).all()
  assert set(params['blocks']['attention']) == {'query', 'key', 'value', 'out'}


@pytest.mark.parametrize(
  ('make', 'message'),
  [
    (lambda: linformer.Linformer(max_length=0), 'at least 1'),
    (lambda: local.LocalHeads(FAVOR, 4, 4, 3), 'some heads must be local'),
    (
      lambda: local.windowed_attention(
        *jnp.zeros((3, 1, 4, 1, 2)), window=0, causal=True
      ),
      'a window is at least 1',
    ),
  ],
)
def test_bad_options_are_refused(make, message):
  with pytest.raises(ValueError, match=message):
    make()
