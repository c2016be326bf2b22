"""Programs that compute a case once: how to build, call and time them."""

import dataclasses
import importlib
import itertools
import os
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

# Threads of torch that spin while JAX is timed would count as time of JAX.
os.environ.setdefault('OMP_WAIT_POLICY', 'PASSIVE')

import jax
import numpy as np

Clock = Literal['wall', 'cpu']
CLOCKS: tuple[Clock, ...] = ('wall', 'cpu')


class MissingError(Exception):
  """A peer cannot run here; the message says why."""


class Clocks(NamedTuple):
  """One value by each clock; None where nothing was measured."""

  wall: float | None = None
  cpu: float | None = None


@dataclasses.dataclass(frozen=True)
class Sample:
  """Seconds of one unit of work: wall clock, and CPU time of all threads."""

  wall: float
  cpu: float

  def per(self, units: float) -> 'Sample':
    """The time of each of some units of work."""
    return Sample(self.wall / units, self.cpu / units)


class Stopwatch:
  """Reads both clocks since it was made."""

  def __init__(self) -> None:
    self._wall, self._cpu = time.perf_counter(), time.process_time()

  def sample(self, units: float) -> Sample:
    """The time that has passed, per unit of work."""
    wall, cpu = time.perf_counter(), time.process_time()
    return Sample(wall - self._wall, cpu - self._cpu).per(units)


@dataclasses.dataclass(frozen=True)
class Settings:
  """Settings of a measurement."""

  rounds: int = 15  # Turns of each form at most.
  seconds: float = 6.0  # After so much time a form takes no turn but three.
  pause: float = 0.02  # Before each turn, so that idle threads come to rest.

  def __post_init__(self) -> None:
    if self.rounds < 1 or not (self.seconds >= 0 and self.pause >= 0):
      raise ValueError(
        'rounds must be positive, seconds and pause not negative, got '
        f'{self.rounds=} {self.seconds=} {self.pause=}'
      )


@dataclasses.dataclass(frozen=True)
class Program:
  """A form that is built for a case."""

  call: Callable[..., Any]  # Computes once.
  inputs: Callable[[int], tuple] = lambda seed: ()  # Arguments of `call`.
  units: float = 1  # Of work in a call, such as steps; times are per unit.
  temporary_bytes: int | None = None  # Besides inputs and outputs.
  compile_s: float | None = None  # CPU seconds to trace and compile.
  extras: Mapping[str, Any] = dataclasses.field(default_factory=dict)

  def bound(self, seed: int = 0) -> Callable[[], Any]:
    """Computes with the inputs of a seed; returns when the result is there."""
    arguments = self.inputs(seed)
    return lambda: wait(self.call(*arguments))


def peer(module: str) -> Any:
  """Imports a package that only benchmarks need; may raise `MissingError`."""
  try:
    return importlib.import_module(module)
  except ImportError as error:
    raise MissingError(
      f'{module} cannot be imported ({error}); benchmarks/README.md says how '
      'to install the peers'
    ) from error


def torch(threads: int | None = None) -> Any:
  """Imports torch, with as many threads as JAX has; may raise `MissingError`."""
  module = peer('torch')
  module.set_num_threads(threads or len(os.sched_getaffinity(0)))
  return module


def temporary_bytes(executable: Any) -> int:
  """Memory that the compiler plans besides inputs and outputs.

  Raises:
    RuntimeError: if the compiler of this platform does not tell.
  """
  analysis = executable.memory_analysis()
  if analysis is None:
    raise RuntimeError('the compiler of this platform reports no memory')
  return analysis.temp_size_in_bytes


def compiled(
  function: Callable[..., Any],
  inputs: Callable[[int], tuple] = lambda seed: (),
  *,
  units: float = 1,
) -> Program:
  """Compiles a function of arrays; see `Program` for the arguments."""
  arguments = inputs(0)
  start = Stopwatch()
  executable = jax.jit(function).lower(*arguments).compile()
  seconds = start.sample(1).cpu  # Other processes must not count.
  return Program(
    executable, inputs, units, temporary_bytes(executable), seconds
  )


def wait(result: Any) -> Any:
  """Returns a result of JAX or torch when it is there."""
  jax.block_until_ready(result)
  if 'torch' in sys.modules:
    leaf = next(iter(jax.tree.leaves(result)), None)
    if getattr(leaf, 'is_cuda', False):
      sys.modules['torch'].cuda.synchronize()
  return result


def in_float64(function: Callable[..., Any], *arguments: Any) -> Any:
  """Computes a JAX function in float64; integers stay integers."""

  def widen(x: Any) -> np.ndarray:
    x = np.asarray(x)
    return x.astype(np.float64) if np.issubdtype(x.dtype, np.floating) else x

  with jax.enable_x64(True):
    found = jax.jit(function)(*jax.tree.map(widen, arguments))
    return jax.tree.map(np.asarray, found)


def disagreement(found: Any, expected: Any) -> float:
  """The largest distance in a leaf, relative to its largest entry."""
  pairs = zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True)
  gaps = [
    float(np.max(np.abs(np.asarray(a, np.float64) - np.asarray(b))))
    / max(float(np.max(np.abs(b))), 1e-30)
    for a, b in pairs
  ]
  return float(np.max(gaps))  # NaN stays NaN.


def distance(found: Any, expected: Any) -> float:
  """Norm of the difference over that of the second; all leaves as one."""
  squares = np.zeros(2)
  pairs = zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True)
  for one, two in pairs:
    one, two = np.asarray(one, np.float64), np.asarray(two, np.float64)
    squares += ((one - two) ** 2).sum(), (two**2).sum()
  return float(np.sqrt(squares[0] / squares[1]))


def judged(gaps: Mapping[str, float], limit: float) -> str | None:
  """Says which gap is the first beyond a limit; None: none is."""
  for name, gap in gaps.items():
    if not gap <= limit:  # A NaN is beyond it too.
      return f'{name} is off by {gap:.2g}, more than {limit:g}'
  return None


def alternate(
  calls: Mapping[Any, Callable[[], Any]], settings: Settings
) -> dict[Any, list[Sample]]:
  """Times calls in turns.

  Args:
    calls: calls to time; each is warmed up first, twice.
    settings: number and length of turns.

  Returns:
    By name a sample for each turn; turn i of one call stands beside turn i of
    every other.
  """
  repeats = {name: _repeats(call) for name, call in calls.items()}
  spent = dict.fromkeys(calls, 0.0)
  samples: dict[Any, list[Sample]] = {name: [] for name in calls}
  for turn, name in itertools.product(range(settings.rounds), calls):
    if turn >= 3 and spent[name] > settings.seconds:
      continue
    time.sleep(settings.pause)
    start = Stopwatch()
    for _ in range(repeats[name]):
      calls[name]()
    samples[name].append(start.sample(repeats[name]))
    spent[name] += samples[name][-1].wall * repeats[name]
  return samples


def _repeats(call: Callable[[], Any]) -> int:
  """Calls of a turn, so that a turn lasts longer than ticks and noise."""
  call()
  start = Stopwatch()
  call()
  return max(1, min(50, round(0.03 / max(start.sample(1).wall, 1e-6))))
