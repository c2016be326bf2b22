"""What a row must not see: the future, padding, other examples, other heads.

Every comparison is bit by bit: what is not seen does not move the last bit.
"""

import jax.numpy as jnp
import numpy as np
import pytest

from performer import attention
from performer.attention.kernels import table
from tests import marks
from tests.performer.attention import attention_cases as cases
from tests.performer.attention import attention_twin as twin

EXACT = attention.Exact()
MECHANISMS = [
  EXACT,
  cases.favor(),
  cases.favor('softmax_trig'),
  cases.favor('relu'),
]


def name_of(value):
  """Of a mechanism; pytest names whether it is causal itself."""
  if isinstance(value, bool):
    return None
  return getattr(value, 'kernel', 'exact')


def change(x, part, factor=10.0):
  """Other values, larger by a factor, in a part of x."""
  other = factor * twin.normal(99, *x.shape)
  return x.at[part].set(other[part].astype(x.dtype))


@pytest.mark.parametrize('mechanism', MECHANISMS, ids=name_of)
@pytest.mark.parametrize('factor', [1.0, 30.0, 1e4])
def test_the_future_changes_no_bit(mechanism, factor):
  for scale in (1.0, 6.0):
    *inputs, w = cases.arguments(mechanism, 1, scale=scale)
    before = cases.attend(mechanism, *inputs, w, causal=True)
    assert np.isfinite(before).all()
    for cut in (1, 3, 8, 13, 20):
      other = [change(x, np.s_[:, cut:], factor) for x in inputs]
      after = cases.attend(mechanism, *other, w, causal=True)
      np.testing.assert_array_equal(before[:, :cut], after[:, :cut])
      assert np.any(before[:, cut:] != after[:, cut:])


def test_reference_stabilizer_leaks_the_future():
  favor = cases.favor('softmax_pos', stabilizer='reference')
  q, k, v, w = cases.arguments(favor, 1)
  before = cases.attend(favor, q, k, v, w, causal=True)
  after = cases.attend(favor, q, change(k, np.s_[:, 13:]), v, w, causal=True)
  assert np.abs(before[:, :13] - after[:, :13]).max() > 1e-3


@pytest.mark.parametrize('causal', [False, True])
@pytest.mark.parametrize('mechanism', MECHANISMS, ids=name_of)
def test_batch_mates_and_heads_change_no_bit(mechanism, causal):
  # At 3 a mate may send its chunk to the split form, and others must not move.
  *inputs, w = cases.arguments(mechanism, 3, scale=3.0)
  before = cases.attend(mechanism, *inputs, w, causal=causal)
  for part, kept in (
    (np.s_[1:], np.s_[:1]),
    (np.s_[:, :, 1:], np.s_[:, :, :1]),
  ):
    other = [change(x, part, 30.0) for x in inputs]
    after = cases.attend(mechanism, *other, w, causal=causal)
    np.testing.assert_array_equal(before[kept], after[kept])
    assert np.abs(before - after).max() > 1e-3


def test_a_maximum_over_the_batch_with_epsilon_couples_examples():
  kernel, w = table.get('softmax_pos'), cases.projection(cases.favor())
  # One row so long that its feature may be far larger than all others.
  norms = jnp.linalg.norm(w, axis=-1)
  w, longest = 6 * w / norms.max(), norms.argmax()

  def first_row(k):
    values, weight = kernel.featurize(k.transpose(0, 2, 1, 3), w)
    log = values + weight[..., None]
    features = jnp.exp(log - log.max()) + 1e-6
    row = features.sum(-1)
    return np.asarray(row / row.sum(-1, keepdims=True))[0]

  _, k, _ = twin.inputs(3)
  mate = k.at[1].set(8**0.25 * w[longest])  # The key with the largest feature.
  assert np.abs(first_row(k) - first_row(mate)).max() > 1e-3


def masks():
  random = twin.mask(4, 2, 21)
  random = random.at[:, 2].set(True)
  return {
    'tail': jnp.arange(21)[None] < jnp.asarray([[9], [21]]),
    'head': jnp.arange(21)[None] >= jnp.asarray([[10], [3]]),
    'random': random,
    'all': jnp.zeros((2, 21), bool),
  }


@pytest.mark.parametrize('causal', [False, True])
@pytest.mark.parametrize('mechanism', MECHANISMS, ids=name_of)
def test_masked_keys_change_no_bit(mechanism, causal):
  q, k, v, w = cases.arguments(mechanism, 5, scale=2.0)
  for name, mask in masks().items():
    before = cases.attend(mechanism, q, k, v, w, mask, causal=causal)
    hidden = ~mask[:, :, None, None]
    for value in (1e4, jnp.inf, jnp.nan):
      keys = (jnp.where(hidden, value, x) for x in (k, v))
      after = cases.attend(mechanism, q, *keys, w, mask, causal=causal)
      np.testing.assert_array_equal(before, after, err_msg=f'{name} {value}')


@pytest.mark.parametrize('mechanism', MECHANISMS, ids=name_of)
def test_padding_is_as_if_it_were_not_there(mechanism):
  *inputs, w = cases.arguments(mechanism, 6, scale=0.5)
  mask = jnp.broadcast_to(jnp.arange(21) < 13, (2, 21))
  for causal in (False, True):
    padded = cases.attend(mechanism, *inputs, w, mask, causal=causal)
    options = {'kernel': name_of(mechanism), 'causal': causal}
    short = twin.value(*(x[:, :13] for x in inputs), w, **options)
    np.testing.assert_allclose(padded[:, :13], short, rtol=1e-4, atol=1e-5)


def test_zeroing_values_alone_is_no_mask():
  favor = cases.favor()
  q, k, v, w = cases.arguments(favor, 6, scale=0.5)
  mask = jnp.broadcast_to(jnp.arange(21) < 13, (2, 21))
  right = cases.attend(favor, q, k, v, w, mask, causal=False)
  zeroed = jnp.where(mask[:, :, None, None], v, 0)
  wrong = cases.attend(favor, q, k, zeroed, w, causal=False)
  assert np.abs(right - wrong).max() > 0.05


@pytest.mark.parametrize(
  ('mechanism', 'causal'),
  [
    *((EXACT, False), (EXACT, True), (cases.favor(), False)),
    *((cases.favor(), True), (cases.favor('relu'), False)),
    *marks.slow((cases.favor('relu'), True)),
  ],
  ids=name_of,
)
def test_rows_that_see_nothing_are_zero_with_zero_gradient(mechanism, causal):
  q, k, v, w = cases.arguments(mechanism, 7, scale=2.0)
  mask = jnp.ones((2, 21), bool).at[0].set(False).at[1, :10].set(False)
  k = jnp.where(mask[:, :, None, None], k, jnp.nan)
  out, grads = cases.value_and_grad(mechanism, q, k, v, w, mask, causal=causal)
  blind = np.s_[1, :10] if causal else np.s_[0]
  assert not np.any(out[0])
  assert not np.any(out[blind])
  assert np.any(out[1, 10:])
  for gradient in grads:
    assert np.isfinite(gradient).all()
    assert not np.any(gradient[0])
  assert not np.any(grads[1][1, :10])
  assert not np.any(grads[0][blind])
