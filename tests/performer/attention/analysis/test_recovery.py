"""Attention matrices and denominators, seen from outside."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from performer import attention
from performer.attention.analysis import denominators, recovery
from tests.performer.attention import attention_cases as cases
from tests.performer.attention import attention_twin as twin

recover = jax.jit(
  recovery.recover_attention, static_argnums=0, static_argnames='causal'
)
bad_fraction = jax.jit(
  denominators.bad_denominator_fraction,
  static_argnums=0,
  static_argnames='causal',
)


@pytest.mark.parametrize('causal', [False, True])
@pytest.mark.parametrize('exact', [True, False])
def test_recovered_rows_are_distributions(causal, exact):
  mechanism = attention.Exact() if exact else cases.favor()
  q, k, v, w = cases.arguments(mechanism, 1)
  mask = jnp.ones((2, 21), bool).at[:, 4].set(False)
  matrix = recover(mechanism, q, k, projection=w, causal=causal, key_mask=mask)
  assert matrix.shape == (2, 2, 21, 21)
  np.testing.assert_allclose(matrix.sum(-1), 1, rtol=1e-5)
  assert not np.any(matrix[..., 4])
  if causal:
    assert not np.any(np.triu(matrix, 1))
  kernel = 'exact' if exact else 'softmax_hyp'
  truth = twin.value(q, k, v, w, mask, kernel=kernel, causal=causal)
  out = np.einsum('bhij,bjhv->bihv', matrix, v)
  np.testing.assert_allclose(out, truth, atol=2e-5)


@pytest.mark.parametrize('causal', [False, True])
def test_bad_denominators_are_counted(causal):
  favor = cases.favor('softmax_trig')
  q, k, _, w, mask = cases.arguments(favor, 2, scale=3.0, mask=3)
  log, sign = twin.kernel_matrix(*twin.double(q, k, w), kernel='softmax_trig')
  visible = np.broadcast_to(np.asarray(mask)[:, None, None, :], log.shape)
  if causal:
    visible = visible & np.tri(21, dtype=bool)
  log = np.where(visible, log, -np.inf)
  total = sign * np.exp(log - np.maximum(log.max(-1, keepdims=True), -1e300))
  bad = (total.sum(-1) <= 0) & visible.any(-1)
  expected = bad.sum() / visible.any(-1).sum()
  assert 0.05 < expected < 0.95
  measured = bad_fraction(
    favor, q, k, projection=w, causal=causal, key_mask=mask
  )
  np.testing.assert_allclose(measured, expected, atol=1e-6)


def test_positive_kernels_have_none():
  favor = cases.favor()
  q, k, _, w = cases.arguments(favor, 2, scale=3.0)
  assert bad_fraction(favor, q, k, projection=w, causal=False) == 0
