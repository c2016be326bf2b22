"""Decoding says what the model says when it reads everything at once."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from performer import attention
from performer.models import decoding
from tests import marks, seeds, trees
from tests.performer.attention import attention_cases as cases
from tests.performer.models import model_cases

VOCAB, MAX_LENGTH, PROMPT, NEW = 7, 24, 9, 8
LENGTHS = jnp.array([9, 1, 4])


def make(kernel='elu1', *, mechanism=None, causal=True):
  sizes = {'vocab_size': VOCAB, 'max_length': MAX_LENGTH, 'd_ff': 16}
  mechanism = mechanism or cases.favor(kernel, chunk=4)
  return model_cases.small(mechanism, causal=causal, **sizes)


@functools.partial(jax.jit, static_argnums=0)
def fresh(exact):
  token = jnp.zeros((1, 1), jnp.int32)
  variables = exact.init(seeds.key(0), token, mask=token == 0, projections=None)
  # Sharper logits than at the start, so that greedy choices are not ties.
  return jax.tree.map(lambda x: 1.5 * x, nn.unbox(variables)['params'])


def init(model):
  """Parameters, of which there is one program, and projections."""
  exact = model.clone(attention=attention.Exact(), causal=True)
  return fresh(exact), model.draw_projections(seeds.key(9), 0)


@functools.partial(jax.jit, static_argnums=0)
def forward(model, params, w, tokens, mask):
  return model.apply({'params': params}, tokens, mask=mask, projections=w)


def teacher(model, params, w, tokens):
  """Logits after each position, the whole sequence read at once."""
  return forward(model, params, w, tokens, jnp.ones(tokens.shape, bool))


prefill = jax.jit(decoding.prefill, static_argnums=0)
step = jax.jit(decoding.decode_step, static_argnums=0)
generate = jax.jit(
  decoding.generate,
  static_argnums=0,
  static_argnames=('max_new_tokens', 'temperature', 'stop_token'),
)


def random_tokens(seed, *shape):
  return jnp.asarray(seeds.rng(seed).integers(0, VOCAB, shape, np.int32))


@pytest.mark.parametrize(
  'kernel',
  [
    'elu1',
    *marks.slow('softmax_hyp', 'relu', 'softmax_pos', 'softmax_trig'),
  ],
)
def test_equals_teacher_forcing_with_prompts_of_different_lengths(kernel):
  model = make(kernel)
  params, w = init(model)
  tokens = random_tokens(1, 3, MAX_LENGTH)
  whole = np.asarray(teacher(model, params, w, tokens))
  rows, tokens = np.arange(3), np.asarray(tokens)
  # What stands in the padding of the prompts belongs to no sequence.
  padding = np.arange(PROMPT) >= np.asarray(LENGTHS)[:, None]
  prompts = np.where(padding, random_tokens(2, 3, PROMPT), tokens[:, :PROMPT])
  logits, cache = prefill(model, params, prompts, LENGTHS, projections=w)
  np.testing.assert_allclose(logits, whole[rows, LENGTHS - 1], atol=5e-4)
  for _ in range(NEW):
    token = tokens[rows, np.asarray(cache.lengths)]
    logits, cache = step(model, params, token, cache, projections=w)
    expected = whole[rows, np.asarray(cache.lengths) - 1]
    np.testing.assert_allclose(logits, expected, atol=5e-4)
  np.testing.assert_array_equal(cache.lengths, LENGTHS + NEW)


def test_ended_sequences_keep_their_cache():
  model = make()
  params, w = init(model)
  prompts = random_tokens(3, 3, PROMPT)
  _, cache = prefill(model, params, prompts, LENGTHS, projections=w)
  active = jnp.array([True, False, True])
  token = jnp.array([1, 2, 3])
  logits, after = step(
    model, params, token, cache, projections=w, active=active
  )
  alone, _ = step(model, params, token, cache, projections=w)
  np.testing.assert_array_equal(logits[::2], alone[::2])
  np.testing.assert_array_equal(after.lengths, LENGTHS + active)
  for old, new in zip(cache.state, after.state, strict=True):
    np.testing.assert_array_equal(old[:, 1], new[:, 1])
  assert np.any(cache.state.S[:, 0] != after.state.S[:, 0])


def test_cache_does_not_grow():
  model = make()
  params, w = init(model)

  def sizes(width):
    tokens = jnp.zeros((2, width), jnp.int32)
    lengths = jnp.full(2, width)
    _, cache = jax.eval_shape(
      lambda: decoding.prefill(model, params, tokens, lengths, projections=w)
    )
    return jax.tree.map(lambda x: x.shape, cache)

  assert sizes(3) == sizes(20)


# Two logits that differ by less may stand in either order: prefill and steps
# round otherwise than one reading of the whole.
TIE = 1e-3


def write(model, params, w, prompts, stop=None):
  """Greedy continuations, and what `generate` returns beside them."""
  options = {'max_new_tokens': NEW, 'stop_token': stop, 'projections': w}
  found = generate(model, params, prompts, LENGTHS, **options)
  rows = zip(np.asarray(found.tokens), found.lengths, strict=True)
  return [row[:length] for row, length in rows], found


def test_greedy_writing_is_the_slow_way():
  """Each token is the likeliest after what stands before it, read at once."""
  model = make()
  params, w = init(model)
  prompts = random_tokens(5, 3, PROMPT)
  written, found = write(model, params, w, prompts)
  np.testing.assert_array_equal(found.lengths, 3 * [NEW])
  np.testing.assert_array_equal(found.cache.lengths, LENGTHS + NEW)
  whole = np.zeros((3, MAX_LENGTH), np.int32)
  for row, prompt, length, new in zip(
    whole, prompts, LENGTHS, written, strict=True
  ):
    row[: length + NEW] = [*prompt[:length], *new]
  logits = np.asarray(teacher(model, params, w, jnp.asarray(whole)))
  for row, length, new in zip(logits, LENGTHS, written, strict=True):
    before = row[length - 1 : length - 1 + NEW]
    chosen = before[np.arange(NEW), new]
    np.testing.assert_array_less(before.max(-1) - chosen, TIE)
    # Ties would let anything pass.
    assert (before > chosen[:, None] - TIE).sum() < 2 * NEW


def test_a_stop_token_ends_its_sequence_alone():
  model = make()
  params, w = init(model)
  prompts = random_tokens(5, 3, PROMPT)
  free, _ = write(model, params, w, prompts)
  # The token whose first places in the sequences differ most ends some early.
  places = lambda token: [[*row, token].index(token) for row in free]
  stop = max(range(VOCAB), key=lambda token: np.ptp(places(token)))
  ends = np.array(places(stop))
  assert ends.min() < ends.max()
  written, found = write(model, params, w, prompts, stop)
  for row, end, new, all_new in zip(
    free, ends, written, np.asarray(found.tokens), strict=True
  ):
    np.testing.assert_array_equal(new, row[: end + 1])
    assert set(all_new[end + 1 :]) <= {stop}
  # The stop token itself is not read.
  np.testing.assert_array_equal(found.cache.lengths, LENGTHS + ends)


@pytest.mark.slow
def test_samples_have_the_probabilities_of_the_model():
  model = make()
  params, w = init(model)
  count, temperature = 8192, 0.7
  prompts = jnp.broadcast_to(random_tokens(6, 1, 3), (count, 3))
  lengths = jnp.full(count, 3)

  def draw(seed):
    options = {'temperature': temperature, 'key': seeds.key(seed)}
    options |= {'max_new_tokens': 1, 'projections': w}
    return generate(model, params, prompts, lengths, **options).tokens[:, 0]

  logits = np.asarray(teacher(model, params, w, prompts[:1])[0, -1], float)

  def z_scores(temperature, seed):
    p = np.exp(logits / temperature)
    p /= p.sum()
    frequency = np.bincount(draw(seed), minlength=VOCAB) / count
    return (frequency - p) / np.sqrt(p * (1 - p) / count)

  assert np.abs(z_scores(temperature, 0)).max() < 4
  assert np.abs(z_scores(1.0, 0)).max() > 4  # Temperature acts.
  np.testing.assert_array_equal(draw(1), draw(1))
  assert not np.array_equal(draw(1), draw(2))


@pytest.mark.slow
def test_gradients_pass_through_the_cache():
  """Through prefill and a step as through the whole sequence."""
  model = make()
  params, w = init(model)
  tokens = random_tokens(8, 2, 6)

  @jax.jit
  def piecewise(params):
    def loss(params):
      lengths = jnp.full(2, 5)
      _, cache = decoding.prefill(
        model, params, tokens[:, :5], lengths, projections=w
      )
      logits, _ = decoding.decode_step(
        model, params, tokens[:, 5], cache, projections=w
      )
      return jnp.sin(logits).sum()

    return jax.grad(loss)(params)

  @jax.jit
  def whole(params):
    return jax.grad(
      lambda p: jnp.sin(teacher(model, p, w, tokens)[:, -1]).sum()
    )(params)

  trees.check_close(piecewise(params), whole(params), rtol=2e-3, atol=2e-4)


@pytest.mark.parametrize(
  ('model', 'change', 'message'),
  [
    (make(mechanism=attention.Exact()), {}, 'Exact, which has no `extend`'),
    (make(causal=False), {}, 'only causal attention'),
    (make(), {'max_new_tokens': 16}, 'max_new_tokens=16 model.max_length=24'),
    (make(), {'max_new_tokens': 0}, 'max_new_tokens=0'),
    (make(), {'temperature': 1.0}, 'temperature=1.0 key=None'),
    (make(), {'key': seeds.key(0)}, 'temperature=0.0 key=given'),
    (
      make(),
      {'lengths': jnp.array([0, 3, 2])},
      r'in 1\.\.9, got \[0 3 2\]; .*start token',
    ),
    (
      make(),
      {'prompts': jnp.zeros((3, 0), jnp.int32), 'lengths': jnp.zeros(3, int)},
      r"at least one token, got shape \(3, 0\); .*start token.*encode\(''\)",
    ),
    (make(), {'lengths': jnp.array([1, 3, 10])}, r'in 1\.\.9'),
  ],
)
def test_what_cannot_be_written_is_refused(model, change, message):
  params, w = init(model)
  arguments = {
    'prompts': random_tokens(1, 3, PROMPT),
    'lengths': LENGTHS,
    'max_new_tokens': 2,
  } | change
  with pytest.raises(ValueError, match=message):
    decoding.generate(model, params, projections=w, **arguments)


def test_positions_that_do_not_exist_are_loud():
  model = make()
  params, w = init(model)
  tokens = random_tokens(1, 1, MAX_LENGTH)
  _, cache = prefill(
    model, params, tokens, jnp.array([MAX_LENGTH]), projections=w
  )
  logits, _ = step(model, params, tokens[:, 0], cache, projections=w)
  assert np.isnan(logits).all()
  logits, _ = prefill(model, params, tokens, jnp.array([0]), projections=w)
  assert np.isnan(logits).all()
