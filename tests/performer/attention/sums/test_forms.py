"""Chunks and tails, gradients, and cached sources and states."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from performer.attention.sums import linear
from performer.attention.sums import state as state_lib
from tests import marks
from tests.performer.attention import attention_cases as cases
from tests.performer.attention import attention_twin as twin


def form_of(favor, w, d=8):
  return favor.form(w, head_dim=d)


SOME = (1, 7, True), (8, 1, False), (8, 33, True), (32, 7, False)
ALL = itertools.product((1, 2, 8, 32), (1, 7, 21, 33), (False, True))


@pytest.mark.parametrize(
  ('chunk', 'length', 'causal'),
  [*SOME, *marks.slow(*(case for case in ALL if case not in SOME))],
)
def test_any_chunk_and_tail(chunk, length, causal):
  favor = cases.favor(chunk=chunk)
  args = cases.arguments(favor, 2, l=length, scale=2.0)
  truth = twin.value(*args, kernel='softmax_hyp', causal=causal)
  out = cases.attend(favor, *args, causal=causal)
  np.testing.assert_allclose(out, truth, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize('causal', [*marks.slow(False), True])
def test_hand_written_gradient_is_the_automatic_one(causal):
  """Also for the projection, and through a state given and returned."""
  favor = cases.favor(chunk=8)
  q, k, v, w, mask = cases.arguments(favor, 4, l=21, scale=2.0, mask=5)
  ids = jnp.zeros((2, 21), jnp.int32)  # One segment: differentiated by JAX.

  def loss(q, k, v, w, ids):
    if causal:
      linear_form = form_of(favor, w)
      options = {'key_mask': mask, 'segment_ids': ids}
      state = linear.causal(linear_form, k, q, v)[1]
      out, state = linear.causal(linear_form, q, k, v, state=state, **options)
      log_sum = jnp.log(state.z) + state.c
      return jnp.sin(out).sum() + (log_sum / 10).sum()
    out = favor(
      q, k, v, projection=w, causal=False, key_mask=mask, segment_ids=ids
    )
    return jnp.sin(out).sum()

  gradient = jax.jit(jax.grad(loss, (0, 1, 2, 3)))
  for mine, other in zip(
    gradient(q, k, v, w, None), gradient(q, k, v, w, ids), strict=True
  ):
    np.testing.assert_allclose(mine, other, atol=1e-5 * np.abs(other).max())


@pytest.mark.slow
def test_quotients_of_large_denominators_have_a_gradient(monkeypatch):
  """Denominators of e^60: their square, in a plain quotient, is infinite."""
  favor = cases.favor()
  q, k, v, w = cases.arguments(favor, 5, l=37, scale=12.0)
  q, k, v = (x[:1, 16:35] for x in (q, k, v))
  _, truth = twin.value_and_grad(q, k, v, w, kernel='softmax_hyp', causal=True)

  def worst(ids, favor=favor):
    def loss(q, k, v):
      out = favor(q, k, v, projection=w, causal=True, segment_ids=ids)
      return jnp.sin(out).sum()

    grads = jax.jit(jax.grad(loss, (0, 1, 2)))(q, k, v)
    return max(
      np.abs(x - y).max() / np.abs(y).max()
      for x, y in zip(grads, truth, strict=True)
    )

  ids = jnp.zeros((1, 19), jnp.int32)
  assert worst(None) < 1e-4
  assert worst(ids) < 1e-4

  def plain(numerator, denominator):
    return numerator / jnp.where(denominator > 0, denominator, 1)[..., None]

  monkeypatch.setattr(state_lib, 'divide', plain)
  # Other options, because calls are traced once for each.
  assert worst(None, dataclasses.replace(favor, redraw_every=7)) > 0.1


@pytest.mark.parametrize('kernel', ['softmax_hyp', 'relu'])
def test_a_source_is_summed_once(kernel):
  favor = cases.favor(kernel)
  w = cases.projection(favor)
  _, k, v = twin.inputs(3, l=30)
  q = twin.normal(4, 2, 11, 2, 8)
  mask = twin.mask(6, 2, 30)
  state = favor.summarize(k, v, projection=w, key_mask=mask)
  whole = cases.attend(favor, q, k, v, w, mask, causal=False)
  for part in (slice(0, 11), slice(3, 4)):
    out = favor.read(q[:, part], state, projection=w)
    np.testing.assert_allclose(out, whole[:, part], atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize('causal', [False, True])
def test_gradients_at_long_lengths(causal):
  """Many chunks, several blocks, key norms that fall from 12 to 0."""
  length = 600
  favor = cases.favor(chunk=64)
  q, k, v, w = cases.arguments(favor, 6, b=1, l=length, h=1)
  norm = jnp.linspace(12.0, 0.0, length)[None, :, None, None]
  k = k / jnp.linalg.norm(k, axis=-1, keepdims=True) * norm
  out, grads = cases.value_and_grad(favor, q, k, v, w, causal=causal)
  truth, slopes = twin.value_and_grad(
    q, k, v, w, kernel='softmax_hyp', causal=causal
  )
  np.testing.assert_allclose(out, truth, atol=2e-5)
  for name, mine, other in zip('qkv', grads, slopes, strict=True):
    error = np.abs(mine - other).max() / np.abs(other).max()
    assert error < 2e-5, f'd{name}: {error=:.1e}'


def decode(linear_form, q, k, v, key_mask):
  """One position at a time, by the chunked form and its state."""

  def step(state, position):
    *x, keep = position
    out, state = linear.causal(linear_form, *x, key_mask=keep, state=state)
    return state, out[:, 0]

  empty = state_lib.empty(v[:, 0], linear_form.features, 8, linear_form.log)
  positions = [jnp.moveaxis(x, 1, 0)[:, :, None] for x in (q, k, v, key_mask)]
  _, out = jax.lax.scan(step, empty, positions)
  return jnp.moveaxis(out, 0, 1)


@pytest.mark.parametrize('kernel', ['softmax_hyp', 'relu'])
def test_mass_is_one_position_by_position_at_every_scale(kernel):
  favor = cases.favor(kernel)
  w, every = cases.projection(favor), jnp.ones((2, 21), bool)
  run = jax.jit(lambda q, k, v: decode(form_of(favor, w), q, k, v, every))
  for scale in (0.1, 1.0, 5.0, 20.0):
    q, k, v = twin.inputs(11, scale=scale)
    error = np.abs(run(q, k, jnp.ones_like(v)) - 1).max()
    assert error < 1e-5, f'{scale=} {error=:.1e}'
