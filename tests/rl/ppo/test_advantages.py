"""Advantages against a sum over all later steps."""

import jax
import numpy as np
import pytest

from rl.ppo import losses

advantages = jax.jit(losses.advantages, static_argnames=('discount', 'trace'))


def _estimate(case):
  options = {'discount': case['discount'], 'trace': case['trace']}
  return advantages(*case['arrays'].values(), **case['masks'], **options)


def _case(rng, length=23, lanes=5, discount=0.9, trace=0.8):
  """Random episodes; after some ends, a step that only resets."""
  numbers = lambda *shape: rng.normal(size=shape).astype(np.float32)
  shape = (length, lanes)
  ended = rng.random(shape) < 0.25
  terminated = ended & (rng.random(shape) < 0.5)
  valid = np.ones(shape, bool)
  spends = rng.random(lanes) < 0.5
  for lane in np.flatnonzero(spends):
    for t in range(1, length):
      if ended[t - 1, lane] and valid[t - 1, lane]:
        valid[t, lane] = ended[t, lane] = terminated[t, lane] = False
  assert (~valid).any()
  assert terminated.any()
  assert (ended & ~terminated).any()
  assert valid[:, ~spends].all()
  arrays = {
    'reward': np.where(valid, numbers(*shape), 0),
    'value': numbers(*shape),
    'last_value': numbers(lanes),
    'final_value': numbers(*shape),
  }
  masks = {
    'terminated': terminated,
    'truncated': ended & ~terminated,
    'valid': valid,
  }
  return {
    'arrays': arrays,
    'masks': masks,
    'discount': discount,
    'trace': trace,
  }


def _reference(case):
  """Weighted n-step returns of each step, to the end of its episode."""
  arrays = {k: np.float64(v) for k, v in case['arrays'].items()}
  terminated, truncated, valid = case['masks'].values()
  gamma, trace = case['discount'], case['trace']
  length, lanes = valid.shape
  advantage = np.zeros((length, lanes))
  for lane in range(lanes):
    for start in range(length):
      if not valid[start, lane]:
        continue
      returns, total, weight = [], 0.0, 1.0
      for t in range(start, length):
        total += weight * arrays['reward'][t, lane]
        weight *= gamma
        if terminated[t, lane]:
          after = 0.0
        elif truncated[t, lane]:
          after = arrays['final_value'][t, lane]
        elif t + 1 < length:
          after = arrays['value'][t + 1, lane]
        else:
          after = arrays['last_value'][lane]
        returns.append(total + weight * after)
        if terminated[t, lane] or truncated[t, lane]:
          break
      # (1 - trace) * sum of trace^k R_k, the last one with all that is left.
      powers = trace ** np.arange(len(returns))
      shares = np.append((1 - trace) * powers[:-1], powers[-1])
      advantage[start, lane] = shares @ returns - arrays['value'][start, lane]
  return advantage


@pytest.mark.parametrize('trace', [0.0, 0.8, 1.0])
def test_against_all_n_step_returns(trace):
  case = _case(np.random.default_rng(3), trace=trace)
  got = _estimate(case)
  want = _reference(case)
  np.testing.assert_allclose(got.advantages, want, rtol=1e-4, atol=1e-5)
  targets = want + case['arrays']['value']
  np.testing.assert_allclose(got.targets, targets, rtol=1e-4, atol=1e-5)


def test_what_is_not_read_may_be_anything():
  case = _case(np.random.default_rng(4))
  want = _estimate(case)
  arrays, masks = case['arrays'], case['masks']
  final = np.where(masks['truncated'], arrays['final_value'], np.nan)
  reward = np.where(masks['valid'], arrays['reward'], np.inf)
  poisoned = {**arrays, 'final_value': final, 'reward': reward}
  got = _estimate({**case, 'arrays': poisoned})
  np.testing.assert_array_equal(got.advantages, want.advantages)
  np.testing.assert_array_equal(got.targets, want.targets)
  # Read where it should be: the same poison shows.
  shown = np.where(masks['truncated'], np.nan, arrays['final_value'])
  got = _estimate({**case, 'arrays': {**arrays, 'final_value': shown}})
  assert np.isnan(got.advantages).any()
