"""Packed sequences: each segment as if it were alone."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from performer import attention
from performer.attention import checks, state
from tests.performer.attention import attention_cases as cases
from tests.performer.attention import attention_twin as twin

# Segments of one position, within a chunk, over chunks, from border to border.
CUTS = (0, 1, 3, 8, 11, 16, 35, 37)
LENGTH = 37


def ids():
  row = np.zeros(LENGTH, np.int32)
  for number, start in enumerate(CUTS[1:-1]):
    row[start:] = (7 * number + 3) % 5 + 1
  # The second row has other borders, and comes back to an id it had before.
  other = np.repeat([4, 2, 4], [13, 20, 4]).astype(np.int32)
  return jnp.asarray(np.stack([row, other]))


def pieces(row):
  borders = np.flatnonzero(np.diff(row)) + 1
  return np.split(np.arange(len(row)), borders)


def alone(mechanism, q, k, v, w, mask, segment_ids, *, causal):
  """Each segment by a call of its own."""
  out = np.zeros(v.shape, np.float32)
  for i, row in enumerate(np.asarray(segment_ids)):
    for piece in pieces(row):
      part = (slice(i, i + 1), piece)
      keep = None if mask is None else mask[part]
      out[part] = mechanism(
        q[part],
        k[part],
        v[part],
        projection=w,
        causal=causal,
        key_mask=keep,
      )
  return out


def attend(mechanism, w, *, causal, segment_ids, mask=None):
  def call(q, k, v):
    return mechanism(
      q,
      k,
      v,
      projection=w,
      causal=causal,
      key_mask=mask,
      segment_ids=segment_ids,
    )

  return call


@pytest.mark.parametrize('causal', [False, True])
@pytest.mark.parametrize(
  'kernel',
  [
    'softmax_hyp',
    pytest.param('relu', marks=pytest.mark.slow),
    'exact',
    pytest.param('softmax_trig', marks=pytest.mark.slow),
    pytest.param('exp', marks=pytest.mark.slow),
  ],
)
def test_segments_are_as_if_alone(kernel, causal):
  if kernel == 'exact':
    mechanism, w = attention.Exact(), None
  else:
    mechanism = cases.favor(kernel)
    w = cases.projection(mechanism)
  q, k, v = twin.inputs(3, l=LENGTH)
  mask = twin.mask(4, 2, LENGTH)
  packed = jax.jit(
    attend(mechanism, w, causal=causal, segment_ids=ids(), mask=mask)
  )(q, k, v)
  expected = alone(mechanism, q, k, v, w, mask, ids(), causal=causal)
  tolerance = 2e-4 if kernel == 'softmax_trig' else 1e-5
  # Signed denominators come near zero: outputs are of the order of 100.
  np.testing.assert_allclose(packed, expected, atol=tolerance, rtol=2e-5)
  # And the packing matters.
  whole = mechanism(q, k, v, projection=w, causal=causal, key_mask=mask)
  assert np.abs(whole - expected).max() > 0.1


@pytest.mark.parametrize(
  ('scale', 'causal'),
  [
    (12.0, True),
    pytest.param(12.0, False, marks=pytest.mark.slow),
    pytest.param(1.0, True, marks=pytest.mark.slow),
    pytest.param(1.0, False, marks=pytest.mark.slow),
  ],
)
def test_gradients(scale, causal):
  """Against float64 autodiff of the dense matrix; also where rows split."""
  favor = cases.favor('softmax_hyp')
  w = cases.projection(favor)
  q, k, v = twin.inputs(5, l=LENGTH, scale=scale)
  segment_ids = ids()
  packed = attend(favor, w, causal=causal, segment_ids=segment_ids)
  run = np.stack(
    [
      np.repeat(np.arange(len(p)), [len(x) for x in p])
      for p in map(pieces, np.asarray(segment_ids))
    ]
  )
  same = (run[:, :, None] == run[:, None, :])[:, None]

  def dense(q, k, v, w):
    log, _ = twin.kernel_matrix(q, k, w, kernel='softmax_hyp')
    visible = same & np.tri(LENGTH, dtype=bool) if causal else same
    log = jnp.where(visible, log, -jnp.inf)
    return jnp.einsum('bhij,bjhv->bihv', jax.nn.softmax(log), v)

  grads = jax.jit(jax.grad(lambda *x: jnp.sin(packed(*x)).sum(), (0, 1, 2)))(
    q, k, v
  )
  with jax.enable_x64(True):
    arrays = twin.double(q, k, v, w)
    truth = jax.jit(jax.grad(lambda *x: jnp.sin(dense(*x)).sum(), (0, 1, 2)))(
      *arrays
    )
    truth = [np.asarray(x) for x in truth]
    value = np.asarray(dense(*arrays))
  np.testing.assert_allclose(packed(q, k, v), value, atol=1e-4)
  for mine, other in zip(grads, truth, strict=True):
    limit = np.abs(other).max()
    assert np.abs(mine - other).max() < 1e-4 * limit


@pytest.mark.parametrize('causal', [False, True])
@pytest.mark.parametrize('factor', [3.0, 30.0])
def test_other_segments_change_no_bit(factor, causal):
  favor = cases.favor('softmax_hyp')
  w = cases.projection(favor)
  q, k, v = twin.inputs(6, l=LENGTH)
  call = jax.jit(attend(favor, w, causal=causal, segment_ids=ids()))
  other = slice(CUTS[4], CUTS[5])
  changed = [x.at[0, other].multiply(factor) for x in (q, k, v)]
  before, after = np.asarray(call(q, k, v)), np.asarray(call(*changed))
  rest = np.ones(LENGTH, bool)
  rest[other] = False
  np.testing.assert_array_equal(before[0, rest], after[0, rest])
  assert np.abs(before[0, other] - after[0, other]).max() > 0.1


@pytest.mark.parametrize('causal', [False, True])
def test_mass_is_one_at_every_scale(causal):
  favor = cases.favor('softmax_pos')
  w = cases.projection(favor)
  ones = jnp.ones((2, LENGTH, 2, 1))
  call = jax.jit(attend(favor, w, causal=causal, segment_ids=ids()))
  for scale in (0.1, 1.0, 5.0, 20.0):
    q, k, _ = twin.inputs(7, l=LENGTH, scale=scale)
    np.testing.assert_allclose(call(q, k, ones), 1.0, atol=1e-5)


def test_pieces_of_a_packed_sequence():
  """Segments begin at the borders 8 and 16, and go on over 24."""
  favor = cases.favor()
  w = cases.projection(favor)
  q, k, v = (x[:1, :32] for x in twin.inputs(8, l=LENGTH))
  names = ids()[:1, :32]
  whole = favor(q, k, v, projection=w, causal=True, segment_ids=names)
  after = favor.empty_state(batch=1, num_heads=2, head_dim=8)
  found = []
  for start in range(0, 32, 8):
    part = (slice(None), slice(start, start + 8))
    after = state.forget(after, jnp.array([start in CUTS]))
    out, after = favor.extend(
      *(x[part] for x in (q, k, v)),
      projection=w,
      segment_ids=names[part],
      state=after,
    )
    found.append(out)
  np.testing.assert_allclose(np.concatenate(found, axis=1), whole, atol=1e-5)


def test_refused():
  favor = cases.favor()
  w = cases.projection(favor)
  q, k, v = twin.inputs(1)

  def call(segment_ids, favor=favor, length=21):
    return favor(
      q[:, :length],
      k,
      v,
      projection=w,
      causal=False,
      segment_ids=segment_ids,
    )

  with pytest.raises(ValueError, match='must be integers'):
    checks.check_segments(q, k, jnp.ones((2, 21)))
  with pytest.raises(ValueError, match=r'segment_ids\.shape=\(2, 20\)'):
    checks.check_segments(q, k, jnp.ones((2, 20), jnp.int32))
  with pytest.raises(ValueError, match='queries and keys alike'):
    call(jnp.ones((2, 21), jnp.int32), length=7)
  reference = dataclasses.replace(favor, stabilizer='reference')
  with pytest.raises(ValueError, match='couples segments'):
    call(jnp.ones((2, 21), jnp.int32), favor=reference)
