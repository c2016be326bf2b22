"""Overhead of `runtime.loop` over the bare jitted step.

  python scripts/bench_loop.py

Both run the same step in one process, in turns of 100 steps. The peer calls the
jitted step on batches that lie on the device and waits at the end of its turn.
Ours is `runtime.loop.run` with everything that a step of a run has: the batch
drawn and placed, metrics fetched and merged, a row in `metrics.jsonl` and
TensorBoard at the end of each turn. Compilation and the one checkpoint, at the
end, are not counted. Prints medians, and the median of the ratios of
neighbouring turns, which a busy machine disturbs least; writes
`benchmarks/results/loop.json`.
"""

import argparse
import contextlib
import io
import json
import os
import pathlib
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from importlib import metadata
from typing import Any

# One core, as the calibrated work would else depend on the load of the others.
os.environ.setdefault('XLA_FLAGS', '--xla_cpu_multi_thread_eigen=false')

import flax
import jax
import jax.numpy as jnp
import numpy as np
from clu import metrics as clu_metrics

from runtime import loop
from runtime.devices import mesh as mesh_lib
from runtime.loop import durations
from runtime.record import metrics, tables

__all__ = ['calibrate', 'compare', 'main', 'make_experiment']

ROOT = pathlib.Path(__file__).resolve().parent.parent
WIDTH = 96
ROWS = 8
LOG_EVERY = 100


@flax.struct.dataclass
class State:
  """What the step changes: a matrix, [WIDTH, WIDTH]."""

  matrix: jax.Array


class Batches:
  """Batches from memory: their preparation is not the loop's work.

  Attributes:
    on_turn: called when the first batch of every 100 is drawn, which is when
      the row of the 100 steps before has been written.
  """

  def __init__(self) -> None:
    rng = np.random.default_rng(0)
    self._batches = [
      {'x': rng.normal(size=(ROWS, WIDTH)).astype(np.float32)} for _ in range(8)
    ]
    self._position = 0
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
    self.seconds(1)

  def seconds(self, steps: int) -> float:
    """Runs; returns seconds per step."""
    start = time.perf_counter()
    for i in range(steps):
      self._state, collection = self._step(self._state, self._batches[i % 8])
    jax.block_until_ready((self._state, collection))
    return (time.perf_counter() - start) / steps


class Turns:
  """Runs a turn of the bare step between the turns of the loop."""

  def __init__(self, bare: Bare) -> None:
    self._bare = bare
    self._since: float | None = None
    self.ours: list[float] = []
    self.peer: list[float] = []

  def next(self) -> None:
    """Ends the loop's turn and takes the peer's."""
    now = time.perf_counter()
    if self._since is not None:
      self.ours.append((now - self._since) / LOG_EVERY)
      self.peer.append(self._bare.seconds(LOG_EVERY))
    self._since = time.perf_counter()


def calibrate(target_s: float) -> int:
  """Number of products for which the bare step takes about `target_s`."""
  products = 64
  for _ in range(3):
    seconds = Bare(make_experiment(products)).seconds(50)
    products = max(1, round(products * target_s / seconds))
  return products


def compare(target_s: float, *, turns: int) -> dict[str, str | float]:
  """Measures one step length.

  Args:
    target_s: wanted length of the bare step, seconds.
    turns: turns of each side.

  Returns:
    A row: case, medians of ours and peer in milliseconds per step, and the
    median of the ratios of neighbouring turns.
  """
  experiment = make_experiment(calibrate(target_s))
  taken = Turns(Bare(experiment))
  experiment.batches.on_turn = taken.next
  # The first turn compiles, and nothing follows the last: neither counts.
  duration = durations.Duration(steps=(turns + 2) * LOG_EVERY)
  with (
    tempfile.TemporaryDirectory() as workdir,
    contextlib.redirect_stderr(io.StringIO()),
  ):
    config = loop.LoopConfig(duration, log_every=LOG_EVERY)
    loop.run(experiment, config, workdir=workdir, seed=0)
  ours, peer = taken.ours[1:], taken.peer[1:]
  ratios = [a / b for a, b in zip(ours, peer, strict=True)]
  return {
    'case': f'step of {1e3 * target_s:g} ms',
    'ours': 1e3 * statistics.median(ours),
    'peer': 1e3 * statistics.median(peer),
    'ratio': statistics.median(ratios),
  }


def main() -> None:
  """Measures steps of 1, 5 and 20 ms."""
  parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
  parser.add_argument('--turns', type=int, default=40)
  parser.add_argument(
    '--out',
    type=pathlib.Path,
    default=ROOT / 'benchmarks' / 'results' / 'loop.json',
  )
  args = parser.parse_args()
  before = os.getloadavg()[0]
  rows = [compare(t, turns=args.turns) for t in (1e-3, 5e-3, 20e-3)]
  result = {
    'name': 'loop',
    'device': f'{platform.machine()}, {os.cpu_count()} cores, one used',
    'versions': {
      'python': platform.python_version(),
      **{name: metadata.version(name) for name in ('jax', 'jaxlib', 'numpy')},
    },
    'load': {'before': before, 'after': os.getloadavg()[0]},
    'rows': rows,
  }
  args.out.parent.mkdir(parents=True, exist_ok=True)
  args.out.write_text(json.dumps(result, indent=2) + '\n')
  print('milliseconds per step')
  print(tables.table(rows))


if __name__ == '__main__':
  main()
