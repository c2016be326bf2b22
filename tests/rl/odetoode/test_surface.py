"""What users call besides models: searches by values, a start for Gated."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rl import es
from rl.odetoode import (
  bodies,
  evolution,
  flows,
  generators,
  geometry,
  manifolds,
)
from tests import seeds


@pytest.mark.parametrize('perturb', geometry.PERTURBATIONS)
def test_an_estimate_takes_parameters_as_they_are(perturb):
  """As by hand: a flat vector, blocks in the order of the leaves."""
  params = {'bias': jnp.ones(2), 'w0': manifolds.haar(seeds.key(3), 3)}
  objective = lambda p: jnp.sum(p['w0'] ** 3) - jnp.sum(p['bias'] ** 2)
  blocks = geometry.Block('free', (2,)), geometry.Block('orthogonal', (3, 3))
  by_hand = geometry.Manifold(blocks, perturb)
  named = geometry.Manifold.of(params, {'w0': 'orthogonal'}, perturb=perturb)
  assert named == by_hand
  options = {
    'key': seeds.key(4),
    'num_pairs': 8,
    'sigma': 0.1,
    'geometry': named,
  }
  of_flat = lambda x: objective(geometry.unflatten(params, x))

  @jax.jit
  def both(params):
    flat = jnp.concatenate([params['bias'], params['w0'].reshape(-1)])
    return (
      evolution.es_gradient(objective, params, **options),
      evolution.es_gradient(of_flat, flat, **options),
    )

  found, expected = both(params)
  np.testing.assert_allclose(found, expected, atol=1e-6)
  assert np.abs(found).max() > 0.1


def test_a_search_stays_on_the_manifold_of_named_parameters():
  start = {'bias': jnp.ones(2), 'w0': manifolds.haar(seeds.key(3), 3)}
  target = manifolds.move_orthogonal(
    start['w0'], manifolds.from_coordinates(jnp.ones(3), 3)
  )
  found = es.minimize(
    lambda p: 3 - jnp.sum(p['w0'] * target) + jnp.sum(p['bias'] ** 2),
    start,
    method=es.Strategy(
      es.ESConfig(num_pairs=16, sigma=0.1, normalize=False),
      optax.sgd(0.1),
      geometry.Manifold.of(start, {'w0': 'orthogonal'}),
    ),
    steps=40,
  )
  assert found.history['value'][0] > 2
  assert found.value < 0.1
  assert manifolds.orthogonality_defect(found.x['w0']) < 1e-5


def test_the_kind_of_one_array_needs_no_name():
  for kind, shape in (('orthogonal', (3, 3)), ('stiefel', (4, 2))):
    found = geometry.Manifold.of(jnp.zeros(shape), kind)
    assert found.blocks == (geometry.Block(kind, shape),)
  with pytest.raises(ValueError, match='orthogonl'):
    geometry.Manifold.of(jnp.eye(3), 'orthogonl')


def test_gated_parameters_start_as_those_of_the_body():
  d, gates, hidden = 5, 64, (8, 12)
  body = bodies.ODEtoODE(d, kind='gated', gates=gates, hidden=hidden, n_steps=2)
  theirs = jax.jit(body.init)(seeds.key(0), jnp.ones(d))['params']
  ours = generators.init_gated(seeds.key(1), d, gates=gates, hidden=hidden)
  np.testing.assert_array_equal(ours.gates, theirs['gates'])
  for i, (weights, biases) in enumerate(
    zip(ours.weights, ours.biases, strict=True)
  ):
    like = theirs[f'kernels_{i}']
    assert weights.shape == like.shape
    np.testing.assert_allclose(weights.std(), like.std(), rtol=0.05)
    np.testing.assert_array_equal(biases, theirs[f'biases_{i}'])
  b = generators.skew_gated(ours)(0.0, jnp.eye(d))
  assert 0.1 < jnp.linalg.norm(b, 2) < 2.5
  np.testing.assert_allclose(b, -b.T, atol=1e-6)
  with pytest.raises(ValueError, match='gates must be positive'):
    generators.init_gated(seeds.key(1), d, gates=0)


def test_the_trajectory_has_both_ends():
  b = lambda t, w: jnp.array([[0.0, 1.0], [-1.0, 0.0]])
  flow = flows.matrix_flow(jnp.eye(2), b, n_steps=3)
  assert flow.trajectory.shape == (4, 2, 2)
  np.testing.assert_array_equal(flow.trajectory[:-1], flow.matrices)
  np.testing.assert_array_equal(flow.trajectory[-1], flow.last)
  turn = flow.matrices[1]
  for before, after in itertools.pairwise(flow.trajectory):
    np.testing.assert_allclose(before @ turn, after, atol=1e-6)
