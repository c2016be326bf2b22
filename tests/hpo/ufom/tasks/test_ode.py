"""A neural ODE as the network of few-shot tasks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hpo.ufom.tasks import networks
from rl.odetoode import baselines, bodies, solvers
from tests import seeds


def test_logits_are_those_of_eulers_steps():
  steps = 3
  body = baselines.NODE(4, solver=solvers.Fixed(steps, 'euler'))
  network = networks.ODE(2, body)
  x = jax.random.uniform(seeds.key(0), (5, 2, 3, 1))
  variables = jax.jit(network.init)(seeds.key(1), x)
  logits = network.apply(variables, x)
  params = jax.tree.map(np.float64, variables['params'])
  body, params = params['body'], params['Classifier_0']
  state = np.asarray(x, np.float64).reshape(5, 6)
  state = state @ params['input']['kernel'] + params['input']['bias']
  for _ in range(steps):
    inside = state @ body['kernel_0'] + body['bias_0']
    state = state + np.tanh(inside) / steps
  expected = state @ params['readout']['kernel'] + params['readout']['bias']
  np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)


def test_parameters_on_a_manifold_are_refused():
  network = networks.ODE(2, bodies.ODEtoODE(4, n_steps=2))
  with pytest.raises(ValueError, match=r"must move freely, got \['w0'\]"):
    jax.eval_shape(network.init, seeds.key(0), jnp.zeros((1, 2, 2, 1)))
  free = networks.ODE(2, bodies.ODEtoODE(4, n_steps=2, orthogonal=False))
  jax.eval_shape(free.init, seeds.key(0), jnp.zeros((1, 2, 2, 1)))
