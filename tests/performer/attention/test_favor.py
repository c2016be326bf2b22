"""Values and gradients of FAVOR against float64 quadratic attention."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from performer import attention
from performer.attention.kernels import table
from performer.attention.sums import linear, log
from tests import marks
from tests.performer.attention import attention_cases as cases
from tests.performer.attention import attention_twin as twin
from tests.performer.attention.sums import causal_forms

POSITIVE = ['softmax_hyp', 'exp', 'relu']
MATRIX_SOFTMAX = [
  name for name, kernel in table.KERNELS.items() if kernel.published
]
ODD = 5  # A chunk that is no power of two.
SCALES = [0.1, 1.0, 3.0, 8.0, 20.0]


@functools.partial(jax.jit, static_argnums=(0, 1))
def scan(function, favor, q, k, v, w, mask):
  form = favor.form(w, head_dim=q.shape[-1])
  return function(form, q, k, v, key_mask=mask)[0]


@functools.partial(jax.jit, static_argnums=0)
def extend(favor, q, k, v, w, mask, state):
  return favor.extend(q, k, v, projection=w, key_mask=mask, state=state)


def assert_close(ours, truth, tolerance, message=''):
  truth = np.asarray(truth)
  error = np.abs(np.asarray(ours, np.float64) - truth).max()
  bound = tolerance * max(1.0, np.abs(truth).max())
  assert error <= bound, f'{message}: {error=:.2e} {bound=:.2e}'


@pytest.mark.parametrize('name', MATRIX_SOFTMAX)
def test_softmax_maps(name):
  """Kernel matrices of all pairs; other functions are in test_kernels."""
  q, k, _ = twin.inputs(1, scale=0.7)
  kernel, w = table.get(name), cases.projection(cases.favor(name))
  (a, m), (b, n) = (
    kernel.featurize(x.transpose(0, 2, 1, 3), w) for x in (q, k)
  )
  a, b = (jnp.exp(a), jnp.exp(b)) if kernel.log else (a, b)
  matrix = a @ b.swapaxes(-1, -2) * kernel.scale(a.shape[-1])
  matrix *= jnp.exp(m[..., :, None] + n[..., None, :])
  log, sign = twin.kernel_matrix(
    *twin.double(q, k, w), kernel=name.removesuffix('_reg')
  )
  np.testing.assert_allclose(matrix, sign * np.exp(log), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
  ('kernel', 'causal'),
  [
    *(('softmax_hyp', True), ('softmax_trig', False)),
    *(('exp', True), ('tanh', False)),
    *marks.slow(('softmax_hyp', False), ('softmax_trig', True)),
    *marks.slow(('exp', False), ('tanh', True)),
  ],
)
def test_values(kernel, causal):
  """Of both families of sums, with features of either sign."""
  favor = cases.favor(kernel)
  args = cases.arguments(favor, 1, scale=0.7, mask=2)
  out = cases.attend(favor, *args, causal=causal)
  truth = twin.value(*args, kernel=kernel, causal=causal)
  # Signed kernels divide by what may be nearly zero: compare where they do not.
  if table.get(kernel).signed:
    good = np.abs(truth).max(-1) < 10
    out, truth = np.asarray(out)[good], truth[good]
  assert_close(out, truth, 2e-4 if table.get(kernel).signed else 1e-5)


@pytest.mark.parametrize(
  ('kernel', 'causal'),
  [
    *(('softmax_hyp', False), ('softmax_trig', True), ('relu', False)),
    *marks.slow(('softmax_hyp', True), ('softmax_trig', False), ('relu', True)),
  ],
)
def test_gradients(kernel, causal):
  favor = cases.favor(kernel)
  # At small norms, where trigonometric denominators stay away from zero.
  args = cases.arguments(favor, 3, scale=0.3, mask=4)
  _, grads = cases.value_and_grad(favor, *args, causal=causal)
  _, truth = twin.value_and_grad(*args, kernel=kernel, causal=causal)
  for name, ours, theirs in zip('qkv', grads, truth, strict=True):
    assert_close(ours, theirs, 2e-4, f'd{name}')


@pytest.mark.parametrize('causal', [False, True])
@pytest.mark.parametrize('scale', [1.0, 3.0, 8.0, 20.0])
def test_values_and_gradients_at_any_scale(scale, causal):
  """Larger ones leave the envelope of one reference: rows are split."""
  favor = cases.favor(chunk=ODD)
  args = cases.arguments(favor, 5, scale=scale, mask=4)
  out, grads = cases.value_and_grad(favor, *args, causal=causal)
  truth, slopes = twin.value_and_grad(
    *args, kernel='softmax_hyp', causal=causal
  )
  # The exponents grow as scale^2, and float32 rounds them.
  tolerance = 2e-7 * max(10, scale**2)
  assert_close(out, truth, tolerance, 'values')
  for name, ours, theirs in zip('qkv', grads, slopes, strict=True):
    assert_close(ours, theirs, 10 * tolerance, f'd{name}')


def test_one_reference_per_chunk_fails_at_large_scales():
  """The chunk maximum, as reference, underflows rows before it."""
  favor = cases.favor()
  q, k, _ = twin.inputs(5, scale=20.0)
  kernel, w = table.get('softmax_hyp'), cases.projection(favor)
  a, _ = kernel.featurize(q.transpose(0, 2, 1, 3)[:, :, :8], w)
  b, n = kernel.featurize(k.transpose(0, 2, 1, 3)[:, :, :8], w)
  b = b + n[..., None]
  c = b.max(2, keepdims=True)
  query = jnp.exp(a + c - (a + c).max(-1, keepdims=True))
  weights = jnp.tril(query @ jnp.exp(b - c).swapaxes(-1, -2))
  assert (weights.sum(-1) == 0).any()


@pytest.mark.parametrize('causal', [False, True])
@pytest.mark.parametrize('kernel', POSITIVE)
def test_mass_is_one_at_every_scale(kernel, causal):
  favor = cases.favor(kernel)
  for scale in SCALES:
    q, k, v, w = cases.arguments(favor, 6, scale=scale)
    out = cases.attend(favor, q, k, v * 0 + 1, w, causal=causal)
    assert_close(out, np.ones(out.shape), 1e-5, f'{scale=}')


def test_reference_stabilizer_loses_mass():
  favor = cases.favor('softmax_pos', stabilizer='reference')
  q, k, v, w = cases.arguments(favor, 6, scale=5.0)
  out = cases.attend(favor, q, k, v * 0 + 1, w, causal=False)
  assert float(out.mean()) < 0.9


@pytest.mark.parametrize(
  ('kernel', 'causal'),
  [
    *(('softmax_pos', False), ('softmax_pos', True), ('softmax_trig', False)),
    *marks.slow(('softmax_trig', True)),
  ],
)
def test_reference_stabilizer_is_the_published_rule(kernel, causal):
  """arXiv:2009.14794, section A.3, in float64."""
  favor = cases.favor(kernel, stabilizer='reference')
  q, k, v, w = cases.arguments(favor, 7)
  x, y, values, rows = (
    np.asarray(z, np.float64)
    for z in (q.transpose(0, 2, 1, 3), k.transpose(0, 2, 1, 3), v, w)
  )
  x, y = x / 8**0.25, y / 8**0.25
  x_norm, y_norm = ((z**2).sum(-1, keepdims=True) / 2 for z in (x, y))
  x, y = x @ rows.T, y @ rows.T
  if kernel == 'softmax_pos':
    x = np.exp(x - x_norm - x.max(-1, keepdims=True)) + 1e-6
    y = np.exp(y - y_norm - y.max((-2, -1), keepdims=True)) + 1e-6
  else:
    x, y = (
      np.concatenate([np.cos(z), np.sin(z)], -1)
      * np.exp(norm - norm.max(-2, keepdims=True))
      for z, norm in ((x, x_norm), (y, y_norm))
    )
  matrix = x @ y.swapaxes(-1, -2) / len(rows)
  matrix = np.tril(matrix) if causal else matrix
  total = matrix.sum(-1, keepdims=True)
  total = np.where(np.abs(total) <= 1e-6, total + 2e-6, total)
  truth = np.einsum('bhij,bjhv->bihv', matrix / total, values)
  out = cases.attend(favor, q, k, v, w, causal=causal)
  good = np.abs(truth).max(-1) < 10
  assert_close(np.asarray(out)[good], truth[good], 1e-4)


@pytest.mark.parametrize(
  ('kernel', 'causal'),
  [('softmax_hyp', True), ('softmax_trig', True), ('relu', False)],
)
def test_unnormalised_output_has_every_factor(kernel, causal):
  favor = cases.favor(kernel, renormalize=False)
  args = cases.arguments(favor, 8)
  out = cases.attend(favor, *args, causal=causal)
  options = {'kernel': kernel, 'causal': causal, 'renormalize': False}
  truth = twin.value(*args, **options)
  assert_close(out, truth, 2e-5)


@pytest.mark.parametrize(
  'kernel', ['softmax_hyp', 'relu', *marks.slow('softmax_trig')]
)
@pytest.mark.parametrize('scale', [1.0, 8.0])
def test_chunks_agree_with_the_position_scan(kernel, scale):
  favor = cases.favor(kernel)
  args = cases.arguments(favor, 10, scale=scale, mask=2)
  one = cases.attend(favor, *args, causal=True)
  two = scan(causal_forms.causal_scan, favor, *args)
  # A trigonometric denominator may be nearly zero.
  good = np.abs(two).max(-1) < 10
  assert good.mean() > 0.5
  assert_close(np.asarray(one)[good], np.asarray(two)[good], 5e-4)


def test_split_form_agrees_with_the_chunk_form(monkeypatch):
  favor = cases.favor()
  args = cases.arguments(favor, 11, mask=2)
  chunked = cases.attend(favor, *args, causal=True)
  monkeypatch.setattr(log, 'exponent_limit', lambda dtype: -1.0)
  split = scan(linear.causal, favor, *args)
  assert np.abs(chunked - split).max() > 0, 'the same form ran twice'
  np.testing.assert_allclose(split, chunked, atol=2e-6)


@pytest.mark.parametrize('scale', [1.0, 8.0])
def test_extending_piece_by_piece_is_the_whole(scale):
  favor = cases.favor()
  q, k, v, w, mask = cases.arguments(favor, 12, scale=scale, mask=2)
  whole = cases.attend(favor, q, k, v, w, mask, causal=True)
  state, outs = None, []
  for part in (slice(0, 19), slice(19, 20), slice(20, 21)):
    x, keep = (x[:, part] for x in (q, k, v)), mask[:, part]
    out, state = extend(favor, *x, w, keep, state)
    outs.append(out)
  assert_close(jnp.concatenate(outs, 1), whole, 5e-6 * scale**1.5)


@pytest.mark.parametrize('length', [1, 9])
def test_awkward_lengths(length):
  favor = cases.favor()
  args = cases.arguments(favor, 13, b=1, l=length)
  for causal in (False, True):
    out = cases.attend(favor, *args, causal=causal)
    truth = twin.value(*args, kernel='softmax_hyp', causal=causal)
    assert_close(out, truth, 1e-5, f'{causal=}')


def test_cross_attention_and_other_widths():
  favor = cases.favor(per_head=True)
  q, _, _ = twin.inputs(14, l=5)
  _, k, v = twin.inputs(15, l=19, v=3)
  w, mask = cases.projection(favor), twin.mask(2, 2, 19)
  out = cases.attend(favor, q, k, v, w, mask, causal=False)
  assert out.shape == (2, 5, 2, 3)
  truth = twin.value(q, k, v, w, mask, kernel='softmax_hyp', causal=False)
  assert_close(out, truth, 1e-5)


def test_plain_function_is_the_object():
  favor = cases.favor('softmax_pos')
  q, k, v, w = cases.arguments(favor, 16)

  def plain(q, k, v):
    return attention.favor_attention(
      q, k, v, w, kernel='softmax_pos', causal=True, chunk=cases.CHUNK
    )

  def thing(q, k, v):
    return favor(q, k, v, projection=w, causal=True)

  one, two = (str(jax.make_jaxpr(f)(q, k, v)) for f in (plain, thing))
  assert one == two


def test_relu_det_is_the_kernel_without_projection():
  favor = cases.favor('relu', features=None, projection=False)
  args = cases.arguments(favor, 17)
  assert args[-1] is None
  out = cases.attend(favor, *args, causal=True)
  truth = twin.value(*args, kernel='relu', causal=True)
  assert_close(out, truth, 1e-5)


def test_gradient_survives_growing_key_features():
  """State subtraction, the published backward pass, loses early gradients."""
  q, k, v = twin.inputs(18)
  # Norms fall, so that log-features grow by |y|^2 / 2 along the sequence.
  norm = jnp.linspace(12.0, 0.0, 21)[None, :, None, None]
  k = k / jnp.linalg.norm(k, axis=-1, keepdims=True) * norm
  favor = cases.favor(chunk=ODD)
  w = cases.projection(favor)
  _, grads = cases.value_and_grad(favor, q, k, v, w, causal=True)
  _, truth = twin.value_and_grad(q, k, v, w, kernel='softmax_hyp', causal=True)
  assert_close(grads[0], truth[0], 1e-5)

  y = np.asarray(k, np.float64)[0, :, 0] / 8**0.25
  u = y @ np.asarray(w, np.float64).T
  features = np.exp(u - (y**2).sum(-1, keepdims=True) / 2)
  outer = features[:, :, None] * np.asarray(v, np.float64)[0, :, 0, None, :]
  states = np.cumsum(outer, axis=0)
  state = states[-1].astype(np.float32)
  for term in outer[:0:-1].astype(np.float32):
    state = state - term
  error = np.abs(state - states[0]).max() / np.abs(states[0]).max()
  assert error > 1e-2, f'subtraction was accurate here: {error:.1e}'


def test_the_future_reaches_no_gradient():
  """Here, beside other gradients of one program; values: test_isolation."""
  favor = cases.favor(chunk=ODD)
  args, rows = cases.arguments(favor, 2, scale=3.0), np.arange(21) < 11
  _, grads = cases.value_and_grad(favor, *args, rows=rows, causal=True)
  for gradient in grads:
    assert not np.any(gradient[:, 11:])
    assert np.any(gradient[:, 10])


def test_stabilisers_carry_no_gradient():
  favor = cases.favor()
  _, k, v = (x.transpose(0, 2, 1, 3) for x in twin.inputs(19))
  w = cases.projection(favor)

  def constants(k):
    features = favor.spec.featurize(k, w)
    return log.summarize(features, v, None, jnp.dtype('float32')).c.sum()

  def maxima(k):
    values, weight = favor.spec.featurize(k, w)
    return (values + weight[..., None]).max(-2).sum()

  np.testing.assert_allclose(constants(k), maxima(k), rtol=1e-6)
  assert not np.any(jax.grad(constants)(k))
  assert np.any(jax.grad(maxima)(k))
