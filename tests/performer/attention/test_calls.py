"""Calls outside of `jax.jit`, and arrays on meshes with explicit axes."""

import dataclasses
import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.performer.attention import attention_cases as cases

P = jax.sharding.PartitionSpec
FAVOR = cases.favor()


def calls(favor, q, k, v, w):
  """Every public call, and the sums in a state as they are without a unit."""
  state = favor.summarize(k, v, projection=w)
  out, after = favor.extend(q, k, v, projection=w)
  return {
    'causal': favor(q, k, v, projection=w, causal=True),
    'bidirectional': favor(q, k, v, projection=w, causal=False),
    'sums': state,
    'read': favor.read(q, state, projection=w),
    'extended': out,
    'after': after,
  }


def test_a_second_call_compiles_nothing(caplog):
  q, k, v, w = cases.arguments(FAVOR, 1)
  calls(FAVOR, q, k, v, w)
  q = q + 1
  with jax.log_compiles(), caplog.at_level(logging.WARNING):
    calls(FAVOR, q, k, v, w)
    assert 'Compiling' not in caplog.text
    # The log does tell: with other options the same call compiles.
    other = dataclasses.replace(FAVOR, redraw_every=11)
    other(q, k, v, projection=w, causal=True)
  assert 'Compiling' in caplog.text


@pytest.fixture(scope='module')
def mesh():
  return jax.make_mesh(
    (2, 2),
    ('data', 'model'),
    axis_types=(jax.sharding.AxisType.Explicit,) * 2,
    devices=jax.devices()[:4],
  )


@pytest.mark.slow
@pytest.mark.parametrize('inside', [False, True])
def test_explicit_axes(mesh, inside):
  """Batch and heads split; with the mesh as context and without."""
  q, k, v, w = cases.arguments(FAVOR, 2)
  split = jax.NamedSharding(mesh, P('data', None, 'model'))
  arrays = [jax.device_put(x, split) for x in (q, k, v)]

  def loss(q, k, v):
    found = calls(FAVOR, q, k, v, w)
    total = sum(jnp.sin(x).sum() for x in (found['causal'], found['read']))
    return total, found

  both = jax.jit(jax.grad(loss, (0, 1, 2), has_aux=True))
  slopes, expected = both(q, k, v)
  if inside:
    with jax.set_mesh(mesh):
      grads, found = both(*arrays)
  else:
    grads, found = both(*arrays)
  for x, y in zip(
    jax.tree.leaves((found, grads)),
    jax.tree.leaves((expected, slopes)),
    strict=True,
  ):
    np.testing.assert_allclose(x, y, atol=1e-5 * max(1, np.abs(y).max()))
  for name in ('causal', 'bidirectional', 'read', 'extended'):
    assert found[name].sharding.spec[:3] == ('data', None, 'model')
  assert found['sums'].S.sharding.spec[:2] == ('data', 'model')
