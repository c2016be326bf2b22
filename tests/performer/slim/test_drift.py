"""Whether the drift tells gradients that subtraction has lost."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from performer import slim
from performer.slim import drift as drift_lib
from tests.performer.slim import slim_cases as cases

LENGTH = 96
LOST, SOUND = 1e-2, 1e-4


@functools.cache
def compiled(kernel, strategy, chunk, dtype=jnp.float32):
  options = {'stabilizer': 'none'} if kernel.startswith('softmax') else {}
  mechanism = cases.favor(kernel, **options)
  problem = cases.problem(mechanism, dtype)

  def run(params, inputs, w):
    found = slim.slim_value_and_grad(
      problem, params, inputs, chunk=chunk, strategy=strategy, constants=w
    )
    return found.params, found.drift

  return jax.jit(run), cases.projections(mechanism)


def stressed(seed, stress, factor):
  """Peaked attention, or one late token with a large embedding or values."""
  params, inputs = cases.params(seed), cases.inputs(seed, length=LENGTH)
  # What sees no key at all reads the rounding of an empty state.
  inputs['mask'] = inputs['mask'].at[:, 0].set(True)
  if stress == 'peaked':
    for name in 'qk':
      params['layers'][name] *= factor
    return params, inputs
  at = 3 * LENGTH // 4
  tokens = jnp.maximum(inputs['tokens'], 1).at[:, at].set(0)
  if stress == 'large':
    params['embed'] = params['embed'].at[0].multiply(factor)
  else:  # Queries and keys do not see the large coordinate.
    params['embed'] = params['embed'].at[0, -1].set(factor)
    for name in 'qk':
      params['layers'][name] = params['layers'][name].at[:, -1].set(0.0)
  return params, inputs | {
    'tokens': tokens,
    'mask': inputs['mask'] | (tokens == 0),
  }


def measure(kernel, strategy, chunk, stress, factor, seeds):
  """Errors against float64, whether subtraction made them, and drifts."""
  errors, lost, drifts = [], [], []
  run, w = compiled(kernel, strategy, chunk)
  stored, _ = compiled(kernel, 'checkpoint', chunk)
  for seed in seeds:
    arrays = (*stressed(seed, stress, factor), w)
    grads, drift = run(*arrays)
    with jax.enable_x64(True):
      exact, _ = compiled(kernel, 'full', LENGTH, jnp.float64)
      truth, _ = exact(*map(cases.double, arrays))
      errors.append(cases.apart(grads, truth))
    lost.append(errors[-1] > LOST)
    if lost[-1]:  # Float32 alone can be that wrong too.
      safe = cases.apart(stored(*arrays)[0], truth)
      lost[-1] = not errors[-1] < 3 * safe
    drifts.append(np.max(drift))
  return np.array(errors), np.array(lost), np.array(drifts)


def assert_all_lost_are_flagged(errors, lost, drifts):
  missed = lost & (drifts <= drift_lib.THRESHOLD)
  assert not missed.any(), (errors[missed], drifts[missed])


@pytest.mark.slow
def test_a_few():
  run = functools.partial(measure, 'softmax_pos', 'subtract', 4, 'peaked')
  errors, lost, drifts = run(6.0, range(5))
  assert_all_lost_are_flagged(errors, lost, drifts)
  assert lost.any()
  errors, _, drifts = run(0.5, range(3))
  assert errors.max() < SOUND
  assert drifts.max() <= drift_lib.THRESHOLD


@pytest.mark.slow
@pytest.mark.parametrize('strategy', ['subtract', 'anchored'])
@pytest.mark.parametrize('chunk', [1, 4, 16])
@pytest.mark.parametrize(
  ('kernel', 'stress', 'harmless', 'harmful'),
  [
    ('softmax_pos', 'peaked', (0.5, 1.0), (2.0, 3.0, 4.0)),
    ('softmax_hyp', 'peaked', (0.5, 1.0), (2.0, 3.0, 4.0)),
    ('square', 'large', (1.0, 10.0), (100.0, 1000.0)),
    ('elu1', 'large', (1.0, 10.0), (1000.0,)),
    ('elu1', 'values', (1.0, 1e3), (1e5,)),
    ('relu', 'values', (1.0, 1e2), (1e5,)),
  ],
)
def test_many(strategy, chunk, kernel, stress, harmless, harmful):
  run = functools.partial(measure, kernel, strategy, chunk, stress)
  for factor in harmless:
    errors, lost, drifts = run(factor, range(20))
    assert_all_lost_are_flagged(errors, lost, drifts)
    false = (errors < SOUND) & ~(drifts <= drift_lib.THRESHOLD)
    assert false.sum() <= 1, (factor, errors[false], drifts[false])
  count = 0
  for factor in harmful:
    errors, lost, drifts = run(factor, range(20))
    assert_all_lost_are_flagged(errors, lost, drifts)
    count += lost.sum()
  assert count >= 2 or stress != 'peaked' or strategy == 'anchored'
