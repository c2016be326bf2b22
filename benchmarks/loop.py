"""Overhead of `runtime.loop` over the bare jitted step.

Both run the same step in one process, in turns of 100 steps. The peer calls the
jitted step on batches that lie on the device and waits at the end of its turn.
Ours is `runtime.loop.run` with everything that a step of a run has: the batch
drawn and placed, metrics fetched and merged, a row in `metrics.jsonl` and
TensorBoard at the end of each turn. Compilation and the one checkpoint, at the
end, are not counted.
"""

import contextlib
import dataclasses
import io
import os
import tempfile
from collections.abc import Callable
from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np
from clu import metrics as clu_metrics

from benchmarks import harness, programs
from runtime import loop
from runtime.devices import mesh as mesh_lib
from runtime.loop import durations
from runtime.record import metrics

WIDTH = 96
ROWS = 8
LOG_EVERY = 100


@flax.struct.dataclass
class State:
  """The state: a matrix, [WIDTH, WIDTH]."""

  matrix: jax.Array


class Batches:
  """Batches from memory: their preparation is not the loop's work."""

  def __init__(self) -> None:
    x = np.random.default_rng(0).normal(size=(8, ROWS, WIDTH))
    self._batches = [{'x': row} for row in x.astype(np.float32)]
    self._position = 0
    # Called when the first batch of every 100 is drawn, which is when the row
    # of the 100 steps before has been written.
    self.on_turn: Callable[[], None] = lambda: None

  def __next__(self) -> dict[str, np.ndarray]:
    if self._position % LOG_EVERY == 0:
      self.on_turn()
    self._position += 1
    return self._batches[self._position % len(self._batches)]

  def get_state(self) -> dict[str, Any]:
    """The number of batches drawn."""
    return {'position': self._position}

  def set_state(self, state: dict[str, Any]) -> None:
    """Goes to a position."""
    self._position = state['position']


def make_experiment(products: int) -> loop.Experiment[State]:
  """An experiment whose step does `products` matrix products in a row."""

  def init() -> State:
    return State(jnp.eye(WIDTH))

  def step(state: State, batch: Any) -> tuple[State, clu_metrics.Collection]:
    matrix = jax.lax.fori_loop(
      0, products, lambda _, m: jnp.tanh(m @ state.matrix), state.matrix
    )
    out = batch['x'] @ matrix
    collection = clu_metrics.Collection.create_collection(
      loss=metrics.Average.of(out**2),
      accuracy=metrics.Average.of(jnp.float32(out > 0)),
    )
    return State(matrix + 1e-3), collection

  mesh = mesh_lib.MeshConfig().make(jax.devices()[:1])
  shardings = jax.tree.map(
    lambda _: mesh_lib.replicated(mesh), jax.eval_shape(init)
  )
  return loop.Experiment(
    init=init,
    step=step,
    shardings=shardings,
    batches=Batches(),
    mesh=mesh,
    batch_size=ROWS,
    params=lambda state: {'matrix': state.matrix},
  )


class Bare:
  """The jitted step alone, on batches that lie on the device."""

  def __init__(self, experiment: loop.Experiment[State]) -> None:
    self._step = jax.jit(experiment.step, donate_argnums=0)
    sharding = mesh_lib.batch_sharding(experiment.mesh)
    batches = Batches()
    self._batches = [jax.device_put(next(batches), sharding) for _ in range(8)]
    self._state = jax.device_put(experiment.init(), experiment.shardings)
    self.run(1)

  def run(self, steps: int) -> programs.Sample:
    """Takes steps; returns the time of each."""
    start = programs.Stopwatch()
    for i in range(steps):
      self._state, collection = self._step(self._state, self._batches[i % 8])
    jax.block_until_ready((self._state, collection))
    return start.sample(steps)


class Turns:
  """Runs a turn of the bare step between the turns of the loop."""

  def __init__(self, bare: Bare) -> None:
    self._bare = bare
    self._since: programs.Stopwatch | None = None
    self.ours: list[programs.Sample] = []
    self.peer: list[programs.Sample] = []

  def next(self) -> None:
    """Ends the loop's turn and takes the peer's."""
    if self._since is not None:
      self.ours.append(self._since.sample(LOG_EVERY))
      self.peer.append(self._bare.run(LOG_EVERY))
    self._since = programs.Stopwatch()


def calibrate(target_s: float) -> int:
  """Number of products for which the bare step takes about `target_s`."""
  products = 64
  for _ in range(3):
    seconds = Bare(make_experiment(products)).run(50).wall
    products = max(1, round(products * target_s / seconds))
  return products


@dataclasses.dataclass(frozen=True)
class Case:
  """A step of about this length."""

  milliseconds: float

  def __str__(self) -> str:
    return f'step of {self.milliseconds:g} ms'


def _take(case: Case, settings: programs.Settings) -> list[harness.Measured]:
  """Measures steps of both."""
  experiment = make_experiment(calibrate(case.milliseconds / 1e3))
  taken = Turns(Bare(experiment))
  experiment.batches.on_turn = taken.next
  # The first turn compiles, and nothing follows the last: neither counts.
  duration = durations.Duration(steps=(settings.rounds + 2) * LOG_EVERY)
  with (
    tempfile.TemporaryDirectory() as workdir,
    contextlib.redirect_stderr(io.StringIO()),
  ):
    config = loop.LoopConfig(duration, log_every=LOG_EVERY)
    loop.run(experiment, config, workdir=workdir, seed=0)
  return [
    harness.Measured(case, 'loop', taken.ours[1:], ours=True),
    harness.Measured(case, 'bare step', taken.peer[1:]),
  ]


@dataclasses.dataclass(frozen=True)
class Sizes:
  """The cases: about how long the bare steps take, in milliseconds."""

  milliseconds: tuple[float, ...] = (1.0, 5.0, 20.0)


def _prepare() -> None:
  """One core, as the calibrated work would else depend on others' load."""
  os.environ.setdefault('XLA_FLAGS', '--xla_cpu_multi_thread_eigen=false')


SUBJECT = harness.Subject(
  'loop',
  Sizes(),
  quick=Sizes((1.0,)),
  cases=lambda sizes: [Case(length) for length in sizes.milliseconds],
  take=_take,
  prepare=_prepare,
  settings=programs.Settings(rounds=40),
  packages=('jax', 'jaxlib', 'numpy'),
)
