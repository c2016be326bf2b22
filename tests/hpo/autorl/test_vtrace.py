"""Leaky V-trace against sums in NumPy, and against generalised advantages."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hpo.autorl import vtrace
from tests import seeds

T, N = 7, 5


def steps():
  rng = seeds.rng(1)
  ends = rng.random((3, T, N)) < [[[0.15]], [[0.15]], [[0.1]]]
  terminated = ends[0]
  truncated = ends[1] & ~terminated
  arrays = {
    'reward': rng.normal(size=(T, N)),
    'value': rng.normal(size=(T, N)),
    'last_value': rng.normal(size=N),
    'final_value': rng.normal(size=(T, N)) * truncated,
  }
  arrays = {k: jnp.float32(x) for k, x in arrays.items()}
  flags = {'terminated': terminated, 'truncated': truncated, 'valid': ~ends[2]}
  return arrays | {k: jnp.asarray(x) for k, x in flags.items()}


def reference(s, log_ratio, discount, trace, leak):
  """Sums over products, one step at a time, float64."""
  ratio = np.exp(np.float64(log_ratio))
  rho = leak * np.minimum(1, ratio) + (1 - leak) * ratio
  found = np.zeros((T, N))
  for lane in range(N):
    for t in range(T):
      factor = 1.0
      for k in range(t, T):
        if not s['valid'][k, lane]:
          break
        after = s['last_value'][lane]
        if k + 1 < T:
          after = s['value'][k + 1, lane]
        if s['truncated'][k, lane]:
          after = s['final_value'][k, lane]
        if s['terminated'][k, lane]:
          after = 0.0
        delta = s['reward'][k, lane] + discount * after - s['value'][k, lane]
        found[t, lane] += factor * rho[k, lane] * delta
        if s['terminated'][k, lane] or s['truncated'][k, lane]:
          break
        factor *= discount * trace * rho[k, lane]
  return found


@pytest.mark.parametrize('leak', [0.0, 0.4, 1.0])
def test_sums_of_products(leak):
  s, log_ratio = steps(), jnp.float32(0.7 * seeds.rng(2).normal(size=(T, N)))
  settings = {'discount': 0.9, 'trace': 0.7, 'leak': leak}
  got = jax.jit(vtrace.leaky_vtrace)(log_ratio=log_ratio, **s, **settings)
  want = reference(s, log_ratio, **settings)
  np.testing.assert_allclose(got.advantages, want, rtol=2e-4, atol=1e-5)
  np.testing.assert_allclose(
    got.targets, want + s['value'], rtol=2e-4, atol=1e-5
  )
