"""Pretrained exact models keep their parameters, biases included."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx

from performer import attention
from performer.models import attention as attention_lib
from performer.models import compare, convert
from tests import marks, seeds, trees
from tests.performer.attention import attention_cases as cases
from tests.performer.attention import attention_twin as twin
from tests.performer.models import model_cases

VOCAB, LENGTH, LAYERS, H, D, E = 6, 10, 2, 2, 8, 16


class FlaxBlock(nn.Module):
  """A pre-LN block as a user of Flax writes it."""

  attention_fn: object = nn.dot_product_attention

  @nn.compact
  def __call__(self, x, mask):
    h = nn.LayerNorm(name='ln_1')(x)
    attend = nn.MultiHeadDotProductAttention(
      H, attention_fn=self.attention_fn, name='self_attention'
    )
    x = x + attend(h, mask=mask)
    h = nn.LayerNorm(name='ln_2')(x)
    h = nn.gelu(nn.Dense(2 * E, name='up')(h), approximate=False)
    return x + nn.Dense(E, name='down')(h)


class FlaxModel(nn.Module):
  """A causal language model with biases everywhere, layers unrolled."""

  @nn.compact
  def __call__(self, tokens):
    x = nn.Embed(VOCAB, E, name='embed')(tokens)
    x = x + self.param('pos', nn.initializers.normal(0.1), (LENGTH, E))
    mask = nn.make_causal_mask(tokens)
    for i in range(LAYERS):
      x = FlaxBlock(name=f'layer_{i}')(x, mask)
    return nn.Dense(VOCAB, name='head')(nn.LayerNorm(name='ln')(x))


NAMES = {
  'ln_attention': 'ln_1',
  'attention': 'self_attention',
  'ln_mlp': 'ln_2',
  'mlp_in': 'up',
  'mlp_out': 'down',
}


def batch(seed):
  return jnp.asarray(seeds.rng(seed).integers(0, VOCAB, (8, LENGTH), np.int32))


@pytest.fixture(scope='module')
def pretrained():
  """Parameters, of which none is as at the start, biases neither."""
  variables = jax.eval_shape(FlaxModel().init, seeds.key(0), batch(0))
  rng = seeds.rng(0)
  return jax.tree.map(
    lambda x: np.float32(0.4 * rng.standard_normal(x.shape)),
    variables['params'],
  )


@pytest.fixture(scope='module')
def ours(pretrained):
  return jax.jit(convert_model)(pretrained)


def convert_model(params):
  blocks = [
    {ours: params[f'layer_{i}'][theirs] for ours, theirs in NAMES.items()}
    for i in range(LAYERS)
  ]
  return convert.join_transformer(
    blocks,
    tokens=params['embed'],
    positions=params['pos'],
    ln_out=params['ln'],
    logits=params['head'],
  )


split = jax.jit(convert.split_transformer)


def convert_back(params):
  blocks, outside = split(params)
  tree = {
    'embed': outside['tokens'],
    'pos': outside['positions'],
    'ln': outside['ln_out'],
    'head': outside['logits'],
  }
  for i, block in enumerate(blocks):
    tree[f'layer_{i}'] = {NAMES[name]: part for name, part in block.items()}
  return tree


def make(mechanism):
  sizes = {'vocab_size': VOCAB, 'max_length': LENGTH}
  return model_cases.small(mechanism, attention_bias=True, **sizes)


def assert_same_bits(a, b):
  assert jax.tree.structure(a) == jax.tree.structure(b)
  trees.check_same(a, b)


def test_pretrained_model_keeps_its_logits_and_its_bits(pretrained, ours):
  model, tokens = make(attention.Exact()), batch(100)
  options = {'mask': tokens >= 0, 'projections': None}
  init = functools.partial(model.init, tokens=tokens, **options)
  fresh = nn.unbox(jax.eval_shape(init, seeds.key(0)))['params']
  assert jax.tree.structure(fresh) == jax.tree.structure(ours)

  @jax.jit
  def apply(params):
    return model.apply({'params': params}, tokens, **options)

  logits = apply(ours)
  expected = jax.jit(FlaxModel().apply)({'params': pretrained}, tokens)
  np.testing.assert_allclose(logits, expected, atol=2e-5)
  assert_same_bits(convert_back(ours), dict(pretrained))
  # Losing the biases, as converters have done, would have been seen.
  broken = jax.tree.map(lambda x: x, ours)
  bias = broken['blocks']['attention']['value']['bias']
  broken['blocks']['attention']['value']['bias'] = 0 * bias
  logits = apply(broken)
  assert np.abs(logits - expected).max() > 1e-3


def test_errors_are_told_layer_by_layer(ours):
  tokens = batch(101)
  model = make(cases.favor('elu1'))
  w = model.draw_projections(seeds.key(1), 0)
  mask = jnp.asarray(np.arange(LENGTH) < np.full((8, 1), 8))
  errors = jax.jit(
    functools.partial(compare.layer_errors, model, mask=mask, projections=w)
  )(ours, tokens)
  # Layer 0 by hand, in float64.
  p = jax.tree.map(lambda x: np.asarray(x, float), ours)
  x = p['tokens']['embedding'][tokens] + p['positions']
  block = jax.tree.map(lambda leaf: leaf[0], p['blocks'])
  x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
  x = x * block['ln_attention']['scale'] + block['ln_attention']['bias']
  q, k, v = (
    np.einsum('ble,ehd->blhd', x, block['attention'][name]['kernel'])
    + block['attention'][name]['bias']
    for name in ('query', 'key', 'value')
  )
  found, truth = (
    twin.attend(q, k, v, np.asarray(w[0], float), kernel=kernel, causal=True)
    for kernel in ('elu1', 'exact')
  )
  keep = np.asarray(mask)[..., None, None]
  expected = np.linalg.norm((found - truth) * keep) / np.linalg.norm(
    truth * keep
  )
  np.testing.assert_allclose(errors.attention[0], expected, rtol=2e-3)
  assert errors.attention.shape == errors.hidden.shape == (LAYERS,)
  assert str(errors).count('\n') == LAYERS + 1


def test_exact_attention_has_no_error(ours):
  tokens = batch(102)
  run = functools.partial(
    compare.layer_errors,
    make(attention.Exact()),
    mask=tokens >= 0,
    projections=None,
  )
  errors = jax.jit(run)(ours, tokens)
  assert not np.any(errors.attention)
  assert not np.any(errors.hidden)
  assert errors.logits == 0


def flax_params(use_bias):
  module = nn.MultiHeadDotProductAttention(
    H, qkv_features=H * D, out_features=5, use_bias=use_bias
  )
  x = twin.normal(1, 2, LENGTH, E)
  params = jax.jit(module.init)(seeds.key(0), x)['params']
  leaves, tree = jax.tree.flatten(params)
  noisy = [leaf + twin.normal(i, *leaf.shape) for i, leaf in enumerate(leaves)]
  return module, jax.tree.unflatten(tree, noisy), x


def our_module(use_bias):
  return attention_lib.MultiHeadAttention(
    H, 5, attention.Exact(), head_dim=D, use_bias=use_bias
  )


@pytest.mark.parametrize('use_bias', [False, *marks.slow(True)])
def test_linen_module_converts_both_ways(use_bias):
  module, params, x = flax_params(use_bias)
  ours = convert.from_linen(params)
  mine = functools.partial(our_module(use_bias).apply, projection=None)
  out = jax.jit(mine)({'params': ours}, x)
  expected = jax.jit(module.apply)({'params': params}, x)
  np.testing.assert_allclose(out, expected, rtol=1e-4, atol=1e-4)
  assert_same_bits(convert.to_linen(ours), dict(params))


@pytest.mark.parametrize('use_bias', [*marks.slow(False), True])
def test_nnx_module_converts_both_ways(use_bias):
  def make_nnx(seed):
    return nnx.MultiHeadAttention(
      H,
      E,
      H * D,
      5,
      use_bias=use_bias,
      bias_init=nnx.initializers.normal(1.0),
      decode=False,
      rngs=nnx.Rngs(seed),
    )

  x = twin.normal(2, 2, LENGTH, E)
  module, target = make_nnx(0), make_nnx(1)
  ours = convert.from_nnx(module)
  apply = functools.partial(our_module(use_bias).apply, projection=None)
  out = jax.jit(apply)({'params': ours}, x)
  np.testing.assert_allclose(out, module(x), rtol=1e-4, atol=1e-4)
  before = target(x)
  copy = convert.to_nnx(ours, target)
  np.testing.assert_array_equal(copy(x), module(x))
  np.testing.assert_array_equal(target(x), before)  # Untouched.
  assert_same_bits(convert.from_nnx(copy), ours)
  with pytest.raises(ValueError, match='shapes of the parameters'):
    convert.to_nnx(convert.from_linen(flax_params(not use_bias)[1]), target)


def test_parameters_as_init_returns_them():
  """They are boxed with the names of their axes."""
  module, x = our_module(True), twin.normal(2, 2, LENGTH, E)
  init = functools.partial(module.init, projection=None)
  boxed = jax.jit(init)(seeds.key(0), x)['params']
  assert_same_bits(convert.to_linen(boxed), dict(nn.meta.unbox(boxed)))
  with pytest.raises(ValueError, match='must be a mapping'):
    convert.to_linen({name: [0] for name in boxed})


def test_what_would_change_the_function_is_refused():
  _, params, x = flax_params(True)
  normed = nn.MultiHeadDotProductAttention(H, normalize_qk=True)
  with pytest.raises(ValueError, match='query_ln'):
    convert.from_linen(jax.jit(normed.init)(seeds.key(0), x)['params'])
  for changed, message in (
    (params | {'out': {'kernel': params['out']['kernel']}}, 'biases or none'),
    ({k: v for k, v in params.items() if k != 'value'}, "'value'"),
    (jax.tree.map(jnp.ravel, params), 'kernels must be'),
  ):
    with pytest.raises(ValueError, match=message):
      convert.from_linen(changed)
  grouped = nnx.MultiHeadAttention(
    H, E, num_kv_heads=1, decode=False, rngs=nnx.Rngs(0)
  )
  with pytest.raises(ValueError, match='num_kv_heads=1'):
    convert.from_nnx(grouped)


def test_blocks_that_do_not_stack_are_refused(ours):
  (one, two), outside = split(ours)
  wide = two | {'ln_mlp': {'scale': jnp.ones(3), 'bias': jnp.ones(3)}}
  for blocks, message in (
    ([], 'must not be empty'),
    ([one, two | {'gate': {}}], r'block 1.*gate'),
    ([one, wide], 'equal structure'),
  ):
    with pytest.raises(ValueError, match=message):
      convert.join_transformer(blocks, **outside)
  with pytest.raises(ValueError, match='logits'):
    convert.split_transformer({'blocks': one})
