"""The model: sizes, padding, causality, and caches against full forwards."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from hpo.optformer import blocks, models, presets, relative, vocabulary
from performer import attention
from tests import refusals, seeds

BATCH, TEXT, LENGTH = 2, 12, 30
HISTORY = np.array([20, 13], np.int32)
ONE = np.ones((1, 2), np.int32)


@pytest.fixture(scope='module')
def inputs():
  rng = seeds.rng(0)
  metadata = rng.integers(1, 400, (BATCH, TEXT)).astype(np.int32)
  metadata[0, 8:] = 0
  tokens = rng.integers(0, 1008, (BATCH, LENGTH)).astype(np.int32)
  return jnp.asarray(metadata), jnp.asarray(tokens)


@pytest.fixture(scope='module')
def forward(model):
  return jax.jit(model.apply)


def count(model):
  shapes = jax.eval_shape(model.init, jax.random.key(0), ONE, ONE)
  return sum(x.size for x in jax.tree.leaves(nn.unbox(shapes)))


def expected_count(size, tables):
  """Parameters of a T5 v1.1 without biases, from the formula."""
  width, depth, heads, head_dim, d_ff = presets.SIZES[size]
  attend, mlp = 4 * width * heads * head_dim, 3 * width * d_ff
  encoder = attend + mlp + 2 * width
  decoder = 2 * attend + mlp + 3 * width
  return depth * (encoder + decoder) + 2 * width + 2 * 32 * heads + tables


def test_parameter_counts():
  base = models.OptFormer(
    33_152, 33_152, 768, 12, 12, 64, 2048, 32_100, 1000, shared=True
  )
  # Of Section 4.2: "250M".
  assert count(base) == 249_150_720
  assert expected_count('base', 2 * 33_152 * 768) == 249_150_720
  made = vocabulary.Compact()
  for size, options, rows in (
    ('cpu', {}, 2 * 1008 + 512),
    ('cpu', {'tied': True}, 1008 + 512),
    ('small', {}, 2 * 1008 + 512),
  ):
    width = presets.SIZES[size][0]
    found = count(presets.make(made, size, **options))
    assert found == expected_count(size, rows * width)


@pytest.mark.slow
def test_cached_reading_equals_full_forwards(model, variables, inputs, forward):
  metadata, tokens = inputs
  full = forward(variables, metadata, tokens)
  prefix = jax.jit(
    lambda p: model.apply(
      p,
      metadata,
      tokens[:, :20],
      jnp.asarray(HISTORY),
      capacity=32,
      method='start',
    )
  )(variables)

  def logits(x):
    return model.apply(variables, x, method='logits')

  rows = np.arange(BATCH)
  close = lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4)
  close(logits(prefix.last), full[rows, HISTORY - 1])
  bins = model.apply(variables, prefix.last, bins_only=True, method='logits')
  np.testing.assert_allclose(bins, logits(prefix.last)[:, 8:], atol=1e-6)

  after = HISTORY[:, None] + np.arange(4)
  following = tokens[rows[:, None], after]
  taken = jnp.array([4, 3])
  extended = jax.jit(
    lambda p, prefix: model.apply(p, prefix, following, taken, method='extend')
  )(variables, prefix)
  close(logits(extended.last), full[rows, HISTORY + taken - 1])

  branching = model.clone(attention=relative.Branches(model.attention))
  branch = branching.apply(variables, prefix, 3, 5, method='fork')
  step = jax.jit(
    lambda p, branch, ids: branching.apply(
      p, prefix, branch, ids, method='branch'
    )
  )
  for i in range(4):
    ids = jnp.repeat(following[:, i : i + 1], 3, axis=1)
    x, branch = step(variables, branch, ids)
    for n in range(3):
      close(logits(x[:, n]), full[rows, HISTORY + i])


@pytest.mark.slow
def test_fast_attention_decodes_as_it_reads(inputs):
  metadata, tokens = inputs
  model = presets.make(
    vocabulary.Compact(),
    'tiny',
    attention=attention.Favor(features=16, kernel='relu'),
  )
  drawn = model.draw_projections(jax.random.key(1), 0)
  options = {'projections': drawn}
  variables = nn.unbox(model.init(jax.random.key(0), *inputs, **options))
  full = model.apply(variables, metadata, tokens, **options)
  prefix = model.apply(
    variables,
    metadata,
    tokens[:, :20],
    jnp.asarray(HISTORY),
    capacity=20,
    method='start',
    **options,
  )
  branching = model.clone(attention=relative.Branches(model.attention))
  branch = branching.apply(variables, prefix, 3, 4, method='fork')
  rows = np.arange(BATCH)
  for i in range(4):
    ids = jnp.repeat(tokens[rows, HISTORY + i][:, None], 3, axis=1)
    x, branch = branching.apply(
      variables, prefix, branch, ids, method='branch', **options
    )
    found = model.apply(variables, x, method='logits')
    np.testing.assert_allclose(found[:, 1], full[rows, HISTORY + i], atol=1e-4)


def test_encoder_padding_changes_nothing(variables, inputs, forward):
  metadata, tokens = inputs
  full = forward(variables, metadata, tokens)
  cut = forward(variables, metadata[:1, :8], tokens[:1])
  np.testing.assert_allclose(cut, full[:1], atol=1e-5)


def test_causality(variables, inputs, forward):
  metadata, tokens = inputs
  full = forward(variables, metadata, tokens)
  edited = tokens.at[:, 17:].set((tokens[:, 17:] + 5) % 1008)
  found = forward(variables, metadata, edited)
  np.testing.assert_array_equal(found[:, :17], full[:, :17])
  assert (found[:, 17:] != full[:, 17:]).any(axis=-1).all()


def test_switches():
  made = vocabulary.Compact()
  codes = blocks.fourier_features(1000, 16)
  np.testing.assert_allclose((codes**2).mean(), 1, atol=0.02)
  # Nearer bins have nearer rows.
  wide = blocks.fourier_features(1000, 128)
  gaps = [((wide[k:] - wide[:-k]) ** 2).mean() for k in (1, 2, 4, 8, 16)]
  assert gaps == sorted(gaps)
  model = presets.make(made, 'tiny', tied=True, fourier=True)
  init = lambda ids: nn.unbox(model.init(jax.random.key(0), ids, ids))['params']
  # The other parameters take two seconds to compile.
  trials = jax.jit(lambda ids: init(ids)['trials'])(ONE)
  np.testing.assert_array_equal(trials[8:], codes)
  assert 'head' not in jax.eval_shape(init, ONE)


test_sizes_that_do_not_fit_are_refused = refusals.settings(
  lambda size='tiny', **options: presets.make(vocabulary.Compact(), size).clone(
    **options
  ),
  ({'num_layers': 0}, 'num_layers'),
  ({'dropout': 1.0}, 'dropout'),
  ({'first_bin': 9}, 'bins must lie'),
  ({'shared': True}, 'one size'),
  ({'size': 'huge'}, 'huge'),
)
