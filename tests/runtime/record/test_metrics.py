import jax
import jax.numpy as jnp
import numpy as np
import pytest
from clu import metrics as clu_metrics

from runtime.record import metrics


def collection(values, weights, count):
  return clu_metrics.Collection.create_collection(
    loss=metrics.Average.of(jnp.asarray(values), jnp.asarray(weights)),
    perplexity=metrics.Perplexity.of(jnp.asarray(values), jnp.asarray(weights)),
    seen=clu_metrics.LastValue(jnp.int32(count), jnp.int32(1)),
  )


def packed(packing, *args):
  return jax.jit(lambda: packing.pack(collection(*args)))()


def test_weighted_means_pool_over_steps():
  rng = np.random.default_rng(0)
  packing = metrics.Packing()
  buffer = metrics.StepMetrics(packing)
  values, weights = rng.uniform(size=(2, 5, 8)).astype(np.float32)
  for step in range(5):
    buffer.add(step, packed(packing, values[step], weights[step], step))
  found = buffer.pop()
  mean = np.average(values.astype(np.float64), weights=weights)
  np.testing.assert_allclose(found['loss'], mean, rtol=1e-6)
  np.testing.assert_allclose(found['perplexity'], np.exp(mean), rtol=1e-6)
  assert found['seen'] == 4
  assert buffer.pop() == {}


def test_saved_sums_continue_exactly():
  rng = np.random.default_rng(1)
  values = rng.uniform(size=(6, 8)).astype(np.float32)
  packing = metrics.Packing()
  whole = metrics.StepMetrics(packing)
  first = metrics.StepMetrics(packing)
  for step, value in enumerate(values):
    whole.add(step, packed(packing, value, np.ones(8), step))
  for step in range(3):
    first.add(step, packed(packing, values[step], np.ones(8), step))
  second = metrics.StepMetrics(packing, first.state())
  for step in range(3, 6):
    second.add(step, packed(packing, values[step], np.ones(8), step))
  assert second.pop() == whole.pop()


def test_first_step_that_is_not_finite_is_named():
  packing = metrics.Packing()
  buffer = metrics.StepMetrics(packing)
  for step, value in ((1, 1.0), (2, np.inf), (3, np.nan)):
    buffer.add(step, packed(packing, [value], [1.0], 0))
  with pytest.raises(metrics.NonFiniteError, match=r'step 2 .*inf'):
    buffer.drain()


def test_metrics_of_a_step_must_be_scalars():
  bad = clu_metrics.Collection.create_collection(
    loss=metrics.Average(jnp.ones(3), jnp.ones(3))
  )
  with pytest.raises(ValueError, match='scalars'):
    metrics.Packing().pack(bad)


def test_nothing_weighted_gives_nan():
  assert np.isnan(metrics.Average(np.float32(0), np.float32(0)).compute())
