"""Growth with a length for each seed, and the places where there are numbers."""

import numpy as np
import pytest

from papers import figures, rows, scaling
from papers import study as study_lib
from tests.papers import planted, toy_study

LENGTHS = (2, 4, 8)


def test_exponents_and_crossovers_are_those_of_each_seed():
  factors = np.array([1.0, 3.0])
  linear = {n: factors * n for n in LENGTHS}
  square = {n: np.array([n**2.0, n**3.0]) / 4 for n in LENGTHS}
  np.testing.assert_allclose(scaling.exponents(linear), 1)
  np.testing.assert_allclose(scaling.exponents(square), [2, 3])
  np.testing.assert_allclose(scaling.exponents(square, 4, 8), [2, 3])
  # n^2 / 4 = n at 4, and n^3 / 4 = 3 n at sqrt(12).
  np.testing.assert_allclose(
    scaling.crossovers(linear, square), [4, np.sqrt(12)]
  )
  assert scaling.crossovers({n: 9 * linear[n] for n in LENGTHS}, linear) == [
    16.0,
    16.0,
  ]


def _results():
  study = study_lib.Study(toy_study.measure, {'a': 1, 'b': 2}, at=LENGTHS)
  records = {
    (arm, at): [
      {'ms': arm_factor * at + seed} | ({'MiB': 1.0} if at < 8 else {})
      for seed in range(4)
    ]
    for arm, arm_factor in (('a', 1), ('b', 10))
    for at in LENGTHS
  }
  return planted.results(study, records)


def test_tables_leave_out_places_without_a_metric():
  found = rows.table(
    _results(),
    'MiB',
    'ms',
    arms=['b'],
    names={'ms': 'time'},
    form='{arm} {at}: {metric}',
    factor=2.0,
  )
  assert list(found) == [
    *('b 2: MiB', 'b 4: MiB'),
    *('b 2: time', 'b 4: time', 'b 8: time'),
  ]
  np.testing.assert_array_equal(found['b 8: time'], [160, 162, 164, 166])
  with pytest.raises(KeyError, match="no 'GiB' of 'a'"):
    rows.table(_results(), 'GiB')


def test_panels_by_place_and_texts():
  found = _results()
  assert found.told('.3g', 'ms', at=2) == 'a 3.5, b 21.5'
  assert found.told('g', 'ms', at=2, arms=['a'], mean=np.max) == 'a 5'
  memory, time = figures.by_place(
    {name: found.by_place('a', name) for name in ('MiB', 'ms')}, unit=0.5
  ).lines
  np.testing.assert_array_equal(memory.x, (2, 4))
  np.testing.assert_array_equal(time.y[3], [10, 14, 22])
  single = figures.by_place({'one': {1: 3.0, 2: 4.0}}).lines[0]
  assert len(single.runs()) == 1
