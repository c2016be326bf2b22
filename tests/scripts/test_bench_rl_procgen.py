"""Shares of the time: spans are joined, not added, and none is forgotten."""

import importlib.util
import pathlib

import pytest

from rl.envs import lanes
from tests.rl import agent_cases
from tests.rl.envs import env_cases

SCRIPT = pathlib.Path(__file__).parents[2] / 'scripts/bench_rl_procgen.py'


@pytest.fixture(scope='module')
def script():
  spec = importlib.util.spec_from_file_location('bench_rl_procgen', SCRIPT)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


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
def test_covered(script, spans, seconds):
  assert script.covered(spans, 0.0, 10.0) == pytest.approx(seconds)


def test_every_step_and_update_is_noted(script):
  spans = script.Spans()
  inner = lanes.Lanes(env_cases.Scripted(length=3, max_steps=5), 2)
  env = script.TimedLanes(agent_cases.Host(inner), spans)
  learner = agent_cases.CountingLearner()
  begin, end = script.train(env, learner, spans, iterations=4)
  found = spans.found
  assert len(found['gradients']) == 4
  # The actor is one iteration ahead.
  steps = 5 * learner.unroll_length
  assert len(found['simulation']) == len(found['policy']) == steps
  assert [s for s in found['gradients'] if s[0] >= begin] == (
    found['gradients'][2:]
  )
  busy = found['simulation'] + found['gradients'] + found['policy']
  assert 0 < script.covered(busy, begin, end) < end - begin
