"""The loop's turns stand beside those of the bare step."""

import jax
import numpy as np

from benchmarks import loop, programs


def test_step_does_the_products_it_is_asked_for():
  experiment = loop.make_experiment(3)
  batch = next(experiment.batches)
  state, collection = jax.jit(experiment.step)(experiment.init(), batch)
  expected = np.eye(loop.WIDTH)
  for _ in range(3):
    expected = np.tanh(expected @ np.eye(loop.WIDTH))
  np.testing.assert_allclose(state.matrix, expected + 1e-3, rtol=1e-5)
  np.testing.assert_allclose(
    collection.compute()['loss'],
    np.mean((batch['x'].astype(np.float64) @ expected) ** 2),
    rtol=1e-4,
  )


def test_turns_pair_the_steps_of_the_loop_with_the_bare_ones(monkeypatch):
  """A clock that only the test moves: 3 s a step of ours, 2 s of the peer."""
  clock = [0.0]

  class Peer:
    def run(self, steps):
      clock[0] += 2.0 * steps
      return programs.Sample(2.0, 2.0)

  for name in ('perf_counter', 'process_time'):
    monkeypatch.setattr(programs.time, name, lambda: clock[0])
  turns = loop.Turns(Peer())
  batches = loop.Batches()
  batches.on_turn = turns.next
  for _ in range(3 * loop.LOG_EVERY):
    next(batches)
    clock[0] += 3.0
  assert turns.ours == [programs.Sample(3.0, 3.0)] * 2
  assert turns.peer == [programs.Sample(2.0, 2.0)] * 2


def test_a_case_is_measured(quick, monkeypatch):
  monkeypatch.setattr(loop, 'calibrate', lambda target_s: 1)
  results, rows = quick(loop.SUBJECT)
  row = rows['step of 1 ms, loop against bare step']
  assert min(row.ours, row.peer, row.ratio) > 0
  assert len(results.get(loop.Case(1.0), 'loop').samples) == 2
