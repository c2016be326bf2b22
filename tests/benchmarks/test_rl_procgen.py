"""Shares of the time: spans are joined, not added, and none is forgotten."""

import pytest

from benchmarks import rl_procgen
from rl.envs import lanes
from tests.rl import agent_cases
from tests.rl.envs import env_cases


@pytest.mark.parametrize(
  ('spans', 'seconds'),
  [
    ([], 0.0),
    ([(1.0, 2.0), (3.0, 4.0)], 2.0),
    ([(3.0, 4.0), (1.0, 3.5)], 3.0),  # Two threads at once count once.
    ([(1.0, 4.0), (2.0, 3.0)], 3.0),
    ([(-5.0, 1.0), (9.0, 20.0), (30.0, 31.0)], 2.0),  # Cut at both ends.
    ([(-9.0, -8.0)], 0.0),
  ],
)
def test_covered(spans, seconds):
  assert rl_procgen.covered(spans, 0.0, 10.0) == pytest.approx(seconds)


@pytest.mark.slow
def test_every_step_and_update_is_noted():
  spans = rl_procgen.Spans()
  inner = lanes.Lanes(env_cases.Scripted(length=3, max_steps=5), 2)
  env = rl_procgen.TimedLanes(agent_cases.Host(inner), spans)
  learner = agent_cases.CountingLearner()
  begin, end = rl_procgen.train(env, learner, spans, iterations=4)
  found = spans.found
  assert len(found['gradients']) == 4
  # The actor is one iteration ahead, unless it is closed before it begins.
  steps = len(found['simulation'])
  assert steps in (4 * learner.unroll_length, 5 * learner.unroll_length)
  assert len(found['policy']) == steps
  assert [s for s in found['gradients'] if s[0] >= begin] == (
    found['gradients'][2:]
  )
  busy = found['simulation'] + found['gradients'] + found['policy']
  assert 0 < rl_procgen.covered(busy, begin, end) < end - begin


def test_two_iterations_do_not_count():
  with pytest.raises(ValueError, match='iterations must exceed 2'):
    rl_procgen.Sizes(iterations=2)
