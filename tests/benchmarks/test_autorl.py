"""Populations beside single agents: the same number of steps on all sides."""

import jax
import numpy as np
import pytest

from benchmarks import autorl, harness, programs


def test_sides_are_set_beside_the_population(monkeypatch):
  made = []

  def fake(name):
    def make(sizes, count):
      made.append((name, count))
      return programs.Program(lambda: None, units=count)

    return make

  for name in ('population', 'alone', 'processes'):
    monkeypatch.setattr(autorl, name, fake(name))
  sizes = autorl.Sizes(members=(2, 3))
  settings = programs.Settings(rounds=1, pause=0.0)
  results = harness.run(
    autorl.SUBJECT, sizes, settings, sizes.members, peers=True
  )
  assert made == [
    (name, count)
    for count in (2, 3)
    for name in ('population', 'alone', 'processes')
  ]
  assert {row['form'] for row in results.left_out} == {'purejaxrl'}
  pairs = harness.rows(autorl.SUBJECT, sizes, results)['pairs']
  assert len(pairs) == 4


@pytest.mark.slow
def test_all_sides_make_as_many_steps():
  sizes = autorl.SUBJECT.quick
  sides = [autorl.population, autorl.alone, autorl.processes]
  built = [side(sizes, 2) for side in sides]
  assert {program.units for program in built} == {2 * 2 * 4 * 128}
  scores, one, two = (program.bound()() for program in built)
  assert scores.shape == (2, 2)
  np.testing.assert_allclose(jax.device_get(one), two, rtol=1e-5)
