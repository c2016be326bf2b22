"""Packed sequences: each segment as if it were alone."""

import dataclasses
import functools

import jax.numpy as jnp
import numpy as np
import pytest

from performer import attention
from performer.attention import calls
from performer.attention.sums import state
from tests import marks
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


def same_segment():
  """Which positions share a segment, [2, LENGTH, LENGTH]."""
  runs = np.cumsum(np.diff(ids(), axis=1, prepend=0) != 0, axis=1)
  return runs[:, :, None] == runs[:, None, :]


def cancellation(q, k, w, seen):
  """Sums of the sizes of trigonometric terms over denominators, [b, l, h, 1].

  By this factor the rounding of terms is larger, relative to the denominator.
  """
  q, k, w = twin.double(q, k, w)
  log, sign = twin.kernel_matrix(q, k, w, kernel='softmax_trig')
  half = [(x**2).sum(-1).transpose(0, 2, 1) / 2 for x in (q, k)]
  sizes = (half[0][..., None] + half[1][..., None, :]) / q.shape[-1] ** 0.5
  seen = seen[:, None]
  denominators = np.where(seen, sign * np.exp(log), 0).sum(-1)
  sizes = np.where(seen, np.exp(sizes), 0).sum(-1)
  found = sizes / np.where(denominators == 0, 1, np.abs(denominators))
  return found.transpose(0, 2, 1)[..., None]


@pytest.mark.parametrize('causal', [False, True])
@pytest.mark.parametrize(
  'kernel', [*('exact', 'relu'), *marks.slow('softmax_trig', 'exp')]
)
def test_segments_are_as_if_alone(kernel, causal):
  """Against the float64 matrix, cut where segments meet."""
  exact = kernel == 'exact'
  mechanism = attention.Exact() if exact else cases.favor(kernel)
  args = q, k, v, w, mask = cases.arguments(mechanism, 3, l=LENGTH, mask=4)
  packed = cases.attend(mechanism, *args, ids(), causal=causal)
  options = {'kernel': kernel, 'causal': causal}
  truth = twin.value(*args, same=same_segment(), **options)
  tolerance = 1e-5 + 2e-5 * np.abs(truth)
  if kernel == 'softmax_trig':
    seen = same_segment() & np.asarray(mask)[:, None, :]
    seen = np.tril(seen) if causal else seen
    sizes = float(jnp.abs(v).max()) + np.abs(truth)
    tolerance = 1e-5 + 1e-6 * cancellation(q, k, w, seen) * sizes
  assert (np.abs(packed - truth) <= tolerance).all()
  # And the packing matters.
  whole = twin.value(*args, **options)
  assert np.abs(whole - truth).max() > 0.1


@pytest.mark.parametrize('scale', [1.0, 12.0])
@pytest.mark.parametrize('causal', [*marks.slow(False), True])
def test_gradients(scale, causal):
  """At the larger scale rows split."""
  favor = cases.favor()
  args = cases.arguments(favor, 5, l=LENGTH, scale=scale, mask=4)
  out, grads = cases.value_and_grad(favor, *args, ids(), causal=causal)
  truth, slopes = twin.value_and_grad(
    *args, same=same_segment(), kernel=favor.kernel, causal=causal
  )
  np.testing.assert_allclose(out, truth, atol=1e-4)
  for mine, other in zip(grads, slopes, strict=True):
    limit = np.abs(other).max()
    assert np.abs(mine - other).max() < 1e-4 * limit


@pytest.mark.parametrize('causal', [False, True])
@pytest.mark.parametrize('factor', [3.0, 30.0])
def test_other_segments_change_no_bit(factor, causal):
  favor = cases.favor()
  q, k, v, w = cases.arguments(favor, 6, l=LENGTH)
  call = lambda *x: cases.attend(favor, *x, w, ids=ids(), causal=causal)
  other = slice(CUTS[4], CUTS[5])
  changed = [x.at[0, other].multiply(factor) for x in (q, k, v)]
  before, after = np.asarray(call(q, k, v)), np.asarray(call(*changed))
  rest = np.ones(LENGTH, bool)
  rest[other] = False
  np.testing.assert_array_equal(before[0, rest], after[0, rest])
  assert np.abs(before[0, other] - after[0, other]).max() > 0.1


@pytest.mark.parametrize('causal', [False, True])
def test_mass_is_one_at_every_scale(causal):
  favor = cases.favor()
  for scale in (0.1, 1.0, 5.0, 20.0):
    q, k, v, w = cases.arguments(favor, 7, l=LENGTH, scale=scale)
    ones = jnp.ones_like(v)
    out = cases.attend(favor, q, k, ones, w, ids=ids(), causal=causal)
    np.testing.assert_allclose(out, 1.0, atol=1e-5)


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
  q, k, v, w = cases.arguments(favor, 1)

  def call(segment_ids, favor=favor, length=21):
    return favor(
      q[:, :length], k, v, projection=w, causal=False, segment_ids=segment_ids
    )

  check = functools.partial(
    calls.check_inputs, q, k, v, causal=False, key_mask=None
  )
  with pytest.raises(ValueError, match='must be integers'):
    check(segment_ids=jnp.ones((2, 21)))
  with pytest.raises(ValueError, match=r'segment_ids\.shape=\(2, 20\)'):
    check(segment_ids=jnp.ones((2, 20), jnp.int32))
  with pytest.raises(ValueError, match='queries and keys alike'):
    call(jnp.ones((2, 21), jnp.int32), length=7)
  reference = dataclasses.replace(favor, stabilizer='reference')
  with pytest.raises(ValueError, match='couples segments'):
    call(jnp.ones((2, 21), jnp.int32), favor=reference)
