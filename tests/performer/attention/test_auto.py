"""Which mechanism a length gets, and that the answer is the right one."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from performer import attention
from performer.attention import auto
from tests.performer.attention import attention_cases as cases
from tests.performer.attention import attention_twin as twin

FAVOR = cases.favor()
AUTO = attention.Auto(favor=FAVOR, exact_below=20)


@pytest.mark.parametrize(
  ('lq', 'lk', 'exact'),
  [
    (19, 19, True),
    (20, 20, False),  # At the crossover, linear.
    (1, 10**6, True),  # One query: exact attention reads the keys once.
    (11, 110, False),  # Harmonic mean 20.
    (10, 110, True),  # 18.3
    (110, 10, True),
  ],
)
def test_rule_compares_the_costs(lq, lk, exact):
  assert auto.use_exact(lq, lk, exact_below=20) == exact
  chosen = AUTO.choose(lq, lk, causal=False)
  assert chosen == (attention.Exact() if exact else FAVOR)
  assert not auto.use_exact(lq, lk, exact_below=0)


@pytest.mark.parametrize('causal', [False, True])
def test_default_threshold_is_that_of_the_backend(causal):
  threshold = auto.CROSSOVER[jax.default_backend(), causal]
  for features, length in ((256, threshold), (64, threshold // 4)):
    mechanism = attention.Auto(favor=attention.Favor(features=features))
    below = mechanism.choose(length - 1, length - 1, causal=causal)
    above = mechanism.choose(length, length, causal=causal)
    assert below == attention.Exact()
    assert above == mechanism.favor


def test_every_backend_is_listed_and_others_are_refused():
  for backend in ('cpu', 'gpu', 'tpu'):
    for causal in (False, True):
      assert auto.crossover(causal=causal, backend=backend, features=256) > 0
  with pytest.raises(ValueError, match=r"'abacus'.*exact_below"):
    auto.crossover(causal=False, backend='abacus', features=256)


@pytest.mark.parametrize('causal', [False, True])
@pytest.mark.parametrize('length', [13, 21])
def test_value_is_that_of_the_chosen_mechanism(length, causal):
  args = cases.arguments(FAVOR, 1, l=length, mask=2)
  kernel = 'exact' if length < 20 else 'softmax_hyp'
  other = 'softmax_hyp' if length < 20 else 'exact'
  out = cases.attend(AUTO, *args, causal=causal)
  np.testing.assert_allclose(
    out, twin.value(*args, kernel=kernel, causal=causal), atol=2e-5
  )
  wrong = twin.value(*args, kernel=other, causal=causal)
  assert np.abs(out - wrong).max() > 1e-2


def test_has_the_interface_of_favor():
  def kinds(function):
    parameters = inspect.signature(function).parameters.values()
    return [(p.name, p.kind, p.default) for p in parameters]

  for name in ('draw', '__call__', 'extend', 'summarize', 'read'):
    mine = kinds(getattr(attention.Auto, name))
    theirs = getattr(attention.Favor, name, None)
    assert theirs is None or set(kinds(theirs)) <= set(mine)
  assert AUTO.redraw_every == FAVOR.redraw_every
  np.testing.assert_array_equal(cases.projection(AUTO), cases.projection(FAVOR))


def test_extend_is_linear_below_the_threshold():
  q, k, v, w = cases.arguments(FAVOR, 3, l=7)
  out, state = AUTO.extend(q[:, :5], k[:, :5], v[:, :5], projection=w)
  rest, _ = AUTO.extend(q[:, 5:], k[:, 5:], v[:, 5:], projection=w, state=state)
  expected = twin.value(q, k, v, w, kernel='softmax_hyp', causal=True)
  np.testing.assert_allclose(
    np.concatenate([out, rest], axis=1), expected, atol=2e-5
  )


@pytest.mark.parametrize('length', [13, 21])
def test_segments_and_sources_are_handed_on(length):
  q, k, v, w = cases.arguments(FAVOR, 4, l=length)
  segments = np.int32(np.arange(length) >= 6)[None].repeat(2, 0)
  out = cases.attend(AUTO, q, k, v, w, ids=segments, causal=False)
  kernel = 'exact' if length < 20 else 'softmax_hyp'
  for part in (slice(0, 6), slice(6, length)):
    truth = twin.value(
      q[:, part], k[:, part], v[:, part], w, kernel=kernel, causal=False
    )
    np.testing.assert_allclose(out[:, part], truth, atol=2e-5)

  @jax.jit
  def read(q, k, v):
    return AUTO.read(q, AUTO.summarize(k, v, projection=w), projection=w)

  truth = twin.value(q, k, v, w, kernel='softmax_hyp', causal=False)
  np.testing.assert_allclose(read(q, k, v), truth, atol=2e-5)


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    ({'favor': cases.favor('relu')}, "kernel='relu'"),
    ({'favor': cases.favor(renormalize=False)}, 'renormalize=False'),
    ({'exact_below': -1}, 'exact_below must be .* got -1'),
  ],
)
def test_contradictions_are_refused(options, message):
  with pytest.raises(ValueError, match=message):
    attention.Auto(**options)


def test_projection_is_required_at_every_length():
  q, k, v = twin.inputs(1, l=5)
  for wrong in (None, jnp.zeros((3, 99))):
    with pytest.raises(ValueError, match='projection'):
      AUTO(q, k, v, projection=wrong, causal=False)
