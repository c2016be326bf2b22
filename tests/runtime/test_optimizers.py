"""Optimisers of configurations: against optax's own parts and by hand."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from runtime import optimizers
from tests import trees

PARAMS = {'kernel': jnp.ones((2, 2)), 'bias': jnp.ones(2)}


def steps(optimizer, count, gradient=1.0):
  """The parameters after each of some steps with a constant gradient."""
  params, state, seen = PARAMS, optimizer.init(PARAMS), []
  grads = jax.tree.map(lambda x: jnp.full_like(x, gradient), params)
  for _ in range(count):
    updates, state = optimizer.update(grads, state, params)
    params = optax.apply_updates(params, updates)
    seen.append(params)
  return seen, state


def test_any_schedule_of_optax_is_a_learning_rate():
  schedule = optax.polynomial_schedule(0.1, 0.0, 2, 3)
  found, _ = steps(optimizers.adamw(learning_rate=schedule), 4)
  expected, _ = steps(optax.adamw(schedule, weight_decay=0.0), 4)
  jax.tree.map(np.testing.assert_array_equal, found, expected)
  with pytest.raises(ValueError, match='excludes other schedules'):
    optimizers.adamw(learning_rate=schedule, warmup_steps=3)


def test_only_kernels_decay_where_the_mask_says_so():
  optimizer = optimizers.adamw(
    learning_rate=0.1, weight_decay=0.5, decay_mask=optimizers.kernels
  )
  (after,), _ = steps(optimizer, 1, gradient=0.0)
  np.testing.assert_allclose(after['kernel'], 0.95)
  np.testing.assert_array_equal(after['bias'], 1)


def test_accumulated_steps_are_one_step_of_their_mean():
  optimizer = optimizers.adamw(learning_rate=0.1, accumulate_steps=3)
  found, _ = steps(optimizer, 6)
  whole, _ = steps(optimizers.adamw(learning_rate=0.1), 2)
  for index, expected in (
    (0, PARAMS),
    (1, PARAMS),
    (2, whole[0]),
    (5, whole[1]),
  ):
    trees.check_close(found[index], expected, rtol=1e-6)


def test_averages_follow_the_parameters_and_change_nothing():
  plain, _ = steps(optax.sgd(0.1), 3)
  found, state = steps(optimizers.averaged(optax.sgd(0.1), decay=0.5), 3)
  jax.tree.map(np.testing.assert_array_equal, found, plain)
  average = optimizers.averaged_params(found[-1], state)
  expected = 1.0
  for position in (0.9, 0.8, 0.7):
    expected = 0.5 * expected + 0.5 * position
  np.testing.assert_allclose(average['bias'], expected, rtol=1e-6)
  nested = (optax.EmptyState(), state)
  assert optimizers.averaged_params(PARAMS, nested) is state.average
  assert optimizers.averaged_params(PARAMS, optax.EmptyState()) is PARAMS


@pytest.mark.parametrize(
  ('settings', 'message'),
  [
    ({'learning_rate': -0.1}, 'learning_rate=-0.1'),
    ({'learning_rate': 0.1, 'warmup_steps': -1}, 'warmup_steps=-1'),
    ({'learning_rate': 0.1, 'weight_decay': -0.1}, 'weight_decay=-0.1'),
    ({'learning_rate': 0.1, 'accumulate_steps': 0}, 'accumulate_steps=0'),
    ({'learning_rate': 0.1, 'clip_norm': -1.0}, r'clip_norm=-1\.0'),
    ({'learning_rate': 0.1, 'clip_norm': 0.0}, r'nothing moves with clip_norm'),
    ({'learning_rate': 0.1, 'clip_norm': math.nan}, 'clip_norm=nan'),
    ({'learning_rate': math.nan}, r'learning_rate must be in \[0, inf\), got'),
    ({'learning_rate': math.inf}, 'learning_rate=inf'),
    ({'learning_rate': 0.1, 'b1': 1.5}, r'b1 must be in \[0, 1\), got b1=1\.5'),
    ({'learning_rate': 0.1, 'b2': 2}, 'b2=2'),
    ({'learning_rate': 0.1, 'eps': -1}, 'eps=-1'),
    ({'learning_rate': 0.1, 'drop_step': 3, 'drop_factor': -1}, 'factor=-1'),
  ],
)
def test_numbers_out_of_range_are_named(settings, message):
  with pytest.raises(ValueError, match=message):
    optimizers.adamw(**settings)


def test_a_decay_out_of_range_is_named():
  with pytest.raises(ValueError, match='decay=1'):
    optimizers.averaged(optax.sgd(0.1), decay=1)


@pytest.mark.parametrize('rise', [False, True])
def test_inverse_roots(rise):
  """The rate of Long Range Arena rises to its peak; that of T5 starts there."""
  rate = optimizers.inverse_root(0.05, warmup_steps=100, rise=rise)
  steps = np.array([0, 25, 100, 400])
  before = [0, 0.25, 1] if rise else [1, 1, 1]
  expected = 0.005 * np.array([*before, 0.5])
  np.testing.assert_allclose(
    [float(rate(s)) for s in steps], expected, rtol=1e-6
  )
  with pytest.raises(ValueError, match='warmup_steps=0'):
    optimizers.inverse_root(0.05, warmup_steps=0)
  with pytest.raises(ValueError, match='scale=nan'):
    optimizers.inverse_root(math.nan, warmup_steps=1)
