"""`AttentionFn` inside the attention modules of Flax, Linen and NNX."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx

from performer import attention
from performer.models import plugins
from tests import marks, seeds
from tests.performer.attention import attention_cases as cases
from tests.performer.attention import attention_twin as twin
from tests.performer.models import model_cases

B, L, H, D, E = 2, 13, 2, 8, 12
FAVOR = cases.favor('elu1')  # It compiles fastest.
W = cases.projection(FAVOR)
KEEP = twin.mask(4, B, L)
ROW_MASK = KEEP[:, None, None, :]


def adapter(*, exact=False, causal=False, **kwargs):
  if exact:
    return plugins.AttentionFn(attention.Exact(), causal=causal, **kwargs)
  return plugins.AttentionFn(FAVOR, W, causal=causal, **kwargs)


parameters = functools.partial(
  model_cases.attention_params, scale=0.3, heads=H, d=D, e=E
)


def linen(attention_fn, **kwargs):
  return nn.MultiHeadDotProductAttention(
    H, qkv_features=H * D, attention_fn=attention_fn, **kwargs
  )


def build_nnx(attention_fn, params=None, **kwargs):
  settings = {'decode': False} | kwargs
  module = nnx.MultiHeadAttention(
    H,
    E,
    H * D,
    attention_fn=nnx.data(attention_fn),
    rngs=nnx.Rngs(0),
    **settings,
  )
  for name, weights in (params or {}).items():
    for leaf, value in weights.items():
      setattr(getattr(module, name), leaf, nnx.Param(value))
  return module


@functools.partial(jax.jit, static_argnames='kind')
def run(kind, attention_fn, params, x, mask=None):
  if kind == 'linen':
    return linen(attention_fn).apply({'params': params}, x, mask=mask)
  return build_nnx(attention_fn, params)(x, mask=mask)


def reference(params, x, mask, *, exact, causal):
  """The module in float64 numpy."""
  p = jax.tree.map(lambda a: np.asarray(a, float), params)
  q, k, v = (
    np.einsum('ble,ehd->blhd', np.asarray(x, float), p[name]['kernel'])
    + p[name]['bias']
    for name in ('query', 'key', 'value')
  )
  kernel = 'exact' if exact else FAVOR.kernel
  out = twin.value(q, k, v, W, mask, kernel=kernel, causal=causal)
  return np.einsum('blhd,hde->ble', out, p['out']['kernel']) + p['out']['bias']


@pytest.mark.parametrize(
  ('kind', 'exact', 'causal'),
  [
    *(('linen', False, False), ('linen', True, True)),
    *(('nnx', False, True), ('nnx', True, False)),
  ],
)
def test_module_computes_the_mechanism(kind, exact, causal):
  params, x = parameters(), twin.normal(3, B, L, E)
  found = run(kind, adapter(exact=exact, causal=causal), params, x, ROW_MASK)
  truth = reference(params, x, KEEP, exact=exact, causal=causal)
  np.testing.assert_allclose(found, truth, atol=5e-5)
  other = reference(params, x, KEEP, exact=not exact, causal=causal)
  assert np.abs(found - other).max() > 1e-3
  # The adapter's own mask and a float mask with a 1 for keep are the same.
  own = adapter(exact=exact, causal=causal, key_mask=KEEP)
  np.testing.assert_array_equal(run(kind, own, params, x), found)
  as_float = ROW_MASK.astype(jnp.float32)
  np.testing.assert_array_equal(
    run(kind, adapter(exact=exact, causal=causal), params, x, as_float), found
  )


@pytest.mark.parametrize('kind', ['linen', 'nnx'])
def test_packed_sequences(kind):
  """Each segment as the module computes it alone."""
  params, x = parameters(4), twin.normal(6, B, L, E)
  names = jnp.asarray(np.repeat([[1, 2], [0, 3]], [6, L - 6], axis=1))
  packed = adapter(causal=True, segment_ids=names)
  found = run(kind, packed, params, x)
  for part in (slice(0, 6), slice(6, L)):
    alone = reference(params, x[:, part], None, exact=False, causal=True)
    np.testing.assert_allclose(found[:, part], alone, atol=5e-5)
  with pytest.raises(ValueError, match='packed sequences to it as segment_ids'):
    run(kind, adapter(), params, x, jnp.ones((B, 1, L, L), bool))


@pytest.mark.parametrize(('kind', 'causal'), [('linen', True), ('nnx', False)])
def test_exact_adapter_is_flax_own_attention(kind, causal):
  params, x = parameters(1), twin.normal(5, B, L, E)
  # Every query sees key 0, so that Flax's treatment of empty rows is not asked.
  keep = KEEP.at[:, 0].set(True)
  row = keep[:, None, None, :]
  full = row & jnp.tri(L, dtype=bool) if causal else row
  if kind == 'linen':
    own = linen(nn.dot_product_attention)
    expected = own.apply({'params': params}, x, mask=full)
  else:
    own = build_nnx(nnx.dot_product_attention, params)
    expected = own(x, mask=jnp.broadcast_to(full, (B, 1, L, L)))
  found = run(kind, adapter(exact=True, causal=causal), params, x, row)
  np.testing.assert_allclose(found, expected, atol=2e-6)


@pytest.mark.parametrize('kind', ['linen', *marks.slow('nnx')])
def test_gradients_agree_with_finite_differences(kind):
  params, x = parameters(2), twin.normal(6, B, L, E)
  fn = adapter(causal=True)

  @jax.jit
  def gradient(params):
    loss = lambda p: jnp.sin(run(kind, fn, p, x, ROW_MASK)).sum()
    return jax.grad(loss)(params)

  rng = seeds.rng(0)
  direction = jax.tree.map(lambda a: rng.normal(size=a.shape), params)
  slopes = jax.tree.map(np.vdot, gradient(params), direction)
  found = float(sum(jax.tree.leaves(slopes)))

  def loss(step):
    moved = jax.tree.map(
      lambda a, b: np.asarray(a, float) + step * b, params, direction
    )
    return np.sin(reference(moved, x, KEEP, exact=False, causal=True)).sum()

  slope = (loss(1e-4) - loss(-1e-4)) / 2e-4
  np.testing.assert_allclose(found, slope, rtol=1e-3)


def test_nnx_trains_parameters_only_and_redraws_without_compiling():
  module = build_nnx(adapter(causal=True), parameters())
  x, traces = twin.normal(3, B, L, E), []

  @nnx.jit
  def gradient(module, x):
    traces.append(1)
    return nnx.grad(lambda m: jnp.square(m(x)).sum())(module)

  first = gradient(module, x)
  assert set(first) == {'query', 'key', 'value', 'out'}
  again = FAVOR.draw(seeds.key(1), layer=0, step=1000, num_heads=H, head_dim=D)
  module.attention_fn = nnx.data(plugins.AttentionFn(FAVOR, again, causal=True))
  second = gradient(module, x)
  assert len(traces) == 1
  a, b = (np.asarray(g['out']['kernel'][...]) for g in (first, second))
  assert np.abs(a - b).max() > 1e-4


def flax_decode(kind, fn, params, x):
  """Outputs of decoding with Flax's cache, one position at a time."""
  if kind == 'nnx':
    module = build_nnx(fn, params, decode=True)
    module.init_cache(x.shape)
    step = nnx.jit(lambda m, x: m(x))
    steps = [step(module, x[:, i : i + 1]) for i in range(L)]
    return np.concatenate(steps, axis=1)
  module = linen(fn, decode=True)
  cache = jax.jit(module.init)(seeds.key(0), x)['cache']

  @jax.jit
  def step(cache, x):
    variables = {'params': params, 'cache': cache}
    return module.apply(variables, x, mutable=['cache'])

  outs = []
  for i in range(L):
    out, updated = step(cache, x[:, i : i + 1])
    cache = updated['cache']
    outs.append(out)
  return np.concatenate(outs, axis=1)


@pytest.mark.parametrize(
  ('kind', 'exact'),
  [
    *(('linen', True), ('nnx', False)),
    *marks.slow(('linen', False), ('nnx', True)),
  ],
)
def test_flax_cache_decodes_what_teacher_forcing_gives(kind, exact):
  params, x = parameters(3), twin.normal(7, B, L, E)
  fn = adapter(exact=exact, causal=True)
  found = flax_decode(kind, fn, params, np.asarray(x))
  truth = reference(params, x, None, exact=exact, causal=True)
  np.testing.assert_allclose(found, truth, atol=5e-5)


def call(fn, **kwargs):
  q, k, v = twin.inputs(1, l=L)
  return fn(q, k, v, **kwargs)


def test_nnx_flag_and_batch_axes_and_grouped_heads():
  q, k, v = twin.inputs(1, l=L)
  expected = adapter(causal=True)(q, k, v)
  np.testing.assert_array_equal(call(adapter(), is_causal=True), expected)
  more = [x[None, :, None] for x in (q, k, v)]
  np.testing.assert_array_equal(
    adapter(causal=True)(*more, mask=ROW_MASK[None, :, None])[0, :, 0],
    adapter(causal=True)(q, k, v, mask=ROW_MASK),
  )
  single = adapter(causal=True)(q[0], k[0], v[0])
  np.testing.assert_allclose(single, expected[0], atol=1e-6)
  grouped = adapter(exact=True)(q, k[:, :, :1], v[:, :, :1])
  both = nnx.dot_product_attention(q, k[:, :, :1], v[:, :, :1])
  np.testing.assert_allclose(grouped, both, atol=2e-6)


def test_type_and_precision_are_used():
  fn = adapter()
  assert call(fn, dtype=jnp.bfloat16).dtype == jnp.bfloat16
  np.testing.assert_array_equal(call(fn, precision='highest'), call(fn))
  exact = functools.partial(call, adapter(exact=True))
  program = lambda **options: str(jax.make_jaxpr(lambda: exact(**options))())
  text = program(precision='highest')
  assert 'HIGHEST' in text
  assert 'HIGHEST' not in program()
  assert text == program(precision=jax.lax.Precision.HIGHEST)


FULL = jnp.ones((B, 1, L, L), bool)


@pytest.mark.parametrize(
  ('kwargs', 'message'),
  [
    ({'bias': jnp.zeros((B, H, L, L))}, 'bias acts on attention weights'),
    ({'mask': FULL}, r'differs between queries.*causal=True.*\(2, 1, 13, 13\)'),
    ({'mask': FULL[:, :, :1].repeat(H, 1)}, 'differs between queries or heads'),
    ({'mask': FULL[0, 0]}, 'differs between queries'),
    ({'dropout_rate': 0.1, 'deterministic': False}, r'dropout_rate=0\.1'),
    ({'module': object()}, 'module acts on attention weights'),
    ({'qk_attn_weights_einsum': jnp.einsum}, 'qk_attn_weights_einsum'),
    ({'attn_weights_value_einsum': jnp.einsum}, 'attn_weights_value_einsum'),
    ({'precision': ('highest', 'default')}, 'one for both operands'),
  ],
)
def test_what_cannot_be_done_is_refused(kwargs, message):
  with pytest.raises(ValueError, match=message):
    call(adapter(causal=True), **kwargs)


def test_dropout_rate_is_harmless_when_deterministic():
  np.testing.assert_array_equal(
    call(adapter(), dropout_rate=0.5, deterministic=True), call(adapter())
  )


@pytest.mark.parametrize('kind', ['linen', 'nnx'])
def test_flax_passes_what_is_refused_on(kind):
  """Flax drops keywords that a function does not name: ours names them."""
  x, params = twin.normal(3, B, L, E), parameters()
  fn = adapter()

  def build(**kwargs):
    if kind == 'linen':
      module = linen(fn, **kwargs)
      rngs = {'dropout': seeds.key(0)}
      return lambda **k: module.apply({'params': params}, x, rngs=rngs, **k)
    return functools.partial(build_nnx(fn, params, **kwargs), x)

  with pytest.raises(ValueError, match='cannot be dropped'):
    build(dropout_rate=0.1)(deterministic=False)
  with pytest.raises(ValueError, match='module acts'):
    build()(sow_weights=True)
  with pytest.raises(ValueError, match='differs between queries'):
    jax.jit(lambda mask: build()(mask=mask))(FULL)


def test_single_query_without_a_mask_is_ambiguous():
  q, k, v = twin.inputs(1, l=L)
  with pytest.raises(ValueError, match='which came before'):
    adapter(causal=True)(q[:, :1], k, v)
  with pytest.raises(ValueError, match='must divide'):
    adapter()(q, *(jnp.concatenate([x, x[:, :, :1]], axis=2) for x in (k, v)))
