"""Fused kernels, interpreted, against float64 sums and the other form."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from performer.attention import fused
from performer.attention.fused import choice as fused_choice
from performer.attention.fused import maths as fused_math
from tests import marks, trees
from tests.performer.attention import attention_cases as cases
from tests.performer.attention import attention_twin as twin

LENGTH = 71  # Three groups, the last of which is ragged.
D = M = 16
SIGNS = {'softmax_pos': 1, 'softmax_hyp': 2}


def plan(kernel='softmax_hyp', dtype='float32'):
  return fused.Plan(SIGNS[kernel], 16, 32, jnp.dtype(dtype), interpret=True)


def inputs(seed, scale=1.0, *, length=LENGTH):
  return twin.inputs(seed, l=length, d=D, v=D, scale=scale)


def projection(seed=5):
  return twin.normal(seed, M, D)


def dense(kernel, q, k, v, w, mask):
  """Right at any scale, and quick to compile."""
  visible = jnp.tri(q.shape[1], dtype=bool)
  if mask is not None:
    k, v = (jnp.where(mask[:, :, None, None], x, 0) for x in (k, v))
    visible = visible & mask[:, None, None]
  log, _ = twin.kernel_matrix(q, k, w, kernel=kernel)
  log = jnp.where(visible, log, -jnp.inf)
  top = jax.lax.stop_gradient(log.max(-1, keepdims=True, initial=-1e30))
  matrix = jnp.exp(log - top)
  total = matrix.sum(-1, keepdims=True)
  matrix = matrix / jnp.where(total == 0, 1, total)
  return jnp.einsum('bhij,bjhv->bihv', matrix, v)


def marked(q, k, v, w, mask):
  """Says that the fallback was taken."""
  return jnp.full_like(v, 7.0)


def run(q, k, v, w, mask, *, kernel='softmax_hyp', dtype='float32', causal):
  """Output, and gradients of sum(sin(output)) in q, k, v and w."""
  # A default that is not given would be another program.
  return _run(q, k, v, w, mask, kernel=kernel, dtype=dtype, causal=causal)


@functools.partial(jax.jit, static_argnames=('kernel', 'dtype', 'causal'))
def _run(q, k, v, w, mask, *, kernel, dtype, causal):

  def loss(q, k, v, w):
    args = plan(kernel, dtype), q, k, v, w
    if causal:
      fallback = functools.partial(dense, kernel)
      out = fused.causal(*args, fallback=fallback, key_mask=mask)
    else:
      out = fused.bidirectional(*args, key_mask=mask)
    return jnp.sum(jnp.sin(out.astype(jnp.float32))), out

  grads, out = jax.grad(loss, (0, 1, 2, 3), has_aux=True)(q, k, v, w)
  return out, grads


def relative(got, expected):
  got, expected = np.asarray(got, float), np.asarray(expected, float)
  return np.abs(got - expected).max() / np.abs(expected).max()


def check(found, expected, values, slopes):
  """Bounds the errors of the output, and of the gradients in q, k and v."""
  (out, grads), (truth, expected_grads) = found, expected
  assert relative(out, truth) < values
  for name, got, want in zip('qkv', grads[:3], expected_grads, strict=True):
    assert relative(got, want) < slopes, f'd{name}'


def mask_of(seed, length=LENGTH):
  """A mask that keeps the first key, so that every row sees one."""
  return twin.mask(seed, 2, length).at[:, 0].set(True)


@pytest.mark.parametrize(
  ('kernel', 'causal', 'masked', 'lk'),
  [
    ('softmax_pos', False, False, 40),
    ('softmax_hyp', True, True, LENGTH),
    *marks.slow(
      ('softmax_hyp', False, True, LENGTH), ('softmax_pos', True, False, LENGTH)
    ),
  ],
)
def test_values_and_gradients(kernel, causal, masked, lk):
  q, k, v = inputs(1)
  k, v, w = k[:, :lk], v[:, :lk], projection()
  mask = mask_of(2, lk) if masked else None
  options = {'kernel': kernel, 'causal': causal}
  found = run(q, k, v, w, mask, **options)
  check(found, twin.value_and_grad(q, k, v, w, mask, **options), 3e-6, 3e-6)
  assert not np.any(found[1][3])  # The projection is a constant.


@pytest.mark.slow
@pytest.mark.parametrize('causal', [False, True])
def test_equals_the_other_form(causal):
  """More narrowly than by the twin of either."""
  arrays, w, mask = inputs(1), projection(), mask_of(2)
  favor = cases.favor('softmax_hyp', features=2 * M, chunk=16)
  other = cases.value_and_grad(favor, *arrays, w, mask, causal=causal)
  check(run(*arrays, w, mask, causal=causal), other, 3e-6, 3e-6)


@pytest.mark.slow
@pytest.mark.parametrize('causal', [False, True])
def test_bfloat16(causal):
  arrays = [x.astype(jnp.bfloat16) for x in inputs(3)]
  w, mask = projection(), mask_of(4)
  out, grads = run(*arrays, w, mask, dtype='bfloat16', causal=causal)
  assert {x.dtype for x in (out, *grads[:3])} == {jnp.dtype('bfloat16')}
  options = {'kernel': 'softmax_hyp', 'causal': causal}
  expected = twin.value_and_grad(*arrays, w, mask, **options)
  # The rounding of D_i, by 2^-9, moves all features of a row.
  check((out, grads), expected, 5e-3, 2e-2)


def test_parts_of_the_projection():
  w, x = projection(7), twin.normal(8, 32, D).astype(jnp.bfloat16)
  parts = fused_math.split(w, x.dtype)
  assert parts.shape == (3, M, D)
  np.testing.assert_array_equal(parts.astype(jnp.float32).sum(0), w)
  exact = np.asarray(x, float) @ np.asarray(w, float).T
  dot = functools.partial(fused_math.dot, x, contract=(1, 1))
  assert relative(sum(dot(part, parts.dtype) for part in parts), exact) < 1e-6
  # One part alone is what a bfloat16 projection would be.
  assert relative(dot(parts[0], x.dtype), exact) > 1e-4


@pytest.mark.parametrize('causal', [*marks.slow(False), True])
@pytest.mark.parametrize('scale', [0.1, 1.0, 5.0, 20.0])
def test_mass_is_conserved(scale, causal):
  q, k, v = inputs(5, scale)
  out, grads = run(
    q, k, jnp.ones_like(v), projection(), mask_of(6), causal=causal
  )
  np.testing.assert_allclose(out, 1.0, atol=1e-5)
  assert all(np.all(np.isfinite(x)) for x in grads)


@pytest.mark.slow
def test_fallback_is_taken_where_exponents_exceed():
  w, mask = projection(), mask_of(2)
  call = jax.jit(
    lambda q, k, v: fused.causal(plan(), q, k, v, w, fallback=marked)
  )
  assert not np.any(call(*inputs(1)) == 7.0)
  large = inputs(1, 12.0)
  assert np.all(call(*large) == 7.0)
  options = {'kernel': 'softmax_hyp', 'causal': True}
  expected = twin.value_and_grad(*large, w, mask, **options)
  check(run(*large, w, mask, causal=True), expected, 1e-4, 1e-3)


def test_keys_may_grow_along_the_sequence():
  # A running maximum that rises by far more than the limit, but slowly.
  q, k, v = inputs(9)
  k = k * jnp.linspace(0.1, 6.0, LENGTH)[None, :, None, None]
  w = projection()
  call = jax.jit(
    lambda q, k, v: fused.causal(plan(), q, k, v, w, fallback=marked)
  )
  got = call(q, k, v)
  expected = twin.value(q, k, v, w, kernel='softmax_hyp', causal=True)
  assert relative(got, expected) < 1e-5


def test_rows_do_not_see_later_keys():
  q, k, v = inputs(11)
  w, mask = projection(), mask_of(2)
  cut = 37
  other = [x.at[:, cut:].set(x[:, cut:] * 1.7 + 0.3) for x in (k, v)]
  one, _ = run(q, k, v, w, mask, causal=True)
  two, _ = run(q, *other, w, mask, causal=True)
  np.testing.assert_array_equal(one[:, :cut], two[:, :cut])
  assert np.abs(one[:, cut:] - two[:, cut:]).max() > 0.01


@pytest.mark.parametrize('causal', [False, True])
def test_masked_keys_have_no_effect(causal):
  q, k, v = inputs(12)
  w, mask = projection(), mask_of(13)
  dropped = ~mask[:, :, None, None]
  one = run(q, k, v, w, mask, causal=causal)
  bad = [jnp.where(dropped, np.nan, x) for x in (k, v)]
  two = run(q, *bad, w, mask, causal=causal)
  trees.check_same(one, two)
  for x in one[1][1:3]:
    assert not np.any(np.where(dropped, x, 0.0))


@pytest.mark.parametrize('causal', [False, True])
def test_rows_without_keys_are_zero(causal):
  q, k, v = inputs(14)
  # The first group and a half of one example, and all of the other.
  mask = jnp.arange(LENGTH) >= jnp.array([[40], [LENGTH]])
  w = projection()
  out, grads = run(q, k, v, w, mask, causal=causal)
  assert all(np.all(np.isfinite(x)) for x in (out, *grads))
  assert not np.any(out[1])
  assert not np.any(grads[0][1])
  assert np.any(grads[0][0])
  first = 40 if causal else 0
  assert not np.any(out[0, :first])
  assert not np.any(grads[0][0, :first])
  q, k, v, mask = (x[:1, first:] for x in (q, k, v, mask))
  options = {'kernel': 'softmax_hyp', 'causal': causal}
  expected = twin.value(q, k, v, w, mask, **options)
  assert relative(out[:1, first:], expected) < 3e-6


@pytest.mark.parametrize(
  ('causal', 'signs', 'dtype', 'count'),
  [
    (False, 2, 'bfloat16', 4),
    (True, 1, 'float32', 5),
    *marks.slow((True, 2, 'bfloat16', 5)),
  ],
)
def test_lowers_to_triton(causal, signs, dtype, count):
  constants = fused.Plan(signs, 64, 1024, jnp.dtype(dtype), interpret=False)
  x = jax.ShapeDtypeStruct((2, 2053, 4, 64), dtype)
  w = jax.ShapeDtypeStruct((128, 64), jnp.float32)
  mask = jax.ShapeDtypeStruct((2, 2053), bool)

  def loss(q, k, v, w, mask):
    if causal:
      out = fused.causal(constants, q, k, v, w, fallback=marked, key_mask=mask)
    else:
      out = fused.bidirectional(constants, q, k, v, w, key_mask=mask)
    return jnp.sum(out.astype(jnp.float32))

  # From JAX 0.12 on, Triton asks for which GPU.
  gpu = jax.sharding.AbstractDevice(
    device_kind='NVIDIA H100 80GB HBM3', num_cores=132, platform='gpu'
  )
  mesh = jax.sharding.AbstractMesh((), (), abstract_device=gpu)
  with jax.sharding.use_abstract_mesh(mesh):
    traced = jax.jit(jax.grad(loss, (0, 1, 2))).trace(x, x, x, w, mask)
    text = traced.lower(lowering_platforms=('cuda',)).as_text()
  assert text.count('__gpu$xla.gpu.triton') == count


def call_arrays(*, d=64, width=64, m=128, dtype='bfloat16'):
  q, k, v = (jnp.zeros((1, 3, 4, size), dtype) for size in (d, d, width))
  return q, k, v, jnp.zeros((m, d))


def test_supported_call():
  favor = cases.favor(features=256, chunk=64)
  arrays = call_arrays()
  assert fused_choice.obstacle(favor, *arrays) is None
  assert fused_choice.supports(favor, *arrays)
  expected = fused.Plan(2, 32, 1024, jnp.dtype('float32'), interpret=False)
  assert fused_choice.plan(favor, 3000) == expected
  short = fused_choice.plan(favor, 10)
  assert (short.chunk, short.group) == (32, 32)


@pytest.mark.parametrize(
  ('options', 'sizes', 'call', 'reason'),
  [
    ({}, {}, {'backend': 'cpu'}, 'backend'),
    ({}, {}, {'segmented': True}, 'segment_ids'),
    ({'kernel': 'softmax_trig'}, {}, {}, 'softmax_trig'),
    ({'kernel': 'relu'}, {}, {}, 'relu'),
    ({'stabilizer': 'reference'}, {}, {}, 'reference'),
    ({'renormalize': False}, {}, {}, 'renormalize'),
    ({'feature_dtype': 'float16'}, {}, {}, 'float16'),
    ({}, {'dtype': 'float16'}, {}, 'float16'),
    ({}, {'d': 48}, {}, '48'),
    ({}, {'width': 256}, {}, '256'),
    ({}, {'m': 8}, {}, 'got 8'),
    ({}, {'m': 256}, {}, 'shared memory'),
    ({'feature_dtype': 'bfloat16'}, {'m': 256, 'd': 128}, {}, 'm=256 d=128'),
    ({'chunk': 8}, {}, {}, 'chunk'),
  ],
)
def test_obstacles(options, sizes, call, reason):
  favor = cases.favor(**{'features': 256, 'chunk': 64, **options})
  arrays = call_arrays(**sizes)
  assert reason in fused_choice.obstacle(favor, *arrays, **call)
  assert not fused_choice.supports(favor, *arrays, **call)


def test_other_projections_are_obstacles():
  favor = cases.favor(features=256, chunk=64, per_head=True)
  q, k, v, w = call_arrays()
  each = jnp.broadcast_to(w, (4, *w.shape))
  assert 'per_head' in fused_choice.obstacle(favor, q, k, v, each)
  favor = dataclasses.replace(favor, per_head=False, ortho='horf')
  factors = cases.projection(favor, d=64)
  assert 'horf' in fused_choice.obstacle(favor, q, k, v, factors)
  keys = k.astype(jnp.float32)
  assert 'one dtype' in fused_choice.obstacle(favor, q, keys, v, w)


@pytest.mark.slow
@pytest.mark.parametrize('causal', [False, True])
def test_attend_with_options(causal):
  q, k, v = inputs(15)
  favor = cases.favor('softmax_pos_reg', features=M, chunk=16)
  w, mask = cases.projection(favor, d=D), mask_of(16)
  options = {'causal': causal, 'key_mask': mask, 'interpret': True}
  attend = functools.partial(fused_choice.attend, fallback=marked, **options)
  out = jax.jit(lambda q, k, v: attend(favor, q, k, v, w))(q, k, v)
  expected = twin.value(q, k, v, w, mask, kernel='softmax_pos', causal=causal)
  assert relative(out, expected) < 3e-6


def test_auto_takes_the_kernels_on_listed_devices_alone(monkeypatch):
  q, k, v = inputs(17)
  favor = cases.favor(features=2 * M, chunk=16)
  w = cases.projection(favor, d=D)
  assert not fused_choice.taken(favor, q, k, v, w, segmented=False)
  kind = jax.local_devices()[0].device_kind
  monkeypatch.setattr(fused, 'FASTER_ON', frozenset({kind}))
  monkeypatch.setattr(jax, 'default_backend', lambda: 'gpu')
  assert fused_choice.taken(favor, q, k, v, w, segmented=False)
  assert not fused_choice.taken(favor, q, k, v, w, segmented=True)
  xla = dataclasses.replace(favor, implementation='xla')
  assert not fused_choice.taken(xla, q, k, v, w, segmented=False)


def test_kernels_that_cannot_run_are_refused():
  q, k, v = inputs(17)
  favor = cases.favor(features=2 * M, chunk=16, implementation='fused')
  w = cases.projection(favor, d=D)
  with pytest.raises(ValueError, match='kernels need a GPU'):
    favor(q, k, v, projection=w, causal=True)
  with pytest.raises(ValueError, match='implementation'):
    cases.favor(implementation='triton')


@pytest.mark.slow
@pytest.mark.parametrize('causal', [False, True])
def test_the_object_takes_the_kernels(monkeypatch, causal):
  arrays, mask = inputs(18, 3.0), mask_of(19)
  favor = cases.favor(features=2 * M, chunk=16, implementation='fused')
  w = cases.projection(favor, d=D)
  attend, calls = fused_choice.attend, []

  def interpreted(*args, **options):
    calls.append(options)
    return attend(*args, **options, interpret=True)

  monkeypatch.setattr(fused_choice, 'attend', interpreted)
  monkeypatch.setattr(jax, 'default_backend', lambda: 'gpu')
  out = favor(*arrays, projection=w, causal=causal, key_mask=mask)
  monkeypatch.undo()
  assert len(calls) == 1
  expected = twin.value(*arrays, w, mask, kernel='softmax_hyp', causal=causal)
  assert relative(out, expected) < 1e-5
  with pytest.raises(ValueError, match='projection must have shape'):
    favor(*arrays, projection=w[:-1], causal=causal, key_mask=mask)
