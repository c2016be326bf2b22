"""Derivatives of inner optimisers where inner gradients are exactly 0."""

import itertools

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from hpo import ufom

OPTIMISERS = {
  'adam': optax.adam(0.05),
  'amsgrad': optax.amsgrad(0.05),
  'adabelief': optax.adabelief(0.05, eps_root=0.0),
  'adamax': optax.adamax(0.05),
  'clipped': optax.chain(optax.clip_by_global_norm(0.5), optax.adam(0.05)),
  'lamb': optax.lamb(0.05),
  'momentum': optax.sgd(0.05, momentum=0.9),
  'nadamw': optax.nadamw(0.05),
  'rmsprop': optax.rmsprop(0.05),
  'centred': optax.rmsprop(0.05, centered=True, momentum=0.5),
}


def predict(phi, x):
  return jax.nn.relu(x @ phi['hidden']) @ phi['out']


# The outer loss sees the weights of dead units too.
NETWORK = ufom.ABLOProblem(
  V=lambda theta, task: theta['start'],
  inner_loss=lambda theta, phi, task: jnp.mean(
    (predict(phi, task['x']) - theta['label'] * task['y']) ** 2
  ),
  outer_loss=lambda theta, phi, task: (
    jnp.mean((predict(phi, task['x']) - task['y']) ** 2)
    + jnp.sum(jnp.sin(phi['hidden']))
  ),
)


def network(seed):
  """A network whose first unit is dead, and whose second has no output."""
  rng = np.random.default_rng(seed)
  hidden = np.abs(rng.normal(size=(3, 4)))
  hidden[:, 0] *= -1
  start = {'hidden': hidden, 'out': rng.normal(size=4)}
  task = {'x': np.abs(rng.normal(size=(5, 3))), 'y': rng.normal(size=5)}
  theta = {'start': start, 'label': np.asarray(1.5)}
  return jax.tree.map(jnp.asarray, (theta, task))


def gradient(problem, theta, task, optimizer, mode, r=3):
  return jax.jit(
    lambda theta: ufom.exact_grad(problem, theta, task, r, optimizer, mode=mode)
  )(theta)


QUICK = [('adam', 'store_phi'), ('centred', 'store')]


@pytest.mark.parametrize(
  ('name', 'mode'),
  [
    pytest.param(*x, marks=() if x in QUICK else pytest.mark.slow)
    for x in itertools.product(OPTIMISERS, ('store', 'store_phi'))
  ],
)
def test_dead_units_by_differences(name, mode):
  with jax.enable_x64(True):
    theta, task = network(0)
    found = gradient(NETWORK, theta, task, OPTIMISERS[name], mode)
    value = jax.jit(
      lambda t: ufom.exact_grad(NETWORK, t, task, 3, OPTIMISERS[name]).value
    )
    flat, unravel = jax.flatten_util.ravel_pytree(theta)
    at = jax.jit(jax.vmap(lambda e: value(unravel(flat + e))))
    steps = 1e-6 * np.eye(flat.size)
    expected = (np.asarray(at(steps)) - at(-steps)) / 2e-6
    slopes = jax.jit(jax.grad(NETWORK.inner_loss, argnums=1))(
      theta, theta['start'], task
    )
    slopes = jax.device_get(slopes)
    assert (slopes['hidden'][:, 0] == 0).all()
    assert slopes['out'][0] == 0
    np.testing.assert_allclose(
      jax.flatten_util.ravel_pytree(found.grad)[0], expected, atol=1e-6
    )


def quadratic(scale):
  return ufom.ABLOProblem(
    V=lambda theta, task: jnp.zeros_like(theta),
    inner_loss=lambda theta, phi, task: scale * jnp.sum((phi - theta) ** 2) / 2,
    outer_loss=lambda theta, phi, task: jnp.sum(phi),
  )


@pytest.mark.parametrize('r', [1, 3])
def test_a_minimum_at_the_start_by_differences(r):
  """The gradient is 0, but not around it: the derivative is that of g / eps."""
  optimizer = optax.adam(0.05, eps=0.01)
  with jax.enable_x64(True):
    run = jax.jit(
      lambda theta: ufom.exact_grad(
        quadratic(1.0), theta, None, r, optimizer, mode='recompute'
      )
    )
    found, up, down = (
      run(jnp.asarray(np.full(2, x))) for x in (0.0, 1e-9, -1e-9)
    )
    expected = float(up.value - down.value) / 2e-9 / 2
  np.testing.assert_allclose(found.grad, np.full(2, expected), rtol=1e-4)
  assert abs(expected) > 0.5


def test_squares_that_underflow():
  """Of a gradient of 1e-25 the square is 0 in float32, but not the gradient."""
  theta, problem = jnp.ones(2), quadratic(1e-25)
  optimizer = optax.adam(0.1)
  found = gradient(problem, theta, None, optimizer, 'store')
  with jax.enable_x64(True):
    wide = jnp.asarray(np.ones(2))
    expected = gradient(problem, wide, None, optimizer, 'store')
  np.testing.assert_allclose(found.grad, expected.grad, rtol=1e-5)
