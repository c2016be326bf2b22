"""Calls outside of `jax.jit` compile once, and old programs are dropped."""

import gc
import logging
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from performer import attention, slim
from performer.models import transformer
from performer.slim import language
from tests import marks

FAVOR = attention.Favor(kernel='elu1', projection=False, features=None)
PARAMS = jnp.eye(2)
INPUTS = {'x': jnp.linspace(-1, 1, 12).reshape(1, 6, 2)}


def empty(batch):
  return FAVOR.empty_state(batch=batch, num_heads=1, head_dim=2)


def make():
  """A problem with a function of its own."""

  def loss(mechanism, params, state, chunk):
    q = (chunk.inputs['x'] @ params)[:, :, None]
    y, state = mechanism.extend(q, q, q, projection=None, state=state)
    return jnp.where(chunk.valid, y.sum((2, 3)), 0).sum(), state, {}

  return slim.Problem(loss, FAVOR, empty)


def by_call(problem, params):
  return slim.slim_value_and_grad(
    problem, params, INPUTS, chunk=4, strategy='subtract'
  ).params


def by_grad(problem, params):
  return jax.grad(slim.slim_loss, argnums=1)(problem, params, INPUTS, chunk=4)


@pytest.mark.parametrize('gradient', [*marks.slow(by_call), by_grad])
def test_a_second_call_compiles_nothing(gradient, caplog):
  problem = make()
  first = gradient(problem, PARAMS)
  moved = PARAMS + 1
  with jax.log_compiles(), caplog.at_level(logging.WARNING):
    second = gradient(problem, moved)
    assert 'Compiling' not in caplog.text
    # The log does tell: another problem compiles.
    other = gradient(make(), moved)
  assert 'Compiling' in caplog.text
  np.testing.assert_allclose(second, other, rtol=1e-6)
  assert np.abs(second - first).max() > 1e-3


def test_problems_of_equal_models_are_equal():
  def model(d_ff):
    return transformer.Transformer(
      9, 8, FAVOR, num_layers=1, num_heads=1, d_model=4, d_ff=d_ff, causal=True
    )

  one = model(4)
  assert language.problem(one) == language.problem(one)
  assert hash(language.problem(one)) == hash(language.problem(one))
  assert language.problem(one).loss == language.problem(model(4)).loss
  assert language.problem(one).loss != language.problem(model(5)).loss


@pytest.mark.slow
def test_old_programs_are_dropped():
  def trace():
    problem = make()
    jax.eval_shape(lambda params: by_call(problem, params), PARAMS)
    return weakref.ref(problem.loss)

  losses = [trace() for _ in range(40)]
  gc.collect()
  assert losses[0]() is None
  assert losses[-1]() is not None
