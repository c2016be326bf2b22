"""Positions split over eight devices against one device."""

import functools

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import pytest

from performer.attention import sequence
from tests.performer.attention import attention_cases as cases
from tests.performer.attention import attention_twin as twin

DEVICES = 8
LENGTH = 64
P = jax.sharding.PartitionSpec


@pytest.fixture(scope='module')
def mesh():
  if jax.device_count() < DEVICES:
    pytest.skip(f'needs {DEVICES} devices')
  return jax.make_mesh(
    (DEVICES,),
    ('sequence',),
    axis_types=(jax.sharding.AxisType.Auto,),
    devices=jax.devices()[:DEVICES],
  )


def over_devices(mesh, favor, w, *, causal):
  split = P(None, 'sequence')
  return jax.shard_map(
    functools.partial(
      lambda q, k, v, mask, w: sequence.attend(
        favor,
        q,
        k,
        v,
        projection=w,
        causal=causal,
        axis_name='sequence',
        key_mask=mask,
      ),
      w=w,
    ),
    mesh=mesh,
    in_specs=(split, split, split, split),
    out_specs=split,
    check_vma=False,
  )


@pytest.mark.parametrize('causal', [False, True])
@pytest.mark.parametrize(
  ('kernel', 'scale'),
  [('softmax_hyp', 1.0), ('softmax_hyp', 12.0), ('relu', 1)],
)
def test_eight_devices_are_one(mesh, kernel, scale, causal):
  favor = cases.favor(kernel)
  w = cases.projection(favor)
  q, k, v = twin.inputs(3, l=LENGTH, scale=scale)
  # Devices 0 and 5 hold no kept key of one sequence each.
  mask = np.array(twin.mask(2, 2, LENGTH))
  mask[0, :9] = mask[1, 40:48] = False
  mask = jnp.asarray(mask)
  attend = over_devices(mesh, favor, w, causal=causal)

  def loss(q, k, v):
    out = attend(q, k, v, mask)
    return jnp.sin(out).sum(), out

  grads, out = jax.jit(jax.grad(loss, (0, 1, 2), has_aux=True))(q, k, v)
  expected, slopes = cases.value_and_grad(
    favor, q, k, v, w, mask, causal=causal
  )
  np.testing.assert_allclose(out, expected, atol=2e-5)
  for mine, other in zip(grads, slopes, strict=True):
    np.testing.assert_allclose(mine, other, atol=1e-5 * np.abs(other).max())


def packed_ids():
  """Eight positions a device: segments within a device and over several."""
  rows = np.zeros((2, LENGTH), np.int32)
  # One over devices 0 to 2, one that begins with device 4, an id again.
  for start, name in ((19, 3), (22, 1), (32, 3), (60, 1)):
    rows[0, start:] = name
  for start, name in ((8, 2), (16, 0), (63, 5)):
    rows[1, start:] = name
  return jnp.asarray(rows)


@pytest.mark.parametrize('causal', [False, True])
@pytest.mark.parametrize(
  ('kernel', 'scale'),
  [('softmax_hyp', 1.0), ('softmax_hyp', 12.0), ('relu', 1.0)],
)
def test_segments_over_devices(mesh, kernel, scale, causal):
  favor = cases.favor(kernel)
  w = cases.projection(favor)
  q, k, v = twin.inputs(6, l=LENGTH, scale=scale)
  mask = np.array(twin.mask(3, 2, LENGTH))
  mask[1, 16:30] = False  # Devices 2 and most of 3: a segment without keys yet.
  mask, names = jnp.asarray(mask), packed_ids()
  split = P(None, 'sequence')
  attend = jax.shard_map(
    lambda q, k, v, mask, names, w: sequence.attend(
      favor,
      q,
      k,
      v,
      projection=w,
      causal=causal,
      axis_name='sequence',
      key_mask=mask,
      segment_ids=names,
    ),
    mesh=mesh,
    in_specs=(split,) * 5 + (P(),),
    out_specs=split,
  )

  def one(q, k, v, mask, names, w):
    options = {'key_mask': mask, 'segment_ids': names}
    return favor(q, k, v, projection=w, causal=causal, **options)

  def both(function):
    def loss(q, k, v):
      out = function(q, k, v, mask, names, w)
      return jnp.sin(out).sum(), out

    return jax.jit(jax.grad(loss, (0, 1, 2), has_aux=True))(q, k, v)

  (grads, out), (slopes, expected) = both(attend), both(one)
  np.testing.assert_allclose(out, expected, atol=2e-5)
  for mine, other in zip(grads, slopes, strict=True):
    np.testing.assert_allclose(mine, other, atol=2e-5 * np.abs(other).max())


def test_only_states_travel(mesh):
  """No collective moves an array that grows with the length."""
  favor = cases.favor()
  w = cases.projection(favor)

  def moved(length):
    attend = over_devices(mesh, favor, w, causal=True)
    q, k, v = twin.inputs(3, l=length)
    jaxpr = jax.make_jaxpr(attend)(q, k, v, jnp.ones((2, length), bool))
    return sizes(jaxpr.jaxpr)

  assert moved(64) == moved(256) > 0


def sizes(jaxpr):
  total = 0
  for equation in jaxpr.eqns:
    if equation.primitive.name in ('ppermute', 'psum', 'pmax', 'all_gather'):
      total += sum(x.aval.size for x in equation.invars)
    for inner in jax.extend.core.jaxprs_in_params(equation.params):
      total += sizes(inner)
  return total


@pytest.mark.parametrize('causal', [False, True])
def test_gradients_where_shards_are_checked(mesh, causal):
  """By default `shard_map` follows what varies over the axis."""
  favor = cases.favor()
  w = cases.projection(favor)
  q, k, v = twin.inputs(4, l=LENGTH)
  split = P(None, 'sequence')
  attend = jax.shard_map(
    lambda q, k, v, w: sequence.attend(
      favor, q, k, v, projection=w, causal=causal, axis_name='sequence'
    ),
    mesh=mesh,
    in_specs=(split, split, split, P()),
    out_specs=split,
  )
  check_gradients(favor, attend, q, k, v, w, causal=causal)


def test_gradients_of_keys_that_every_device_has(mesh):
  favor = cases.favor()
  w = cases.projection(favor)
  q, k, v = twin.inputs(5, l=LENGTH)
  split = P(None, 'sequence')
  attend = jax.shard_map(
    lambda q, k, v, w: favor(q, k, v, projection=w, causal=False),
    mesh=mesh,
    in_specs=(split, P(), P(), P()),
    out_specs=split,
  )
  check_gradients(favor, attend, q, k, v, w, causal=False)


def check_gradients(favor, attend, *inputs, causal):
  """Those of q, k, v and W are those of one device."""

  def one(q, k, v, w):
    return favor(q, k, v, projection=w, causal=causal)

  def grads(function):
    loss = lambda *x: jnp.sin(function(*x)).sum()
    return jax.jit(jax.grad(loss, (0, 1, 2, 3)))(*inputs)

  for mine, other in zip(grads(attend), grads(one), strict=True):
    np.testing.assert_allclose(mine, other, atol=1e-5 * np.abs(other).max())
