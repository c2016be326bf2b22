"""Tokens fed from the host give what tokens on the device give."""

import jax
import numpy as np
import pytest

from performer import slim
from performer.slim import host
from tests import marks
from tests.performer.slim import slim_cases as cases


def on_host(inputs):
  return jax.tree.map(np.asarray, inputs)


@pytest.mark.parametrize(
  ('strategy', 'kernel'),
  [
    ('subtract', 'elu1'),
    *marks.slow(('checkpoint', 'elu1'), ('checkpoint', 'softmax_hyp')),
  ],
)
def test_equal_to_one_program(strategy, kernel):
  mechanism = cases.favor(kernel)
  problem = cases.problem(mechanism)
  params, w = cases.params(), cases.projections(mechanism)
  fed = host.HostFed(problem, 8, strategy)

  @jax.jit
  def whole(inputs, state):
    return slim.slim_value_and_grad(
      problem,
      params,
      inputs,
      chunk=21,
      strategy='full',
      state=state,
      constants=w,
      normalizer=3.0,
    )

  state = problem.empty(2)
  for length in (21, 16):
    inputs = cases.inputs(length=length)
    ours = fed.value_and_grad(
      params, on_host(inputs), state=state, constants=w, normalizer=3.0
    )
    # Filled up with what is masked, without weight: one program for both.
    fill = lambda x: np.pad(x, ((0, 0), (0, 21 - length)))  # noqa: B023
    # With the same state: the steps gave no memory of the caller's away.
    truth = whole(jax.tree.map(fill, inputs), state)
    np.testing.assert_allclose(ours.loss, truth.loss, rtol=1e-5)
    assert cases.apart(ours.params, truth.params) < 1e-5
    assert cases.apart(ours.start, truth.start) < 1e-5
    assert cases.apart(ours.metrics, truth.metrics) < 1e-5
    assert (ours.drift is None) == (strategy == 'checkpoint')
    state = truth.state  # The second sequence continues the first.
  # One compilation each way, whatever the lengths.
  assert fed._forward._cache_size() == fed._backward._cache_size() == 1


def test_errors():
  problem = cases.problem(cases.favor())
  with pytest.raises(ValueError, match=r"one of .*'checkpoint'.*'full'"):
    host.HostFed(problem, 4, 'full')
  with pytest.raises(ValueError, match='positive integer'):
    host.HostFed(problem, 0)
  online = cases.problem(cases.favor('softmax_hyp'))
  with pytest.raises(ValueError, match='plain sums'):
    host.HostFed(online, 4, 'subtract')
  with pytest.raises(ValueError, match='same b and l'):
    host.HostFed(problem, 4).value_and_grad(
      cases.params(), {'x': np.zeros((2, 3)), 'y': np.zeros((2, 4))}
    )
