"""Where the time of PPO on Procgen goes: to simulation, gradients, or neither.

  python scripts/bench_rl_procgen.py

The training of configs/rl/procgen_starpilot_tiny.gin: an actor steps EnvPool in
a thread of its own while the learner computes. A moment counts if a simulator
steps or a gradient is computed in it, on either thread; also if only the policy
chooses actions, in a second row. What is left is hand-over: copies, shrinking of
pictures, bookkeeping, waiting. Shares are of the clock, over all iterations but
the first two, which compile. Needs the extra `rl`. Prints a table; writes
`benchmarks/results/rl_procgen.json`.
"""

import argparse
import json
import os
import pathlib
import platform
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from importlib import metadata
from typing import Any

import jax

from rl import actors, networks, ppo, rollout
from rl import learner as learner_lib
from rl.envs import frames, procgen, protocol
from runtime.record import provenance, tables

__all__ = ['Spans', 'TimedLanes', 'covered', 'main', 'train']

ROOT = pathlib.Path(__file__).resolve().parent.parent
_WARM_UP = 2
_SEED = 0

Span = tuple[float, float]


class Spans:
  """When what was done: name -> [(begin, end)], seconds."""

  def __init__(self) -> None:
    self.found: dict[str, list[Span]] = defaultdict(list)

  def timed(self, name: str, run: Callable[..., Any]) -> Callable[..., Any]:
    """`run`, each call of which is noted until its result is there."""

    def call(*arguments: Any) -> Any:
      begin = time.perf_counter()
      result = jax.block_until_ready(run(*arguments))
      self.found[name].append((begin, time.perf_counter()))
      return result

    return call


class TimedLanes:
  """The same lanes, whose steps are noted as 'simulation'.

  Args:
    env: the lanes.
    spans: where.
  """

  def __init__(self, env: protocol.VectorEnvironment, spans: Spans) -> None:
    self._env = env
    self.step = spans.timed('simulation', env.step)

  def __getattr__(self, name: str) -> Any:
    return getattr(self._env, name)


class _TimedActor(rollout.HostActor):
  """Notes the policy's own time as 'policy'."""

  def __init__(self, env: Any, learner: Any, spans: Spans) -> None:
    super().__init__(env, learner)
    self._act = spans.timed('policy', self._act)


def covered(spans: Iterable[Span], begin: float, end: float) -> float:
  """Seconds between `begin` and `end` that lie in at least one span."""
  total, reached = 0.0, begin
  for first, last in sorted(spans):
    last = min(last, end)
    total += max(0.0, last - max(first, reached))
    reached = max(reached, last)
  return total


def train(
  env: protocol.VectorEnvironment,
  learner: learner_lib.Learner,
  spans: Spans,
  iterations: int,
) -> Span:
  """Acts and learns as `training.AgentTrainer` does with simulators.

  Args:
    env: the lanes.
    learner: of these lanes.
    spans: get 'policy' and 'gradients'.
    iterations: of acting and learning; the first two do not count.

  Returns:
    When those that count began and ended.
  """
  key = jax.random.key(_SEED)
  state = jax.jit(learner.init)(key)
  timed = _TimedActor(env, learner, spans)
  actor = actors.Actor(timed, key=key, pipelined=True)
  watch = jax.jit(learner.acting)

  def learn(state: Any, batch: Any, key: Any) -> Any:
    return learner.learn(state, actors.time_major(batch), key)

  learn = spans.timed('gradients', jax.jit(learn, donate_argnums=0))
  begin = 0.0
  for index in range(iterations):
    if index == _WARM_UP:
      begin = time.perf_counter()
    actor.observe(watch(state))
    batch = jax.block_until_ready(jax.device_put(next(actor)))
    state, _ = learn(state, batch, jax.random.fold_in(key, index))
  end = time.perf_counter()
  actor.close()
  return begin, end


def _rows(spans: Spans, begin: float, end: float) -> list[dict[str, Any]]:
  found = spans.found
  busy = found['simulation'] + found['gradients']
  kinds = {
    'simulation or gradients, share of the time': busy,
    'the same, or the policy': busy + found['policy'],
    'simulation': found['simulation'],
    'gradients': found['gradients'],
    'policy': found['policy'],
  }
  return [
    {
      'case': name,
      'ours': covered(some, begin, end) / (end - begin),
      'peer': None,
      'ratio': None,
    }
    for name, some in kinds.items()
  ]


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--game', default='starpilot', choices=procgen.GAMES)
  parser.add_argument('--lanes', type=int, default=64)
  parser.add_argument('--iterations', type=int, default=8)
  out = ROOT / 'benchmarks' / 'results' / 'rl_procgen.json'
  parser.add_argument('--out', type=pathlib.Path, default=out)
  args = parser.parse_args(arguments)
  if args.iterations <= _WARM_UP:
    parser.error(f'--iterations must exceed {_WARM_UP}')
  return args


def main(arguments: Sequence[str] | None = None) -> None:
  """Measures, prints and writes."""
  args = _arguments(arguments)
  before = os.getloadavg()[0]
  revision, dirty = provenance.commit()
  spans = Spans()
  games = procgen.make(args.game, args.lanes, num_levels=200)
  # Inside: shrinking the pictures is no simulation.
  env = frames.Downscaled(TimedLanes(games, spans), 4)
  learner = ppo.PPO(
    encoder=networks.MLP((256, 128)),
    learning_rate=5e-4,
    unroll_length=128,
    num_minibatches=8,
  ).learner(env.observation_space, env.action_space, env.num_lanes)
  begin, end = train(env, learner, spans, args.iterations)
  env.close()
  steps = (args.iterations - _WARM_UP) * learner.unroll_length * args.lanes
  rows = _rows(spans, begin, end)
  speed = {
    'case': 'environment steps per second',
    'ours': steps / (end - begin),
  }
  rows.append(speed | {'peer': None, 'ratio': None})
  result = {
    'name': 'rl_procgen',
    'device': f'{platform.machine()}, {len(os.sched_getaffinity(0))} cores',
    'versions': {
      name: metadata.version(name) for name in ('jax', 'jaxlib', 'envpool')
    },
    'commit': revision and revision[:12] + ('-dirty' if dirty else ''),
    'load': {'before': before, 'after': os.getloadavg()[0]},
    'sizes': {k: getattr(args, k) for k in ('game', 'lanes', 'iterations')},
    'rows': rows,
  }
  args.out.parent.mkdir(parents=True, exist_ok=True)
  args.out.write_text(json.dumps(result, indent=2) + '\n')
  print(tables.table(rows))


if __name__ == '__main__':
  main()
