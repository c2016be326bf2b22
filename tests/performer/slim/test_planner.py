"""Plans fit their budget and take the least work that does."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from performer import attention
from performer.slim import drift, gradients, language, model, options, planner
from tests import marks, seeds

LENGTH = 4096


def small(kernel='square', **sizes):
  if kernel == 'square':
    favor = attention.Favor(kernel=kernel, projection=False, features=None)
  else:
    favor = attention.Favor(kernel=kernel, features=32)
  defaults = {'num_layers': 2, 'num_heads': 2, 'd_model': 32, 'd_ff': 64}
  return model.SlimTransformer(50, favor, **{**defaults, **sizes})


def shapes(lm, length=LENGTH, batch=1):
  grid = (batch, length)
  inputs = {
    'tokens': jax.ShapeDtypeStruct(grid, jnp.int32),
    'targets': jax.ShapeDtypeStruct(grid, jnp.int32),
    'weights': jax.ShapeDtypeStruct(grid, jnp.float32),
    'mask': jax.ShapeDtypeStruct(grid, jnp.bool_),
  }
  key = jax.eval_shape(lambda: seeds.key(0))
  projections = jax.eval_shape(lambda: lm.draw_projections(seeds.key(0), 0))
  one = jnp.zeros((1, 1), jnp.int32)
  params = jax.eval_shape(
    lambda: lm.init(
      seeds.key(0),
      one,
      mask=one == 0,
      projections=lm.draw_projections(seeds.key(0), 0),
    )['params']
  )
  return nn.unbox(params), inputs, language.Constants(projections, key)


def plan(lm, **arguments):
  params, inputs, constants = shapes(lm)
  return planner.plan(
    language.problem(lm), params, inputs, constants=constants, **arguments
  )


@pytest.mark.slow
def test_less_memory_costs_more_work():
  lm = small()
  free = plan(lm)
  assert free.chosen.strategy == 'checkpoint'
  assert free.chosen.chunk >= planner.MIN_CHUNK
  full = next(c for c in free.candidates if c.strategy == 'full')
  assert plan(lm, memory_budget=full.temporary_bytes).chosen == full
  work = full.flops
  for budget in full.temporary_bytes * 2.0 ** np.arange(-1, -5, -1):
    chosen = plan(lm, memory_budget=float(budget)).chosen
    assert chosen.temporary_bytes <= budget
    assert chosen.flops >= work
    work = chosen.flops
  # The last resort of kernels whose sums are safe.
  least = min(free.candidates, key=lambda c: c.temporary_bytes)
  assert least[:2] == ('subtract', planner.MIN_CHUNK)
  assert plan(lm, memory_budget=least.temporary_bytes).chosen == least
  with pytest.raises(
    ValueError, match=r'no plan fits .*the smallest is strategy'
  ):
    plan(lm, memory_budget=1e3)


@pytest.mark.slow
def test_exponentials_are_not_subtracted_unasked():
  found = plan(small('softmax_hyp'))
  expected = {'full', 'checkpoint', 'checkpoint2'}
  assert {c.strategy for c in found.candidates} == expected
  for strategy in ('subtract', 'anchored'):
    with pytest.raises(ValueError, match='plain sums'):
      plan(small('softmax_hyp'), strategy=strategy)


@pytest.mark.slow
def test_what_is_given_stays():
  lm = small()
  assert plan(lm, chunk=100).chosen.chunk == 100
  assert plan(lm, strategy='subtract', chunk=7).chosen[:2] == ('subtract', 7)
  assert plan(lm, strategy='checkpoint2').chosen.strategy == 'checkpoint2'
  with pytest.raises(ValueError, match='memory_budget must be positive'):
    plan(lm, memory_budget=0)
  with pytest.raises(ValueError, match='strategy must be one of'):
    plan(lm, strategy='other')


@pytest.mark.slow
@pytest.mark.parametrize(
  'strategy',
  ['full', 'subtract', 'anchored', *marks.slow('checkpoint', 'checkpoint2')],
)
def test_predictions_against_the_compiler(strategy):
  """Within a factor of two, at a small size and for every strategy."""
  lm = small(num_layers=3, d_model=64, d_ff=256)
  params, inputs, constants = shapes(lm, length=2048)
  problem = language.problem(lm)
  chunk = None if strategy == 'full' else 128
  chosen = planner.plan(
    problem, params, inputs, strategy=strategy, chunk=chunk, constants=constants
  ).chosen

  def step(params, inputs, constants):
    found = gradients.slim_value_and_grad(
      problem,
      params,
      inputs,
      chunk=chosen.chunk,
      strategy=strategy,
      constants=constants,
    )
    return found.loss, found.params

  compiled = jax.jit(step).lower(params, inputs, constants).compile()
  actual = compiled.memory_analysis().temp_size_in_bytes
  assert 0.5 < chosen.temporary_bytes / actual < 2, (chosen, actual)


def test_drift_in_words():
  assert drift.message(np.array([1e-7, 5e-3])) is None
  text = drift.message({'a': np.array([1e-7, 3e-2]), 'b': np.float32(1e-9)})
  assert 'layer 1' in text
  assert '3.0e-02' in text
  assert 'layer 0' in drift.message([np.nan, 1.0])
  with pytest.warns(RuntimeWarning, match='layer 2'):
    drift.warn([0.0, 0.0, 1.0])


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    ({'strategy': 'none'}, "one of .*'auto'.*got 'none'"),
    ({'chunk': 0}, 'chunk must be positive, got chunk=0'),
    ({'memory_budget_gb': -1.0}, 'memory_budget_gb must be positive'),
    ({'strategy': 'full', 'chunk': 8}, 'one chunk, the sequence'),
  ],
)
def test_options(arguments, message):
  with pytest.raises(ValueError, match=message):
    options.Slim(**arguments)
