"""float64 stays float64; features without a stabiliser; empty states."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from performer import attention
from performer.attention.sums import state as state_lib
from tests import marks, trees
from tests.performer.attention import attention_cases as cases
from tests.performer.attention import attention_twin as twin


@pytest.mark.parametrize(
  ('kernel', 'causal'),
  [
    *(('softmax_hyp', True), ('relu', False)),
    *marks.slow(('softmax_hyp', False), ('relu', True)),
    *marks.slow(*((k, False) for k in ('softmax_pos', 'exp', 'elu1'))),
  ],
)
def test_float64_values_are_those_of_the_dense_matrix(kernel, causal):
  favor = cases.favor(kernel)
  q, k, v, w, mask = cases.arguments(favor, 3, mask=4)
  truth = twin.value(q, k, v, w, mask, kernel=kernel, causal=causal)
  narrow = cases.attend(favor, q, k, v, w, mask, causal=causal)
  with jax.enable_x64(True):
    arrays = twin.double(q, k, v, w)
    out = cases.attend(favor, *arrays, mask, causal=causal)
    assert out.dtype == jnp.float64
    error = np.abs(np.asarray(out) - truth).max()
  assert error < 1e-13
  assert np.abs(np.asarray(narrow) - truth).max() > 1e-9, 'no power'


@pytest.mark.parametrize('kernel', [*marks.slow('softmax_hyp'), 'elu1'])
def test_float64_gradients_by_differences(kernel):
  favor = cases.favor(kernel)
  *inputs, w = twin.double(*cases.arguments(favor, 5, b=1, l=11))
  step = twin.double(*twin.inputs(6, b=1, l=11))
  with jax.enable_x64(True):
    run = lambda e: cases.value_and_grad(
      favor,
      *(x + e * d for x, d in zip(inputs, step, strict=True)),
      w,
      causal=True,
    )
    ahead, behind = (np.sin(run(e)[0]).sum() for e in (1e-5, -1e-5))
    expected = float(ahead - behind) / 2e-5
    found = sum(
      float(np.vdot(g, d)) for g, d in zip(run(0.0)[1], step, strict=True)
    )
  assert abs(found - expected) < 1e-8 * max(1, abs(expected))


@pytest.mark.parametrize(
  ('kernel', 'causal'), [('softmax_hyp', True), *marks.slow(('exp', False))]
)
def test_features_as_they_are(kernel, causal):
  """The same function where nothing overflows, with a plain sum as state."""
  online = cases.favor(kernel)
  plain = cases.favor(kernel, stabilizer='none')
  q, k, v, w, mask = cases.arguments(online, 7, mask=8)
  np.testing.assert_allclose(
    cases.attend(plain, q, k, v, w, mask, causal=causal),
    cases.attend(online, q, k, v, w, mask, causal=causal),
    atol=2e-5,
  )
  whole = plain.summarize(k, v, projection=w, key_mask=mask)
  parts = [
    plain.summarize(k[:, i], v[:, i], projection=w, key_mask=mask[:, i])
    for i in (slice(0, 7), slice(7, 14), slice(14, 21))
  ]
  np.testing.assert_allclose(whole.z, sum(x.z for x in parts), rtol=1e-5)
  np.testing.assert_array_equal(whole.c, 0)
  # What the stabiliser is for: features that over- or underflow.
  far, right = (
    cases.attend(favor, 30 * q, 30 * k, v, w, causal=causal)
    for favor in (plain, online)
  )
  assert np.isfinite(right).all()
  assert not np.abs(np.asarray(far - right)).max() < 0.1


@pytest.mark.parametrize(
  ('kernel', 'options'),
  [('softmax_pos', {'ortho': 'gorf'}), *marks.slow(('softmax_general', {}))],
)
def test_float32_stays_float32_where_float64_is_enabled(kernel, options):
  favor = cases.favor(kernel, **options)
  q, k, v = twin.inputs(23, l=9)
  with jax.enable_x64(True):
    w = cases.projection(favor)
    assert {x.dtype.name for x in jax.tree.leaves(w)} == {'float32'}
    out = cases.attend(favor, q, k, v, w, causal=True)
    assert out.dtype == jnp.float32
    with pytest.raises(ValueError, match='all be float64 or none'):
      favor(q.astype(jnp.float64), k, v, projection=w, causal=True)


def test_features_as_they_are_have_options_of_their_own():
  with pytest.raises(ValueError, match=r"exponentials, got.*'relu'"):
    attention.Favor(kernel='relu', stabilizer='none')
  with pytest.raises(ValueError, match='overflow float16'):
    attention.Favor(stabilizer='none', feature_dtype='float16')


@pytest.mark.parametrize('kernel', ['softmax_hyp', *marks.slow('elu1')])
def test_an_empty_state_is_none(kernel):
  favor = cases.favor(kernel)
  q, k, v, w = cases.arguments(favor, 9)
  state = favor.empty_state(batch=2, num_heads=2, head_dim=8)
  first = favor.extend(q, k, v, projection=w)
  again = favor.extend(q, k, v, projection=w, state=state)
  trees.check_same(first, again)
  with pytest.raises(ValueError, match='no state'):
    attention.Favor(stabilizer='reference').empty_state(
      batch=1, num_heads=1, head_dim=4
    )


def test_sums_are_wide():
  half = jnp.ones(3, jnp.bfloat16)
  assert state_lib.wide(half) == jnp.float32
  assert state_lib.wide(half, jnp.ones(3, jnp.float16)) == jnp.float32
  assert state_lib.dot('i,i->', half, half).dtype == jnp.float32
  with jax.enable_x64(True):
    assert state_lib.wide(half, jnp.ones(3, jnp.float64)) == jnp.float64
