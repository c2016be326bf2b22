"""Gram-Schmidt against LAPACK in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rl import orthonormal
from tests import seeds


@pytest.mark.parametrize('shape', [(5, 5), (40, 7), (1, 1)])
def test_columns_are_those_of_qr(shape):
  x = seeds.rng(0).standard_normal(shape)
  q, r = np.linalg.qr(x)
  got = jax.jit(orthonormal.orthonormal_columns)(jnp.asarray(x, jnp.float32))
  np.testing.assert_allclose(got, q * np.sign(np.diag(r)), atol=2e-4)
  np.testing.assert_allclose(got.T @ got, np.eye(shape[1]), atol=2e-6)


def test_almost_parallel_columns_come_out_orthogonal():
  """Once over would not do."""
  rng = seeds.rng(0)
  x = rng.standard_normal((50, 1)) + 1e-3 * rng.standard_normal((50, 6))
  got = orthonormal.orthonormal_columns(jnp.asarray(x, jnp.float32))
  np.testing.assert_allclose(got.T @ got, np.eye(6), atol=1e-5)
