"""Compiled programs are dropped when a process has too many memory maps."""

import jax
import pytest

from runtime.devices import memory


@pytest.mark.parametrize(('most', 'left'), [(10**9, 1), (0, 0)])
def test_programs_are_forgotten_when_there_are_too_many_maps(
  monkeypatch, most, left
):
  program = jax.jit(lambda x: x + 1)
  program(1.0)
  monkeypatch.setattr(memory, '_MOST_MAPS', most)
  memory.forget_programs()
  assert program._cache_size() == left
