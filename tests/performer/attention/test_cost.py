"""Program size, memory, precision and placement."""

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import pytest

from performer.attention.kernels import table
from tests import marks
from tests.performer.attention import attention_cases as cases
from tests.performer.attention import attention_twin as twin


def equations(jaxpr):
  count = 0
  for equation in jaxpr.eqns:
    count += 1
    for inner in jax.extend.core.jaxprs_in_params(equation.params):
      count += equations(inner)
  return count


@pytest.mark.parametrize('causal', [False, True])
def test_program_size_does_not_grow_with_the_length(causal):
  favor = cases.favor()
  w = cases.projection(favor)

  def size(length):
    def loss(q, k, v):
      return favor(q, k, v, projection=w, causal=causal).sum()

    arrays = twin.inputs(1, b=1, l=length, h=1)
    return equations(jax.make_jaxpr(jax.grad(loss, (0, 1, 2)))(*arrays).jaxpr)

  assert size(128) == size(512)


def test_equations_of_a_loop_would_be_counted():
  def looped(length):
    def loss(k):
      state = jnp.zeros(8)
      for i in range(length):
        state = state + k[i]
      return state.sum()

    return equations(jax.make_jaxpr(loss)(jnp.ones((length, 8))).jaxpr)

  assert looped(64) > 4 * looped(8)


def temporaries(function, *arrays):
  compiled = jax.jit(function).lower(*arrays).compile()
  return compiled.memory_analysis().temp_size_in_bytes


def test_memory_is_linear_without_a_feature_buffer():
  """Forward and backward hold less than one [l, r] array."""
  favor = cases.favor('relu', features=512, chunk=32)
  w = cases.projection(favor)

  def loss(q, k, v):
    return favor(q, k, v, projection=w, causal=True).sum()

  sizes = []
  for length in (512, 2048):
    arrays = twin.inputs(1, b=1, l=length, h=1)
    sizes.append(temporaries(jax.grad(loss, (0, 1, 2)), *arrays))
  assert sizes[1] < 4.5 * sizes[0], sizes
  assert sizes[1] < 4 * 2048 * 512, sizes

  def naive(q, k, v):
    """Saves the state at every position, as plain autodiff of a scan does."""

    def step(state, key):
      state = state + jax.nn.relu(w @ key[0])[:, None] * key[1]
      return state, jnp.square(state).sum()

    pairs = (k[0, :, 0], v[0, :, 0])
    return jax.lax.scan(step, jnp.zeros((512, 8)), pairs)[1].sum()

  arrays = twin.inputs(1, b=1, l=512, h=1)
  assert temporaries(jax.grad(naive, (1, 2)), *arrays) > 4 * 512 * 512 * 8


@pytest.mark.parametrize(
  ('dtype', 'tolerance', 'causal'),
  [
    *((jnp.bfloat16, 0.02, True), (jnp.float16, 0.004, False)),
    *marks.slow((jnp.bfloat16, 0.02, False), (jnp.float16, 0.004, True)),
  ],
)
def test_half_precision_inputs(dtype, tolerance, causal):
  """Computed in float32 and rounded once, at the end."""
  favor = cases.favor()
  *inputs, w = cases.arguments(favor, 1, scale=2.0)
  args = *(x.astype(dtype) for x in inputs), w
  out = cases.attend(favor, *args, causal=causal)
  assert out.dtype == dtype
  truth = twin.value(*args, kernel='softmax_hyp', causal=causal)
  error = np.abs(np.asarray(out, np.float64) - truth).max()
  assert error < tolerance, f'{error=:.1e}'


@pytest.mark.parametrize(
  ('dtype', 'tolerance'), [('bfloat16', 0.03), *marks.slow(('float16', 0.01))]
)
def test_half_precision_features(dtype, tolerance):
  favor = cases.favor(feature_dtype=dtype)
  for scale in (1.0, 4.0):
    args = cases.arguments(favor, 1, scale=scale)
    out = cases.attend(favor, *args, causal=True)
    truth = twin.value(*args, kernel='softmax_hyp', causal=True)
    error = np.abs(out - truth).max()
    assert 1e-6 < error < tolerance, f'{scale=} {error=:.1e}'


def test_half_precision_exponents_fail():
  """The projection itself in bfloat16: the recipe that the rule forbids."""
  favor = cases.favor()
  w = cases.projection(favor)
  q, _, _ = twin.inputs(1, scale=2.0)
  kernel, x = table.get('softmax_hyp'), q.transpose(0, 2, 1, 3)
  right, _ = kernel.featurize(x, w)
  low = (x / 8**0.25).astype(jnp.bfloat16) @ w.T.astype(jnp.bfloat16)
  wrong = jnp.exp(low.astype(jnp.float32) - right[..., : w.shape[0]])
  assert np.abs(wrong - 1).max() > 0.02
  # And the published epsilon over sqrt(m) is no normal float16 number.
  assert np.float16(1e-6 / 16) < np.finfo(np.float16).tiny


def test_shard_map_agrees_with_one_device():
  auto = (jax.sharding.AxisType.Auto,) * 2
  mesh = jax.make_mesh(
    (2, 2), ('data', 'tensor'), axis_types=auto, devices=jax.devices()[:4]
  )
  favor = cases.favor()
  q, k, v, w, mask = cases.arguments(favor, 1, scale=3.0, mask=2)
  split = jax.sharding.PartitionSpec('data', None, 'tensor', None)
  whole = jax.sharding.PartitionSpec()
  rows = jax.sharding.PartitionSpec('data')

  def attend(q, k, v, w, mask):
    return favor(q, k, v, projection=w, causal=True, key_mask=mask)

  sharded = jax.shard_map(
    attend,
    mesh=mesh,
    in_specs=(split, split, split, whole, rows),
    out_specs=split,
  )
  np.testing.assert_allclose(
    jax.jit(sharded)(q, k, v, w, mask),
    cases.attend(favor, q, k, v, w, mask, causal=True),
    atol=2e-6,
  )


@pytest.mark.parametrize('scale', [1.0, 12.0])
@pytest.mark.parametrize('causal', [*marks.slow(False), True])
def test_half_precision_gradients(causal, scale):
  """Inputs, outputs and cotangents in bfloat16; also where rows are split."""
  favor = cases.favor()
  *inputs, w = cases.arguments(favor, 1, scale=scale)
  args = *(x.astype(jnp.bfloat16) for x in inputs), w
  _, grads = cases.value_and_grad(favor, *args, causal=causal)
  options = {'kernel': 'softmax_hyp', 'causal': causal}
  _, truth = twin.value_and_grad(*args, **options)
  for mine, other in zip(grads, truth, strict=True):
    assert mine.dtype == jnp.bfloat16
    error = np.abs(np.asarray(mine, np.float64) - other).max()
    assert error < 0.03 * np.abs(other).max(), f'{error=:.1e}'
