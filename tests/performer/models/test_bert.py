"""A pretrained BERT's parameters, read, used and written back."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from performer import attention
from performer.models import bert, compare, convert_bert
from tests import seeds

LAYERS, HEADS, WIDTH, FF, VOCAB, LENGTH = 2, 2, 8, 12, 11, 10
_erf = np.vectorize(math.erf)


def state_dictionary(seed=0, *, tied=False, vocab=VOCAB, length=16):
  """Random arrays under the names and in the shapes of `transformers`."""
  rng = seeds.rng(seed)

  def linear(name, out, inside):
    return {f'{name}.weight': (out, inside), f'{name}.bias': (out,)}

  def norm(name):
    return {f'{name}.weight': (WIDTH,), f'{name}.bias': (WIDTH,)}

  shapes = {
    'bert.embeddings.word_embeddings.weight': (vocab, WIDTH),
    'bert.embeddings.position_embeddings.weight': (length, WIDTH),
    'bert.embeddings.token_type_embeddings.weight': (2, WIDTH),
    'cls.predictions.bias': (vocab,),
    'bert.pooler.dense.weight': (WIDTH, WIDTH),
  }
  shapes |= norm('bert.embeddings.LayerNorm')
  shapes |= linear('cls.predictions.transform.dense', WIDTH, WIDTH)
  shapes |= norm('cls.predictions.transform.LayerNorm')
  if not tied:
    shapes['cls.predictions.decoder.weight'] = (vocab, WIDTH)
  for i in range(LAYERS):
    layer = f'bert.encoder.layer.{i}'
    for name in ('query', 'key', 'value'):
      shapes |= linear(f'{layer}.attention.self.{name}', WIDTH, WIDTH)
    shapes |= linear(f'{layer}.attention.output.dense', WIDTH, WIDTH)
    shapes |= norm(f'{layer}.attention.output.LayerNorm')
    shapes |= linear(f'{layer}.intermediate.dense', FF, WIDTH)
    shapes |= linear(f'{layer}.output.dense', WIDTH, FF)
    shapes |= norm(f'{layer}.output.LayerNorm')
  return {
    name: rng.normal(size=shape).astype(np.float32)
    for name, shape in shapes.items()
  }


def logits(weights, tokens, keep, heads=HEADS):
  """arXiv:1810.04805 in float64, from PyTorch's arrays as they are."""
  weights = {name: np.asarray(x, float) for name, x in weights.items()}

  def linear(name, x):
    return x @ weights[f'{name}.weight'].T + weights[f'{name}.bias']

  def norm(name, x):
    x = x - x.mean(-1, keepdims=True)
    x = x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-12)
    return x * weights[f'{name}.weight'] + weights[f'{name}.bias']

  def gelu(x):
    return x * (1 + _erf(x / math.sqrt(2))) / 2

  def split(x):
    return x.reshape(*x.shape[:2], heads, -1).transpose(0, 2, 1, 3)

  embeddings = 'bert.embeddings.{}_embeddings.weight'.format
  x = weights[embeddings('word')][tokens]
  x = x + weights[embeddings('position')][: tokens.shape[1]]
  x = norm(
    'bert.embeddings.LayerNorm', x + weights[embeddings('token_type')][0]
  )
  count = sum(name.endswith('self.query.bias') for name in weights)
  for i in range(count):
    layer = f'bert.encoder.layer.{i}.'
    q, k, v = (
      split(linear(f'{layer}attention.self.{name}', x))
      for name in ('query', 'key', 'value')
    )
    scores = q @ k.swapaxes(-1, -2) / math.sqrt(q.shape[-1])
    scores = np.where(keep[:, None, None], scores, -np.inf)
    scores = np.exp(scores - scores.max(-1, keepdims=True))
    h = scores / scores.sum(-1, keepdims=True) @ v
    h = h.transpose(0, 2, 1, 3).reshape(x.shape)
    h = linear(f'{layer}attention.output.dense', h)
    x = norm(f'{layer}attention.output.LayerNorm', x + h)
    h = gelu(linear(f'{layer}intermediate.dense', x))
    x = norm(f'{layer}output.LayerNorm', x + linear(f'{layer}output.dense', h))
  x = gelu(linear('cls.predictions.transform.dense', x))
  x = norm('cls.predictions.transform.LayerNorm', x)
  out = weights.get(
    'cls.predictions.decoder.weight', weights[embeddings('word')]
  )
  return x @ out.T + weights['cls.predictions.bias']


def model(mechanism, **options):
  return bert.Bert(VOCAB, 16, mechanism, LAYERS, HEADS, WIDTH, FF, **options)


def inputs(seed=3):
  rng = seeds.rng(seed)
  tokens = jnp.asarray(rng.integers(0, VOCAB, (2, LENGTH)))
  return tokens, jnp.arange(LENGTH) < jnp.array([[LENGTH], [7]])


@pytest.mark.parametrize('tied', [False, True])
def test_exact_attention_gives_the_pretrained_logits(tied):
  weights = state_dictionary(tied=tied)
  params, rest = convert_bert.from_pytorch(weights, num_heads=HEADS)
  assert set(rest) == {'bert.pooler.dense.weight'}
  tokens, keep = inputs()
  found = jax.jit(
    lambda params: model(attention.Exact()).apply(
      {'params': params}, tokens, mask=keep, projections=None
    )
  )(params)
  truth = logits(weights, np.asarray(tokens), np.asarray(keep))
  np.testing.assert_allclose(found[keep], truth[keep], atol=1e-4)


def test_the_way_back_changes_no_bit():
  weights = state_dictionary(1)
  params, rest = convert_bert.from_pytorch(weights, num_heads=HEADS)
  back = convert_bert.to_pytorch(params) | rest
  assert set(back) == set(weights)
  for name, x in weights.items():
    np.testing.assert_array_equal(back[name], x)
  tokens, keep = inputs()
  init = jax.jit(
    lambda key: model(attention.Exact()).init(
      key, tokens, mask=keep, projections=None
    )
  )
  fresh = init(seeds.key(0))['params']
  assert set(convert_bert.to_pytorch(fresh)) == set(weights) - set(rest)


@pytest.mark.slow
def test_fast_attention_of_a_pretrained_model():
  """Errors are told by layer, and shrink with the number of features."""
  params, _ = convert_bert.from_pytorch(state_dictionary(2), num_heads=HEADS)
  # Smaller queries: random ones have norms that no estimate stands.
  for name in ('query', 'key'):
    params['blocks']['attention'][name] = jax.tree.map(
      lambda x: 0.2 * x, params['blocks']['attention'][name]
    )
  tokens, keep = inputs()
  errors = []
  for features in (16, 1024):
    fast = model(attention.Favor(features=features))

    @jax.jit
    def of_draw(key, fast=fast):
      w = fast.draw_projections(key, 0)
      return compare.layer_errors(
        fast, params, tokens, mask=keep, projections=w
      )

    found = [of_draw(seeds.key(i)) for i in range(5)]
    assert found[0].attention.shape == (LAYERS,)
    errors.append(np.median([one.logits for one in found]))
  assert 0 < errors[1] < 0.5 * errors[0]


def test_refused():
  whole = state_dictionary()
  name = 'bert.encoder.layer.1.output.dense.bias'
  without = {key: x for key, x in whole.items() if key != name}
  read = convert_bert.from_pytorch
  other = {'tokens': {'embedding': np.ones((2, 2))}}
  for call, message in (
    (lambda: read(without, num_heads=HEADS), rf"without \['{name}"),
    (lambda: read({}, num_heads=HEADS), r'at least one layer.*0 layers'),
    (lambda: read(whole, num_heads=3), 'divide the width 8, got num_heads=3'),
    (lambda: convert_bert.to_pytorch(other), 'parameters of a Bert'),
    (lambda: model(attention.Exact(), causal=True), 'bidirectional'),
  ):
    with pytest.raises(ValueError, match=message):
      call()
