"""The attention module: self and cross, biases, masks, cached sources."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from performer import attention
from performer.models import attention as attention_lib
from tests import seeds
from tests.performer.attention import attention_cases as cases
from tests.performer.attention import attention_twin as twin
from tests.performer.models import model_cases

B, L, S, H, D, E, F = 2, 11, 7, 2, 8, 10, 6
FAVOR = cases.favor()
W = cases.projection(FAVOR)
MASK = twin.mask(3, B, S)


def make(mechanism=FAVOR, **kwargs):
  settings = {'head_dim': D, 'use_bias': True} | kwargs
  return attention_lib.MultiHeadAttention(H, E, mechanism, **settings)


parameters = functools.partial(
  model_cases.attention_params, scale=0.4, heads=H, d=D, e=E
)


@functools.partial(jax.jit, static_argnames=('module', 'method'))
def run(module, params, *args, method='__call__', **kwargs):
  return module.apply({'params': params}, *args, method=method, **kwargs)


def reference(params, x, source, mask, *, kernel='softmax_hyp', causal=False):
  p = jax.tree.map(lambda a: np.asarray(a, float), params)

  def mapped(name, x, indices):
    x = np.einsum(indices, np.asarray(x, float), p[name]['kernel'])
    return x + p[name].get('bias', 0.0)

  inward = (('query', x), ('key', source), ('value', source))
  q, k, v = (mapped(name, x, 'ble,ehd->blhd') for name, x in inward)
  out = twin.value(q, k, v, W, mask, kernel=kernel, causal=causal)
  return mapped('out', out, 'blhd,hde->ble')


@pytest.mark.parametrize(('causal', 'use_bias'), [(False, False), (True, True)])
def test_self_attention(causal, use_bias):
  params, x = parameters(use_bias=use_bias), twin.normal(1, B, L, E)
  mask = twin.mask(2, B, L)
  module = make(causal=causal, use_bias=use_bias)
  found = run(module, params, x, projection=W, key_mask=mask)
  expected = reference(params, x, x, mask, causal=causal)
  np.testing.assert_allclose(found, expected, atol=5e-5)


@pytest.mark.parametrize('exact', [False, True])
def test_cross_attention(exact):
  params = parameters(source=F)
  x, source = twin.normal(1, B, L, E), twin.normal(2, B, S, F)
  module = make(attention.Exact()) if exact else make()
  w = None if exact else W
  found = run(module, params, x, source, projection=w, key_mask=MASK)
  kernel = 'exact' if exact else 'softmax_hyp'
  expected = reference(params, x, source, MASK, kernel=kernel)
  np.testing.assert_allclose(found, expected, atol=5e-5)


def test_source_is_summed_once_and_read_often():
  params = parameters(source=F)
  x, source = twin.normal(1, B, L, E), twin.normal(2, B, S, F)
  expected = reference(params, x, source, MASK)
  state = run(
    make(), params, source, method='summarize', projection=W, key_mask=MASK
  )
  found = run(make(), params, x, state, method='read', projection=W)
  np.testing.assert_allclose(found, expected, atol=5e-5)
  one = run(make(), params, x[:, 3:4], state, method='read', projection=W)
  np.testing.assert_allclose(one, expected[:, 3:4], atol=5e-5)


@pytest.mark.slow
def test_pieces_make_the_whole():
  params, x = parameters(), twin.normal(1, B, L, E)
  mask = twin.mask(4, B, L)
  module, state, outs = make(causal=True), None, []
  for start, stop in ((0, 5), (5, 6), (6, 7), (7, L)):
    out, state = run(
      module,
      params,
      x[:, start:stop],
      method='extend',
      projection=W,
      key_mask=mask[:, start:stop],
      state=state,
    )
    outs.append(out)
  expected = reference(params, x, x, mask, causal=True)
  np.testing.assert_allclose(jnp.concatenate(outs, axis=1), expected, atol=5e-5)


def test_fresh_parameters_have_the_tree_of_flax():
  x = twin.normal(1, B, L, E)
  init = lambda key: make().init(key, x, projection=W)
  mine = jax.eval_shape(init, seeds.key(0))['params']
  assert mine['query']['kernel'].names == ('embed', 'heads', 'kv')
  mine = nn.unbox(mine)
  flax = nn.MultiHeadDotProductAttention(H, qkv_features=H * D)
  theirs = jax.eval_shape(flax.init, seeds.key(0), x)['params']
  assert jax.tree.map(jnp.shape, mine) == jax.tree.map(jnp.shape, theirs)


@dataclasses.dataclass(frozen=True)
class Recorder:
  """A mechanism that returns the segments it was given."""

  redraw_every: int | None = None

  def draw(self, key, **kwargs):
    return None

  def __call__(self, q, k, v, *, segment_ids=None, **kwargs):
    if segment_ids is None:
      return v
    return v * segment_ids[:, :, None, None].astype(v.dtype)


def test_segments_are_handed_on():
  params, x = parameters(), twin.normal(1, B, L, E)
  segments = jnp.asarray(seeds.rng(0).integers(1, 4, (B, L)))
  module = make(Recorder())
  plain = run(module, params, x, projection=None)
  found = run(module, params, x, projection=None, segment_ids=segments)
  bias = params['out']['bias']
  np.testing.assert_allclose(
    found - bias, (plain - bias) * segments[..., None], rtol=1e-4, atol=1e-5
  )


def test_impossible_calls_are_refused():
  params, x = parameters(), twin.normal(1, B, L, E)
  with pytest.raises(ValueError, match='causal=True'):
    run(make(causal=True), params, x, x, projection=W)
  with pytest.raises(ValueError, match='only causal'):
    run(make(), params, x, method='extend', projection=W)
  exact = make(attention.Exact(), causal=True)
  for method in ('extend', 'summarize'):
    with pytest.raises(ValueError, match=f'Exact, which has no `{method}`'):
      run(exact, params, x, method=method, projection=None)
  with pytest.raises(ValueError, match=r'num_heads=2 self\.width=5'):
    attention_lib.MultiHeadAttention(2, 5, FAVOR).init(
      seeds.key(0), x, projection=W
    )
