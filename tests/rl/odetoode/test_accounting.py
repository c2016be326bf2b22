"""Counts of parameters against the formulas, of products against a sum."""

import pytest

from rl.envs import spaces
from rl.odetoode import accounting, baselines, bodies, heads, solvers


def gated(d):
  return bodies.ODEtoODE(d, kind='gated', gates=1)


@pytest.mark.parametrize(
  ('body', 'params'),
  [
    (bodies.ODEtoODE(16), 392),
    (bodies.ODEtoODE(64), 6176),
    (baselines.NANODE(16), 2816),
    (baselines.NANODE(64), 45_056),
    (baselines.NODE(16, hidden=(16, 16)), 816),
    (baselines.NODE(64, hidden=(64, 64)), 12_480),
    (gated(16), 8752 + 1 + 120),
    (gated(64), 135_472 + 1 + 2016),
    (baselines.HyperODE(16), 8736),
    (baselines.HyperODE(64), 135_456),
    (baselines.Dense(16), 25 * 272),
  ],
)
def test_parameters(body, params):
  assert accounting.count_params(body) == params


def test_stored_matrices_are_counted_in_full():
  assert accounting.count_params(bodies.ODEtoODE(16), intrinsic=False) == 768


@pytest.mark.parametrize(
  ('constrain_io', 'heads_size'),
  [(True, 16 * 8 - 36 + 2 * 16 - 3), (False, 160)],
)
def test_policies_have_heads_too(constrain_io, heads_size):
  """Swimmer's: 8 observations, 2 actions."""
  policy = heads.Policy(
    spaces.Box((8,), -1.0, 1.0),
    spaces.Box((2,), -1.0, 1.0),
    bodies.ODEtoODE(16),
    constrain_io,
  )
  assert accounting.count_params(policy) == 392 + heads_size
  assert accounting.count_params(policy, intrinsic=False) == policy.size


def test_products():
  d, steps = 8, 5
  found = accounting.cost(bodies.ODEtoODE(d, n_steps=steps))
  assert found.state_flops == 2 * steps * d * d
  # In a step: two for H, one for H N, four of the series, one to move W.
  certificates = (steps + 1) * 2 * d**3 + 4 * 2 * 2 * d**3 / 2
  assert found.weights_flops >= steps * 8 * 2 * d**3
  assert found.weights_flops <= steps * 8 * 2 * d**3 + 2 * certificates
  assert accounting.cost(baselines.NODE(d)).state_flops == 25 * 2 * d * d


def test_classifiers_have_heads_too():
  model = heads.Classifier(bodies.ODEtoODE(16), num_classes=3)
  heads_size = 65 * 16 + 17 * 3
  assert accounting.count_params(model, inputs=(8, 8)) == 392 + heads_size
  assert (
    accounting.count_params(model, intrinsic=False, inputs=(8, 8))
    == 768 + heads_size
  )
  with pytest.raises(ValueError, match='inputs'):
    accounting.count_params(model)
  with pytest.raises(ValueError, match='inputs'):
    accounting.count_params(model.body, inputs=(8, 8))


def test_adaptive_steps_are_not_counted():
  with pytest.raises(ValueError, match='fixed size'):
    accounting.cost(baselines.NODE(4, solver=solvers.Adaptive()))
