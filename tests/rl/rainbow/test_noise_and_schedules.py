"""Noisy layers against explicit matrices; exploration against its formulas."""

import jax
import jax.numpy as jnp
import numpy as np

from rl import exploration
from rl.rainbow import networks
from tests import refusals

LAYER = networks.NoisyDense(3)
X = jax.random.normal(jax.random.key(1), (5, 4))


def params():
  return LAYER.init(jax.random.key(0), X)


def noisy(variables, key):
  return LAYER.apply(variables, X, rngs={networks.NOISE: key})


def test_first_parameters():
  found = params()['params']
  assert found['kernel'].shape == (4, 3)
  assert np.abs(found['kernel']).max() <= 0.5
  np.testing.assert_array_equal(found['kernel_noise'], 0.25)
  np.testing.assert_array_equal(found['bias_noise'], 0.25)


def test_without_a_key_there_is_no_noise():
  p = params()['params']
  expected = np.asarray(X) @ p['kernel'] + p['bias']
  np.testing.assert_allclose(LAYER.apply(params(), X), expected, atol=1e-6)


def test_noise_is_an_outer_product():
  """Unit noise weights, nothing else: x f(e_in) f(e_out)^T + f(e_out)."""
  p = jax.tree.map(jnp.zeros_like, params()['params'])
  p |= {'kernel_noise': jnp.ones((4, 3)), 'bias_noise': jnp.ones(3)}
  key = jax.random.key(2)
  rows = []
  for unit in np.vstack([np.zeros(4), np.eye(4)]):
    variables = {'params': p}
    x = jnp.asarray(unit, jnp.float32)[None]
    rows.append(LAYER.apply(variables, x, rngs={networks.NOISE: key})[0])
  bias = np.asarray(rows[0])
  kernel = np.asarray(rows[1:]) - bias
  assert np.linalg.matrix_rank(kernel, tol=1e-5) == 1
  np.testing.assert_allclose(
    kernel, np.outer(kernel[:, 0] / bias[0], bias), atol=1e-5
  )
  assert not np.allclose(bias, noisy({'params': p}, jax.random.key(3))[0])


def test_noise_has_the_size_of_its_weights():
  """Var f(e) = E|e| = sqrt(2 / pi), so the bias alone has that variance."""
  p = jax.tree.map(jnp.zeros_like, params()['params'])
  p['bias_noise'] = jnp.full(3, 0.5)
  keys = jax.random.split(jax.random.key(4), 4000)
  draws = jax.jit(jax.vmap(lambda k: noisy({'params': p}, k)[0]))(keys)
  expected = 0.25 * np.sqrt(2 / np.pi)
  np.testing.assert_allclose(np.var(draws), expected, rtol=0.05)
  assert abs(np.mean(draws)) < 0.02


def test_powers():
  found = exploration.Powers(steps=1000)
  u = np.linspace(1, 8, 4)
  base = 0.4**u
  for steps, share in ((0, 0.0), (500, 0.5), (1000, 1.0), (9000, 1.0)):
    np.testing.assert_allclose(
      found(jnp.int32(steps), 4), base ** (1 + 7 * share), rtol=1e-4
    )


def test_linear():
  found = exploration.Linear(1.0, 0.2, 100)
  for steps, value in ((0, 1.0), (50, 0.6), (100, 0.2), (500, 0.2)):
    np.testing.assert_allclose(found(jnp.int32(steps), 2), value, rtol=1e-6)


test_rejects_schedules = refusals.all_with(
  'must',
  lambda: exploration.Linear(first=1.5),
  lambda: exploration.Linear(steps=0),
  lambda: exploration.Powers(base=1.0),
  lambda: exploration.Powers(low=9.0),
  lambda: exploration.Powers(growth=-1.0),
)
