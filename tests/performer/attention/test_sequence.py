"""Positions split over eight devices against one device."""

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import pytest

from performer.attention import sequence
from tests import marks
from tests.performer.attention import attention_cases as cases
from tests.performer.attention import attention_twin as twin

LENGTH = 64
P = jax.sharding.PartitionSpec


@pytest.fixture(scope='module')
def mesh():
  auto = (jax.sharding.AxisType.Auto,)
  return jax.make_mesh((8,), ('sequence',), axis_types=auto)


def over_devices(mesh, favor, *, causal, check_vma=True):
  """Attention of (q, k, v, mask, ids, w), positions over the devices."""

  def attend(q, k, v, mask, ids, w):
    options = {'key_mask': mask, 'segment_ids': ids}
    options |= {'causal': causal, 'axis_name': 'sequence'}
    return sequence.attend(favor, q, k, v, projection=w, **options)

  split = P(None, 'sequence')
  return jax.shard_map(
    attend,
    mesh=mesh,
    in_specs=(split,) * 5 + (P(),),
    out_specs=split,
    check_vma=check_vma,
  )


def value_and_grad(attend):
  """Compiled: output, and gradients of sum(sin(output)) in q, k, v and w."""

  def loss(q, k, v, w, mask, ids):
    out = attend(q, k, v, mask, ids, w)
    return jnp.sin(out).sum(), out

  return jax.jit(jax.grad(loss, (0, 1, 2, 3), has_aux=True))


def one_device(favor, *, causal):
  def attend(q, k, v, mask, ids, w):
    options = {'key_mask': mask, 'segment_ids': ids}
    return favor(q, k, v, projection=w, causal=causal, **options)

  return attend


def compare(split, favor, scales, mask, ids=None, *, causal):
  """Values and gradients beside those of one device, at several scales."""
  w = cases.projection(favor)
  mask = jnp.asarray(mask)
  split, whole = map(value_and_grad, (split, one_device(favor, causal=causal)))
  for scale in scales:
    q, k, v = twin.inputs(3, l=LENGTH, scale=scale)
    (grads, out), (slopes, expected) = (
      run(q, k, v, w, mask, ids) for run in (split, whole)
    )
    np.testing.assert_allclose(out, expected, atol=2e-5)
    for mine, other in zip(grads, slopes, strict=True):
      np.testing.assert_allclose(mine, other, atol=2e-5 * np.abs(other).max())


@pytest.mark.parametrize(
  ('kernel', 'scales', 'causal', 'check_vma'),
  [
    # By default `shard_map` follows what varies over the axis.
    ('softmax_hyp', (1.0, 12.0), False, True),
    ('relu', (1.0,), True, False),
    *marks.slow(
      ('softmax_hyp', (1.0, 12.0), True, True), ('relu', (1.0,), False, False)
    ),
  ],
)
def test_eight_devices_are_one(mesh, kernel, scales, causal, check_vma):
  favor = cases.favor(kernel)
  # Devices 0 and 5 hold no kept key of one sequence each.
  mask = np.array(twin.mask(2, 2, LENGTH))
  mask[0, :9] = mask[1, 40:48] = False
  split = over_devices(mesh, favor, causal=causal, check_vma=check_vma)
  compare(split, favor, scales, mask, causal=causal)


def packed_ids():
  """Eight positions a device: segments within a device and over several."""
  rows = np.zeros((2, LENGTH), np.int32)
  # One over devices 0 to 2, one that begins with device 4, an id again.
  for start, name in ((19, 3), (22, 1), (32, 3), (60, 1)):
    rows[0, start:] = name
  for start, name in ((8, 2), (16, 0), (63, 5)):
    rows[1, start:] = name
  return jnp.asarray(rows)


@pytest.mark.parametrize(
  ('kernel', 'scales', 'causal'),
  [
    ('relu', (1.0,), True),
    *marks.slow(
      ('softmax_hyp', (1.0, 12.0), True),
      ('softmax_hyp', (1.0, 12.0), False),
      ('relu', (1.0,), False),
    ),
  ],
)
def test_segments_over_devices(mesh, kernel, scales, causal):
  favor = cases.favor(kernel)
  mask = np.array(twin.mask(3, 2, LENGTH))
  mask[1, 16:30] = False  # Devices 2 and most of 3: a segment without keys yet.
  split = over_devices(mesh, favor, causal=causal)
  compare(split, favor, scales, mask, packed_ids(), causal=causal)


def test_only_states_travel(mesh):
  """No collective moves an array that grows with the length."""
  favor = cases.favor()
  w = cases.projection(favor)

  def moved(length):
    attend = over_devices(mesh, favor, causal=True)
    q, k, v = twin.inputs(3, l=length)
    mask = jnp.ones((2, length), bool)
    jaxpr = jax.make_jaxpr(attend)(q, k, v, mask, None, w)
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


def test_gradients_of_keys_that_every_device_has(mesh):
  favor = cases.favor()
  whole = one_device(favor, causal=False)
  split = P(None, 'sequence')
  attend = jax.shard_map(
    whole, mesh=mesh, in_specs=(split, P(), P(), P(), P(), P()), out_specs=split
  )
  compare(attend, favor, (1.0,), np.ones((2, LENGTH), bool), causal=False)
