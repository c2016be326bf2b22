"""Neural ODEs: all forms solve one equation, and bars need both clocks."""

import jax
import numpy as np
import pytest

from benchmarks import harness, ode, programs

SIZES = ode.Sizes()


def planted(**changed):
  """Results that clear every bar, unless a time is changed."""
  times = {
    ode.OURS: 1.0,
    ode.STORED: 1.0,
    ode.HAND: 1.0,
    ode.DIFFRAX: 2.5,
    ode.TORCH: 30.0,
    ode.EXPM: 4.0,
  } | changed
  memory = {ode.OURS: 10, ode.STORED: 130}
  return harness.Results(
    harness.Measured(
      ode.Case(batch, SIZES),
      name,
      [programs.Sample(t * s, t * s) for s in (1.0, 9.0, 1.1)],
      programs.Program(
        None, temporary_bytes=memory.get(name), extras={'error': 1e-6}
      ),
    )
    for batch in (1, 64, 0)
    for name, t in times.items()
  )


def verdicts(results):
  return {row.case: row.met() for row in ode.summary(SIZES, results)}


def test_bars_that_are_cleared():
  found = verdicts(planted())
  assert len(found) == 12
  assert all(found.values()), found


@pytest.mark.parametrize(
  ('form', 'time', 'missed'),
  [
    ('hand-written scan', 0.8, ['batch 1: time over', 'batch 64: time over']),
    ('diffrax', 1.9, ['batch 1: times faster', 'batch 64: times faster']),
    ('torchdiffeq', 20.0, ['batch 1: times faster']),
    ('general exponential', 2.0, ['flow of W: times faster']),
  ],
)
def test_bars_that_are_missed(form, time, missed):
  found = [
    bar for bar, met in verdicts(planted(**{form: time})).items() if not met
  ]
  assert len(found) == len(missed)
  for bar, start in zip(found, missed, strict=True):
    assert bar.startswith(start)


def test_one_clock_is_not_enough():
  results = planted()
  slow = [programs.Sample(1.0, 1.5)]
  case = ode.Case(1, SIZES)
  results.add([harness.Measured(case, ode.OURS, slow)])
  assert verdicts(results)['batch 1: time over that of a scan by hand'] is False


def test_bars_without_measurements_are_open():
  assert set(verdicts(harness.Results()).values()) == {None}


@pytest.mark.slow
def test_forms_agree_and_a_wrong_one_is_told():
  """All solve one equation; diffrax with a tableau of ours."""
  pytest.importorskip('diffrax')
  case = ode.Case(2, ode.Sizes((2,), (3, 4, 3), 5))
  made = ode.solutions(case)
  for name in (ode.OURS, ode.DIFFRAX):
    function, arguments = made[name]
    assert ode.error(case, jax.jit(function)(*arguments)) < 2e-5
  # Fewer steps are another solution.
  fewer = ode.solutions(ode.Case(2, ode.Sizes((2,), (3, 4, 3), 2)))[ode.OURS]
  gap = ode.error(case, fewer[0](*fewer[1]))
  check = ode.SUBJECT.forms(case.sizes, case)[0].check
  wrong = lambda gap: check(case, programs.Program(None, extras={'error': gap}))
  assert wrong(gap).startswith('result is off by')
  assert wrong(np.nan).startswith('result is off by nan')
  assert wrong(1e-5) is None


@pytest.mark.slow
def test_cases_are_measured(quick):
  results, rows = quick(ode.SUBJECT)
  pairs = [case for case in rows if ' against ' in case]
  assert len(pairs) == 4
  assert min(rows[case].ratio for case in pairs) > 0
  assert max(m.program.extras['error'] for m in results) < 1e-4


def test_a_field_ends_as_wide_as_it_begins():
  with pytest.raises(ValueError, match='as wide as it begins'):
    ode.Sizes(widths=(3, 4))
