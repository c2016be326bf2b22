import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from performer import attention
from performer.models import transformer
from tests import marks, seeds, trees
from tests.performer.models import model_cases

VOCAB, LENGTH, LAYERS, HEADS, WIDTH = 11, 12, 3, 2, 8
# The kernel that compiles fastest: what is tested here is around it.
FAVOR = attention.Favor(kernel='elu1', features=8, redraw_every=10, chunk=4)


def make(mechanism, *, causal, **kwargs):
  sizes = {'vocab_size': VOCAB, 'max_length': LENGTH, 'num_layers': LAYERS}
  sizes |= {'num_heads': HEADS, 'd_model': WIDTH, 'd_ff': 16}
  return model_cases.small(mechanism, causal=causal, **sizes | kwargs)


def inputs(seed=0, length=LENGTH):
  rng = seeds.rng(seed)
  tokens = jnp.asarray(rng.integers(0, VOCAB, (2, length)))
  return tokens, jnp.ones((2, length), bool)


@functools.partial(jax.jit, static_argnums=0, static_argnames='train')
def run(model, params, tokens, mask, projections, **kwargs):
  return model.apply(
    {'params': params}, tokens, mask=mask, projections=projections, **kwargs
  )


def numpy_transformer(params, tokens, *, causal):
  """The same model in numpy, float64, with softmax attention."""
  params = jax.tree.map(lambda x: np.asarray(x, np.float64), params)

  def norm(x, p):
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(
      x.var(-1, keepdims=True) + 1e-6
    )
    return x * p['scale'] + p['bias']

  def gelu(x):
    return 0.5 * x * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))

  x = params['tokens']['embedding'][tokens] + params['positions']
  for layer in range(LAYERS):
    p = jax.tree.map(lambda x: x[layer], params['blocks'])  # noqa: B023
    h = norm(x, p['ln_attention'])
    q, k, v = (
      np.einsum('ble,ehd->bhld', h, p['attention'][name]['kernel'])
      for name in ('query', 'key', 'value')
    )
    weights = np.exp(q @ k.swapaxes(-1, -2) / math.sqrt(WIDTH // HEADS))
    if causal:
      weights = np.tril(weights)
    weights /= weights.sum(-1, keepdims=True)
    x = x + np.einsum(
      'bhld,hde->ble', weights @ v, p['attention']['out']['kernel']
    )
    h = norm(x, p['ln_mlp'])
    h = gelu(h @ p['mlp_in']['kernel'] + p['mlp_in']['bias'])
    x = x + h @ p['mlp_out']['kernel'] + p['mlp_out']['bias']
  x = norm(x, params['ln_out'])
  return x @ params['logits']['kernel'] + params['logits']['bias']


@pytest.mark.parametrize(
  ('causal', 'dtype', 'atol'),
  [(False, 'float32', 2e-5), (True, 'float64', 1e-12)],
)
def test_agrees_with_a_plain_transformer(causal, dtype, atol):
  tokens, mask = inputs(3)
  with jax.enable_x64(dtype == 'float64'):
    model = make(attention.Exact(), causal=causal, dtype=jnp.dtype(dtype))
    params = jax.tree.map(lambda x: x.astype(dtype), model_cases.init(model)[0])
    found = np.asarray(run(model, params, tokens, mask, None))
  expected = numpy_transformer(params, np.asarray(tokens), causal=causal)
  np.testing.assert_allclose(found, expected, atol=atol)


def test_exact_and_fast_attention_share_one_parameter_tree():
  tokens, mask = inputs()

  def fresh(mechanism):
    model = make(mechanism, causal=True, num_layers=1)
    w = model.draw_projections(seeds.key(9), 0)
    init = jax.jit(model.init)
    return init(seeds.key(0), tokens, mask=mask, projections=w), w

  (exact, _), (fast, projections) = fresh(attention.Exact()), fresh(FAVOR)
  assert jax.tree.structure(exact) == jax.tree.structure(fast)
  trees.check_same(exact, fast)
  assert projections.shape == (1, 8, WIDTH // HEADS)


@pytest.mark.parametrize('mechanism', [*marks.slow(attention.Exact()), FAVOR])
def test_decoder_cannot_see_the_future(mechanism):
  model = make(mechanism, causal=True)
  params, projections = model_cases.init(model)
  tokens, mask = inputs(1)
  changed = tokens.at[:, 7:].set((tokens[:, 7:] + 3) % VOCAB)
  before = run(model, params, tokens, mask, projections)
  after = run(model, params, changed, mask, projections)
  np.testing.assert_array_equal(before[:, :7], after[:, :7])
  assert not np.allclose(before[:, 7:], after[:, 7:])


@pytest.mark.parametrize('mechanism', [*marks.slow(attention.Exact()), FAVOR])
def test_encoder_sees_both_sides_but_no_padding(mechanism):
  model = make(mechanism, causal=False)
  params, projections = model_cases.init(model)
  tokens, mask = inputs(2)
  mask = mask.at[:, 9:].set(False)
  base = run(model, params, tokens, mask, projections)
  padding = tokens.at[:, 9:].set((tokens[:, 9:] + 1) % VOCAB)
  found = run(model, params, padding, mask, projections)
  np.testing.assert_array_equal(base[:, :9], found[:, :9])
  visible = tokens.at[:, 8].set((tokens[:, 8] + 1) % VOCAB)
  found = run(model, params, visible, mask, projections)
  assert not np.allclose(base[:, 0], found[:, 0])


def test_projections_differ_by_layer_and_change_on_schedule():
  model, key = make(FAVOR, causal=True), seeds.key(4)
  first = model.draw_projections(key, 0)
  assert not np.allclose(first[0], first[1])
  np.testing.assert_array_equal(first, model.draw_projections(key, 9))
  assert not np.allclose(first, model.draw_projections(key, 10))
  assert make(attention.Exact(), causal=True).draw_projections(key, 0) is None


def test_depth_does_not_grow_the_program():
  def size(layers):
    model = make(FAVOR, causal=True, num_layers=layers)
    params, projections = jax.eval_shape(lambda: model_cases.init(model))
    traced = jax.make_jaxpr(lambda *args: run(model, *args))(
      params, *inputs(), projections
    )
    return len(str(traced.jaxpr).splitlines())

  assert size(2) == size(6)


@pytest.mark.slow
def test_remat_changes_no_gradient():
  tokens, mask = inputs()

  def grads(remat):
    model = make(FAVOR, causal=False, remat=remat)
    params, projections = model_cases.init(model)

    @jax.jit
    def gradient(params):
      return jax.grad(
        lambda p: jnp.sum(run(model, p, tokens, mask, projections) ** 2)
      )(params)

    return gradient(params)

  trees.check_close(grads(False), grads(True), rtol=1e-4, atol=1e-4)


def test_low_precision_keeps_parameters_and_logits_float32():
  model = make(FAVOR, causal=False, dtype=jnp.bfloat16)
  params, projections = model_cases.init(model)
  tokens, mask = inputs()
  logits = run(model, params, tokens, mask, projections)
  assert logits.dtype == jnp.float32
  assert {x.dtype for x in jax.tree.leaves(params)} == {jnp.dtype('float32')}
  full = run(make(FAVOR, causal=False), params, tokens, mask, projections)
  assert not np.array_equal(logits, full)
  np.testing.assert_allclose(logits, full, atol=0.2)


def test_dropout_acts_in_training_only():
  model = make(FAVOR, causal=False, dropout=0.5)
  params, projections = model_cases.init(model)
  tokens, mask = inputs()
  args = (model, params, tokens, mask, projections)
  np.testing.assert_array_equal(run(*args), run(*args))
  first, again, other = (
    run(*args, train=True, rngs={'dropout': jax.random.key(i)})
    for i in (0, 0, 1)
  )
  np.testing.assert_array_equal(first, again)
  assert not np.allclose(first, other)


def test_positions_start_as_sinusoids():
  codes = transformer.sinusoids(50, 7)
  assert codes.shape == (50, 7)
  for position, column in ((0, 0), (3, 4), (49, 6), (13, 5)):
    angle = position / 1e4 ** (2 * (column // 2) / 7)
    expected = math.cos(angle) if column % 2 else math.sin(angle)
    assert codes[position, column] == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    ({'activation': 'swish'}, r"'gelu', 'relu'.*'swish'"),
    ({'dropout': 1.0}, 'dropout'),
    ({'num_layers': 0}, 'at least 1'),
    ({'num_heads': 3}, r'num_heads=3 .*d_model=8'),
  ],
)
def test_bad_options_are_refused(change, message):
  with pytest.raises(ValueError, match=message):
    make(FAVOR, causal=True, **change)


def test_sequence_must_fit_the_positions():
  model = make(FAVOR, causal=True)
  params, projections = model_cases.init(model)
  tokens, mask = inputs(length=LENGTH + 1)
  with pytest.raises(ValueError, match='length=13 max_length=12'):
    run(model, params, tokens, mask, projections)
