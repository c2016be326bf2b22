"""Exact attention against float64."""

import numpy as np
import pytest

from performer import attention
from tests import seeds
from tests.performer.attention import attention_cases as cases
from tests.performer.attention import attention_twin as twin

EXACT = attention.Exact()


@pytest.mark.parametrize('causal', [False, True])
@pytest.mark.parametrize('scale', [1.0, 20.0])
def test_values_and_gradients(causal, scale):
  args = cases.arguments(EXACT, 1, scale=scale, mask=2)
  out, grads = cases.value_and_grad(EXACT, *args, causal=causal)
  truth, slopes = twin.value_and_grad(*args, kernel='exact', causal=causal)
  tolerance = 1e-6 * max(10, scale**2)
  np.testing.assert_allclose(out, truth, atol=tolerance)
  for ours, theirs in zip(grads, slopes, strict=True):
    bound = tolerance * max(1, np.abs(theirs).max())
    np.testing.assert_allclose(ours, theirs, atol=bound)


def test_nothing_to_draw():
  draw = EXACT.draw(seeds.key(0), layer=0, step=0, num_heads=2, head_dim=8)
  assert draw is None
  assert EXACT.redraw_every is None


def test_favor_approaches_exact_attention():
  args = cases.arguments(EXACT, 3, scale=0.5)
  truth = twin.value(*args, kernel='exact', causal=False)
  errors = []
  for features in (16, 4096):
    favor = cases.favor(features=features)
    args = cases.arguments(favor, 3, scale=0.5)
    out = cases.attend(favor, *args, causal=False)
    errors.append(float(np.abs(out - truth).max()))
  assert errors[1] < 0.05, errors
  assert errors[0] > 4 * errors[1], errors
