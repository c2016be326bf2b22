"""Reading in pieces what `Transformer` reads at once: training by chunks."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from performer import attention
from performer.models import parallel
from tests import marks, seeds
from tests.performer.attention import attention_cases as cases
from tests.performer.models import model_cases

VOCAB, LENGTH, B, LAYERS = 7, 13, 2, 2
CUTS = (5,)
SQUARE = cases.favor('square', chunk=4)


def make(mechanism=SQUARE, **kwargs):
  sizes = {'vocab_size': VOCAB, 'max_length': LENGTH, 'd_model': 8, 'd_ff': 16}
  return model_cases.small(mechanism, **sizes | {'dropout': 0.3} | kwargs)


@functools.partial(jax.jit, static_argnames=('model', 'train'))
def extend(model, params, w, tokens, positions, mask, state, key, train):
  return model.apply(
    {'params': params},
    tokens,
    positions=positions,
    mask=mask,
    projections=w,
    state=state,
    train=train,
    rngs={'dropout': key},
    method='extend',
  )


def inputs(seed=0):
  tokens = seeds.rng(seed).integers(0, VOCAB, (B, LENGTH), np.int32)
  positions = np.broadcast_to(np.arange(LENGTH, dtype=np.int32), (B, LENGTH))
  return tokens, positions, positions < np.array([[13], [9]])


def read(model, params, w, *, cuts, train=False, state=None):
  """Logits and last state of a sequence cut into pieces."""
  pieces = [np.split(x, cuts, axis=1) for x in inputs()]
  logits, key = [], seeds.key(5)
  for piece in zip(*pieces, strict=True):
    out, state = extend(model, params, w, *piece, state, key, train)
    logits.append(out)
  return jnp.concatenate(logits, axis=1), state


@pytest.mark.slow
def test_pieces_are_the_whole_in_training():
  model = make()
  params, w = model_cases.init(model)
  whole, end = read(model, params, w, cuts=(), train=True)
  found, state = read(model, params, w, cuts=CUTS, train=True)
  np.testing.assert_allclose(found, whole, atol=3e-5)
  for a, b in zip(state, end, strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_the_empty_state_is_none():
  model = make()
  params, w = model_cases.init(model)
  none, _ = read(model, params, w, cuts=(), train=True)
  empty = model.empty_state(B)
  found, _ = read(model, params, w, cuts=(), train=True, state=empty)
  np.testing.assert_array_equal(none, found)


@pytest.mark.parametrize('kernel', [*marks.slow('softmax_hyp'), 'square'])
def test_the_empty_state_looks_like_others(kernel):
  model = make(cases.favor(kernel))
  params, w = model_cases.init(model)
  _, end = jax.eval_shape(lambda: read(model, params, w, cuts=()))
  for a, b in zip(model.empty_state(B), end, strict=True):
    assert isinstance(a, jax.Array)
    assert (a.shape, a.dtype) == (b.shape, b.dtype)


@pytest.mark.parametrize(
  ('model', 'batch', 'message'),
  [
    (make(attention.Exact()), 2, 'Exact, which has no `empty_state`'),
    (make(causal=False), 2, 'causal=True'),
    (make(), 0, 'batch=0'),
  ],
)
def test_models_without_a_state_say_so(model, batch, message):
  with pytest.raises(ValueError, match=message):
    model.empty_state(batch)


def test_attention_on_a_mesh_has_no_state():
  mesh = jax.make_mesh((1, 1, 1), ('data', 'tensor', 'sequence'))
  spread = parallel.MeshAttention(cases.favor(), mesh, ('data',), 'tensor')
  with pytest.raises(ValueError, match='MeshAttention, which has no'):
    make(spread).empty_state(2)


def program(model, dtype=jnp.float32, *, train=True):
  params, w = jax.tree.map(lambda x: x.astype(dtype), model_cases.init(model))
  traced = jax.make_jaxpr(
    lambda params, w, key: extend(
      model, params, w, *inputs(), model.empty_state(B), key, train
    )
  )(params, w, seeds.key(0))
  return str(traced)


def test_dropout_acts_in_training_only():
  plain = program(make(), train=False)
  assert 'threefry2x32' not in plain
  assert 'threefry2x32' in program(make())
  assert 'threefry2x32' not in program(make(dropout=0.0))


@pytest.mark.parametrize('kernel', [*marks.slow('softmax_hyp'), 'square'])
def test_float64_is_float64_throughout(kernel):
  """No float32 number is in the whole program of a piece in training."""
  favor = cases.favor(kernel, chunk=4)
  assert 'f32[' in program(make(favor))
  with jax.enable_x64(True):
    wide = program(make(favor, dtype=jnp.float64), jnp.float64)
  assert 'f32[' not in wide
