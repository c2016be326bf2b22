"""The supernet benchmark: forms agree, bars are read from measurements."""

import pytest

from benchmarks import harness, programs, rl_darts


def planted(case, name, seconds):
  samples = [programs.Sample(2 * seconds, seconds)]
  return harness.Measured(case, name, samples)


def test_bars():
  sizes = rl_darts.Sizes()
  case = rl_darts.Case(16, (16, 16), True)
  times = {'fused': 2.9, 'naive': 5.9, 'IMPALA': 1.0}
  results = harness.Results(
    [planted(case, name, seconds) for name, seconds in times.items()]
  )
  rows = {r.case: r for r in rl_darts.SUBJECT.summary(sizes, results)}
  faster = rows[f'{case}: times faster than naive']
  assert str(case) == '16x16, [16 16], gradient'
  assert str(faster.bar) == 'at least 2'
  assert faster.met()
  cost = rows[f'{case}: cost in units of IMPALA']
  assert str(cost.bar) == 'at most 3'
  assert cost.met()
  rate = rows[f'{case}, IMPALA: pictures per second']
  assert rate.ours == 0.5
  assert rate.bar is None


@pytest.mark.slow
def test_a_wrong_form_is_refused(monkeypatch):
  case = rl_darts.Case(6, (8,), False)
  right = rl_darts._program('naive', case, 2)
  assert rl_darts._check(case, right, 2) is None
  wrong = programs.Program(lambda *args: 1.01 * right.call(*args), right.inputs)
  assert 'off by 0.01' in rl_darts._check(case, wrong, 2)


@pytest.mark.slow
def test_a_case_is_measured(quick):
  subject = rl_darts.SUBJECT
  case = subject.cases(subject.quick)[1]
  results, rows = quick(subject, [case])
  assert not results.left_out
  assert rows[f'{case}: times faster than naive'].ours > 0
  assert rows[f'{case}, fused against IMPALA'].ratio > 0
