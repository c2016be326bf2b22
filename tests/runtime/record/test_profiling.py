"""Traces of early steps."""

import functools

import jax

from runtime.record import profiling


def test_traced_steps_are_waited_for(monkeypatch, tmp_path):
  """A trace that ends when they are dispatched has nothing of them."""
  seen = []
  for name in ('start_trace', 'stop_trace'):
    note = functools.partial(lambda name, *_: seen.append(name), name)
    monkeypatch.setattr(jax.profiler, name, note)
  monkeypatch.setattr(jax, 'block_until_ready', seen.append)
  profiler = profiling.Profiler(tmp_path, 2)
  for step in range(10):
    profiler.before_step(step, step)
  assert seen == [5, 'start_trace', 7, 'stop_trace']
