"""Products of dense layers, with the rows in one axis or in several."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax.sharding import AxisType

from performer.models import products

KEY = jax.random.key(0)
DOT = products.dot_general
LAYERS = {
  'dense': (nn.Dense(5, dot_general=DOT), (2, 3, 4)),
  'dense, vector': (nn.Dense(5, dot_general=DOT), (4,)),
  'dense to heads': (
    nn.DenseGeneral((3, 2), dot_general=DOT),
    (2, 3, 4),
  ),
  'dense from heads': (
    nn.DenseGeneral(5, axis=(-2, -1), dot_general=DOT),
    (2, 4, 3, 2),
  ),
}


def gradient(layer, shape):
  x = jax.random.normal(KEY, shape)
  params = jax.jit(layer.init)(KEY, x)

  def loss(params, x):
    return jnp.sum(jnp.sin(layer.apply(params, x)))

  return jax.grad(loss, argnums=(0, 1)), (params, x)


@pytest.mark.parametrize('name', LAYERS)
def test_gradients_are_those_of_several_axes(name, monkeypatch):
  flat, inputs = gradient(*LAYERS[name])
  found = jax.jit(flat)(*inputs)
  monkeypatch.setattr(jax, 'default_backend', lambda: 'tpu')
  other, inputs = gradient(*LAYERS[name])
  for a, b in zip(
    jax.tree.leaves(found),
    jax.tree.leaves(jax.jit(other)(*inputs)),
    strict=True,
  ):
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(('backend', 'most'), [('cpu', 2), ('tpu', 3)])
def test_products_of_a_cpu_have_one_axis_of_rows(monkeypatch, backend, most):
  """A mesh may split several axes; a CPU would transpose cotangents."""
  monkeypatch.setattr(jax, 'default_backend', lambda: backend)
  run, inputs = gradient(*LAYERS['dense'])
  equations = jax.make_jaxpr(run)(*inputs).jaxpr.eqns
  ranks = [
    max(v.aval.ndim for v in e.invars)
    for e in equations
    if e.primitive.name == 'dot_general'
  ]
  assert len(ranks) == 3
  assert max(ranks) == most


def test_positions_on_an_explicit_mesh_stay_split():
  mesh = jax.make_mesh((2,), ('sequence',), (AxisType.Explicit,))
  split = jax.NamedSharding(mesh, jax.P(None, 'sequence'))
  run, (params, x) = gradient(nn.Dense(5, dot_general=DOT), (2, 4, 4))
  with jax.set_mesh(mesh):
    found = jax.jit(run)(params, jax.device_put(x, split))[1]
  assert found.sharding.spec[1] == 'sequence'
  np.testing.assert_allclose(found, run(params, x)[1], rtol=1e-5, atol=1e-6)
