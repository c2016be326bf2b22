"""Convolutions against JAX's own: derivatives, maps, loops, arguments."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax import lax

from rl import convolutions
from tests import seeds

LAYOUT = ('NHWC', 'HWIO', 'NHWC')
CASES = {
  'usual': ((9, 8), (3, 3), {'window_strides': (1, 1), 'padding': 'SAME'}),
  'strides': ((9, 8), (3, 2), {'window_strides': (2, 3), 'padding': 'SAME'}),
  'not padded': (
    (9, 9),
    (4, 4),
    {'window_strides': (3, 3), 'padding': 'VALID'},
  ),
  'pads': (
    (6, 7),
    (3, 3),
    {'window_strides': (2, 1), 'padding': [(2, 1), (0, 3)]},
  ),
  'dilated kernel': (
    (9, 8),
    (3, 2),
    {'window_strides': (2, 1), 'padding': 'SAME', 'rhs_dilation': (2, 3)},
  ),
  'pixels without a place': (
    (8, 8),
    (1, 1),
    {'window_strides': (3, 3), 'padding': 'VALID'},
  ),
}


def jaxs(x, kernel, **options):
  return lax.conv_general_dilated(
    x, kernel, **options, dimension_numbers=LAYOUT
  )


def problem(sides, taps, lead=((), ())):
  """Pictures and a kernel in float64; each may have a leading axis."""
  rng = seeds.rng(0)
  x = rng.normal(size=(*lead[0], 2, *sides, 3))
  return x, rng.normal(size=(*lead[1], *taps, 3, 4))


def derivatives(convolve, x, kernel):
  """Value, gradients, forward derivative, and both forms of second order."""
  loss = lambda *both: jnp.sum(jnp.sin(convolve(*both)))
  gradient = jax.grad(loss, (0, 1))
  along = x**2, kernel**2
  slope = lambda *both: sum(map(jnp.vdot, gradient(*both), along))
  return (
    convolve(x, kernel),
    gradient(x, kernel),
    jax.jvp(loss, (x, kernel), along),
    jax.jvp(gradient, (x, kernel), along)[1],
    jax.grad(slope, (0, 1))(x, kernel),
  )


def agree(function, *arguments):
  """Compares a function of our convolution with that of JAX's, in float64."""
  ours, theirs = (
    jax.jit(functools.partial(function, form))
    for form in (convolutions.conv_general_dilated, jaxs)
  )
  found = ours(*arguments), theirs(*arguments)
  for one, two in zip(*map(jax.tree.leaves, found), strict=True):
    assert one.dtype == two.dtype
    np.testing.assert_allclose(one, two, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize('name', CASES)
def test_derivatives_of_all_orders_are_those_of_jax(name):
  sides, taps, options = CASES[name]
  with jax.enable_x64(True):
    agree(
      lambda form, *both: derivatives(
        functools.partial(form, **options), *both
      ),
      *problem(sides, taps),
    )


@pytest.mark.parametrize('axes', [(0, 0), (0, None), (None, 0), (1, 3)])
@pytest.mark.parametrize('name', ['strides', 'pads'])
def test_maps_over_pictures_and_kernels(name, axes):
  sides, taps, options = CASES[name]
  leads = [() if axis is None else (3,) for axis in axes]

  def mapped(form, *both):
    """A map of gradients, and the gradient of a map."""
    loss = lambda *both: jnp.sum(jnp.sin(form(*both, **options)))
    whole = lambda *both: jnp.sum(jax.vmap(loss, axes)(*both) ** 2)
    each = jax.vmap(jax.grad(loss, (0, 1)), axes)(*both)
    return each, jax.grad(whole, (0, 1))(*both)

  with jax.enable_x64(True):
    both = problem(sides, taps, leads)
    moved = (
      x if axis is None else np.moveaxis(x, 0, axis)
      for x, axis in zip(both, axes, strict=True)
    )
    agree(mapped, *moved)


def test_programs_of_mapped_kernels_do_not_grow_with_pictures():
  """Of 9 taps nine slices, and not one for each pixel."""
  usual = CASES['usual'][2]
  loss = lambda *both: jnp.sum(
    jnp.sin(convolutions.conv_general_dilated(*both, **usual))
  )
  gradient = jax.vmap(jax.grad(loss, (0, 1)))
  counts = [
    str(jax.make_jaxpr(gradient)(*problem((side, side), (3, 3), [(2,)] * 2)))
    .split()
    .count('=')
    for side in (8, 32)
  ]
  assert counts[0] == counts[1]


def test_products_and_patches_are_the_convolution():
  sides, taps, options = CASES['dilated kernel']
  with jax.enable_x64(True):
    x, kernel = map(jnp.asarray, problem(sides, taps))
    found = convolutions.by_products(x, kernel, **options)
    np.testing.assert_allclose(found, jaxs(x, kernel, **options), rtol=1e-12)
    small = x[:, :2]  # No place for the kernel.
    assert convolutions.by_products(small, kernel, (1, 1), 'VALID').size == 0
    options = CASES['pads'][2]
    seen = convolutions.patches(x, taps, **options)
    found = jnp.einsum('bijkc,kco->bijo', seen, kernel.reshape(-1, 3, 4))
    np.testing.assert_allclose(found, jaxs(x, kernel, **options), rtol=1e-12)


class _Network(nn.Module):
  """Two layers of Flax."""

  own: bool

  @nn.compact
  def __call__(self, x):
    form = convolutions.conv_general_dilated if self.own else None
    for stride in (2, 1):
      x = nn.Conv(3, (3, 3), stride, conv_general_dilated=form)(x)
    return nn.relu(x)


def _learnt(own, params, x):
  """Parameters after steps in a loop."""
  loss = lambda params: jnp.sum(_Network(own).apply(params, x) ** 2)

  def step(params, _):
    grads = jax.grad(loss)(params)
    return jax.tree.map(lambda p, g: p - 1e-3 * g, params, grads), None

  return lax.scan(step, params, length=2)[0]


@pytest.mark.skipif(jax.default_backend() != 'cpu', reason='of XLA on a CPU')
def test_axes_stand_in_one_order_in_the_program_of_a_loop():
  """Which XLA needs on a CPU; JAX's own gradients have others."""
  x = jnp.asarray(seeds.rng(1).normal(size=(2, 6, 6, 3)), jnp.float32)
  params = _Network(own=True).init(jax.random.key(0), x)
  results, orders = [], []
  for own in (True, False):
    program = jax.jit(functools.partial(_learnt, own)).lower(params, x)
    program = program.compile()
    results.append(program(params, x))
    orders.append(set(re.findall('dim_labels=(\\S+)', program.as_text())))
  assert {order.rstrip(',') for order in orders[0]} == {'b01f_01io->b01f'}
  assert len(orders[1]) > 1
  for one, two in zip(*map(jax.tree.leaves, results), strict=True):
    np.testing.assert_allclose(one, two, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
  ('options', 'taps'),
  [
    ({'feature_group_count': 3}, (3, 3, 1, 6)),
    ({'lhs_dilation': (2, 1), 'padding': [(1, 1), (0, 2)]}, (3, 3, 3, 6)),
    ({'dimension_numbers': ('NWHC', 'WHIO', 'NWHC')}, (3, 2, 3, 6)),
    ({'padding': 'VALID'}, (7, 2, 3, 6)),
  ],
  ids=['groups', 'dilated pictures', 'order of axes', 'nothing left'],
)
def test_what_is_left_to_jax(options, taps):
  usual = CASES['usual'][2] | {'dimension_numbers': LAYOUT}
  rng = seeds.rng(2)
  both = (rng.normal(size=size) for size in ((2, 6, 5, 3), taps))
  x, kernel = (jnp.asarray(array, jnp.float32) for array in both)
  np.testing.assert_array_equal(
    convolutions.conv_general_dilated(x, kernel, **usual | options),
    lax.conv_general_dilated(x, kernel, **usual | options),
  )


def test_gradients_where_arrays_are_split_by_hand():
  """The sum over devices, which the types of arrays ask for."""
  x, kernel = (a.astype(np.float32) for a in problem((6, 6), (3, 3)))
  mesh = jax.make_mesh(
    (2,), ('data',), axis_types=(jax.sharding.AxisType.Auto,)
  )
  split, whole = jax.P('data'), jax.P()
  usual = CASES['usual'][2]

  def gradient(form, x, kernel):
    return jax.grad(lambda k: jnp.sum(jnp.sin(form(x, k, **usual))))(kernel)

  by_hand = jax.jit(
    jax.shard_map(
      functools.partial(gradient, convolutions.conv_general_dilated),
      mesh=mesh,
      in_specs=(split, whole),
      out_specs=whole,
    )
  )
  np.testing.assert_allclose(
    by_hand(x, kernel), gradient(jaxs, x, kernel), rtol=1e-4, atol=1e-4
  )
