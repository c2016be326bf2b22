"""Where the time of PPO on Procgen goes: to simulation, gradients, or neither.

The training of configs/rl/procgen_starpilot_tiny.gin: an actor steps EnvPool in
a thread of its own while the learner computes. A moment counts if a simulator
steps or a gradient is computed in it, on either thread; also if only the policy
chooses actions, in a second row. What is left is hand-over: copies, shrinking of
pictures, bookkeeping, waiting. Shares are of the clock, over all iterations but
the first two, which compile. Needs the extra `rl`.
"""

import dataclasses
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax

from benchmarks import harness, programs, record
from rl import actors, networks, ppo, rollout
from rl import learner as learner_lib
from rl.envs import frames, procgen, protocol

_WARM_UP = 2
Span = tuple[float, float]


class Spans:
  """Times of every activity: name -> [(begin, end)], seconds."""

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
  """The same lanes, whose steps are noted as 'simulation'."""

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
  """Acts and learns as the trainer of agents does with simulators.

  `spans` get 'policy' and 'gradients'. Returns when the iterations that count,
  all but the first two, began and ended.
  """
  key = jax.random.key(0)
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


@dataclasses.dataclass(frozen=True)
class Sizes:
  """Sizes and settings of the measurement."""

  game: str = 'starpilot'  # Of Procgen.
  lanes: int = 64  # Played at once.
  iterations: int = 8  # Of acting and learning; two of them only compile.

  def __str__(self) -> str:
    return f'{self.game}, {self.lanes} lanes'

  def __post_init__(self) -> None:
    if self.iterations <= _WARM_UP:
      raise ValueError(f'iterations must exceed 2, got {self.iterations=}')


def _take(sizes: Sizes, settings: programs.Settings) -> harness.Measured:
  """Trains once; the shares and the speed are extras."""
  del settings
  spans = Spans()
  games = procgen.make(sizes.game, sizes.lanes, num_levels=200)
  # Inside: shrinking the pictures is no simulation.
  env = frames.Downscaled(TimedLanes(games, spans), 4)
  learner = ppo.PPO(
    encoder=networks.MLP((256, 128)),
    learning_rate=5e-4,
    unroll_length=128,
    num_minibatches=8,
  ).learner(env.observation_space, env.action_space, env.num_lanes)
  begin, end = train(env, learner, spans, sizes.iterations)
  env.close()
  steps = (sizes.iterations - _WARM_UP) * learner.unroll_length * sizes.lanes
  found = {n: spans.found[n] for n in ('simulation', 'gradients', 'policy')}
  busy = found['simulation'] + found['gradients']
  kinds = {
    'simulation or gradients, share of the time': busy,
    'the same, or the policy': busy + found['policy'],
    **found,
  }
  share = lambda some: covered(some, begin, end) / (end - begin)
  shares = {name: share(some) for name, some in kinds.items()}
  speed = {'environment steps per second': steps / (end - begin)}
  program = programs.Program(env.step, extras=shares | speed)
  return harness.Measured(sizes, 'ours', program=program, ours=True)


def _summary(sizes: Sizes, results: harness.Results) -> Iterator[record.Row]:
  for name, value in results.get(sizes, 'ours').program.extras.items():
    yield record.value_row(name, value)


SUBJECT = harness.Subject(
  'rl_procgen',
  Sizes(),
  quick=Sizes(lanes=4, iterations=3),
  cases=lambda sizes: [sizes],
  take=lambda case, settings: [_take(case, settings)],
  summary=_summary,
  unit='shares of the time',
  packages=('jax', 'jaxlib', 'envpool'),
)
