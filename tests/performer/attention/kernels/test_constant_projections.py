"""A projection is a constant: without gradient, and the same in any program."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from performer import attention
from performer.attention import sequence
from performer.attention.kernels import projections, table
from performer.models import plugins
from tests import marks

SIZES = {'layer': 0, 'step': 0, 'num_heads': 2, 'head_dim': 4}
rng = np.random.default_rng(0)
Q, K, V = (
  jnp.asarray(rng.normal(size=(1, 6, 2, 4)), jnp.float32) for _ in 'qkv'
)


def favor(kernel='softmax_pos', **options):
  features = 4 * table.get(kernel).copies
  return attention.Favor(kernel=kernel, features=features, **options)


def draw(mechanism):
  return mechanism.draw(jax.random.key(1), **SIZES)


def through_states(mechanism, w):
  state = mechanism.summarize(K, V, projection=w)
  out, _ = mechanism.extend(Q, K, V, projection=w, state=state)
  return out, mechanism.read(Q, state, projection=w)


def through_call(mechanism, w, causal=False):
  return mechanism(Q, K, V, projection=w, causal=causal)


def through_plugin(mechanism, w):
  return plugins.AttentionFn(mechanism, w, causal=True)(Q, K, V)


def through_sequence(mechanism, w):
  mesh = jax.make_mesh((1,), ('x',))
  attend = functools.partial(
    sequence.attend,
    mechanism,
    projection=w,
    causal=False,
    axis_name='x',
    segment_ids=jnp.asarray([[0, 0, 1, 1, 1, 2]]),
  )
  spec = jax.sharding.PartitionSpec()
  return jax.shard_map(
    attend, mesh=mesh, in_specs=spec, out_specs=spec, check_vma=False
  )(Q, K, V)


def through_function(mechanism, w):
  del mechanism
  return attention.favor_attention(Q, K, V, w, causal=True)


def assert_constant(way, mechanism):
  def total(scale):
    w = jax.tree.map(lambda x: scale * x, draw(mechanism))
    return sum(jnp.sum(x**2) for x in jax.tree.leaves(way(mechanism, w)))

  value, grad = jax.jit(jax.value_and_grad(total))(1.0)
  assert value > 0
  assert grad == 0.0


# Of the kinds of projections that entry points, below, do not see.
_KINDS = ['softmax_general', 'softmax_gaussian']


@pytest.mark.filterwarnings('ignore:.*signed features')
@pytest.mark.parametrize(
  'kernel',
  [*_KINDS, *marks.slow(*(k for k in table.KERNELS if k not in _KINDS))],
)
def test_no_kernel_has_a_gradient_in_its_projection(kernel):
  options = {'oprf_mean_square': 1.0} if kernel == 'softmax_oprf' else {}
  assert_constant(through_states, favor(kernel, **options))


@pytest.mark.parametrize(
  ('way', 'options'),
  [
    (through_call, {'kernel': 'softmax_oprf'}),
    (through_call, {'stabilizer': 'reference'}),
    (through_plugin, {'kernel': 'softmax_hyp', 'ortho': 'horf'}),
    (through_function, {}),
    *marks.slow((through_call, {}), (through_sequence, {})),
  ],
)
def test_no_entry_point_has_a_gradient_in_the_projection(way, options):
  assert_constant(way, favor(**options))


def test_no_gradient_in_the_projection_of_automatic_attention():
  for below in (0, 1000):
    mechanism = attention.Auto(favor=favor('softmax_hyp'), exact_below=below)
    w = mechanism.draw(jax.random.key(1), **SIZES)
    loss = lambda w, m=mechanism: jnp.sum(through_call(m, w, causal=True) ** 2)
    np.testing.assert_array_equal(jax.jit(jax.grad(loss))(w), 0)


@pytest.mark.parametrize(
  ('ortho', 'norm'),
  [
    *(('rorf', 'chi'), ('horf', 'chi')),
    *marks.slow(*((o, 'sqrt_d') for o in projections.ORTHO)),
    *marks.slow(('iid', 'chi'), ('gorf', 'chi')),
  ],
)
def test_a_draw_is_the_same_in_any_program(ortho, norm):
  draw = functools.partial(
    projections.draw, rows=24, size=12, ortho=ortho, norm=norm
  )
  keys = jax.random.split(jax.random.key(2), 3)
  alone = jax.tree.map(lambda *x: jnp.stack(x), *map(draw, keys))
  within = jax.jit(lambda k: jax.tree.map(lambda x: (x, 2 * x), draw(k)))
  found = [
    jax.jit(jax.vmap(draw))(keys),
    jax.vmap(draw)(keys),
    jax.tree.map(
      lambda x: x[0], jax.vmap(within)(keys), is_leaf=lambda x: type(x) is tuple
    ),
  ]
  for other in found:
    jax.tree.map(np.testing.assert_array_equal, alone, other)


@pytest.mark.filterwarnings('ignore:.*signed features')
@pytest.mark.parametrize(
  ('kernel', 'options'),
  [
    ('softmax_oprf', {'oprf_mean_square': 0.1, 'ortho': 'horf'}),
    *marks.slow(
      ('softmax_oprf', {'oprf_mean_square': 1.3}),
      ('softmax_general', {'ortho': 'horf'}),
      ('softmax_angular', {'ortho': 'horf'}),
    ),
  ],
)
def test_float64_is_exact_in_what_is_made_of_a_projection(kernel, options):
  """A projection given in float32 or in float64 is the same projection."""
  mechanism = favor(kernel, **options)
  w = draw(mechanism)
  if kernel == 'softmax_general':
    w = w._replace(transform=jnp.asarray([0.3, 0.7, 1.1, 3.0]))
  w = jax.tree.map(np.asarray, w)
  with jax.enable_x64(True):
    arrays = [jnp.asarray(x, jnp.float64) for x in (Q, K, V)]
    w = jax.tree.map(jnp.asarray, w)
    wide = jax.tree.map(lambda x: x.astype(jnp.float64), w)
    call = jax.jit(lambda w: mechanism(*arrays, projection=w, causal=True))
    one, two = call(w), call(wide)
    assert one.dtype == np.float64
    np.testing.assert_allclose(one, two, rtol=1e-13)


def test_constants_of_optimal_features_are_those_of_float64():
  mechanism = favor('softmax_oprf', oprf_mean_square=1.3)
  w = np.asarray(draw(mechanism), np.float64)
  q, k, v = (np.asarray(x, np.float64) for x in (Q, K, V))
  with jax.enable_x64(True):
    arrays = map(jnp.asarray, (q, k, v))
    found = mechanism(*arrays, projection=jnp.asarray(w), causal=True)
  rho = (np.sqrt((2 * 1.3 + 4) ** 2 + 8 * 4 * 1.3) - (2 * 1.3 + 4)) / (4 * 1.3)
  a = (1 - 1 / rho) / 8

  def feature(x):
    x = x * 4**-0.25
    exponent = a * (w**2).sum(-1) + np.sqrt(1 - 4 * a) * x @ w.T
    return np.exp(exponent - (x**2).sum(-1, keepdims=True) / 2)

  weights = np.einsum('bihm,bjhm->bhij', feature(q), feature(k)) * np.tri(6)
  weights /= weights.sum(-1, keepdims=True)
  expected = np.einsum('bhij,bjhv->bihv', weights, v)
  np.testing.assert_allclose(found, expected, rtol=1e-12)
