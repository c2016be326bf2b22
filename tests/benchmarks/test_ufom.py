"""The UFOM benchmark: what is compared is equal, what is judged is right."""

import sys

import numpy as np
import pytest

from benchmarks import harness, programs, ufom
from benchmarks import ufom_forms as forms


def test_a_wrong_gradient_is_refused(monkeypatch):
  case = forms.Case(1, 4)
  expected = {'exact': np.ones(5), 'fom': np.full(5, 1.01)}
  monkeypatch.setattr(ufom, '_reference', lambda case: expected)
  assert ufom.differs('store', {'x': np.ones(5)}, case) is None
  found = ufom.differs('store', {'x': np.full(5, 1.01)}, case)
  assert found == 'gradient is off by 0.01, more than 0.0001'
  assert ufom.differs('torch fom', {'x': np.full(5, 1.01)}, case) is None
  assert ufom.differs('store', {'x': np.full(5, np.nan)}, case)


def test_missing_peers_are_said(monkeypatch):
  monkeypatch.setitem(sys.modules, 'torch', None)
  for name in ('torch fom', 'torch exact'):
    with pytest.raises(programs.MissingError, match='torch cannot be imported'):
      forms.peer(name, forms.Case(1, 4))


def measured(case, times, memory):
  return [
    harness.Measured(
      case,
      name,
      [programs.Sample(2 * s, s) for s in times.get(name, ())],
      programs.Program(None, temporary_bytes=memory.get(name)),
      ours=name in forms.FORMS,
    )
    for name in (*times, *(set(memory) - set(times)))
  ]


def test_bars():
  times = {
    'fom': (1.0, 2.0, 3.0),
    'store_phi': (5.0, 6.0, 7.0),
    'recompute': (50.0,),
    'ufom xi=0': (2.0,),
    'ufom xi=1': (52.0,),
    'torch fom': (2.0, 4.0, 6.0),
    'torch exact': (5.0, 6.0, 7.0),
  }
  results = harness.Results(
    [
      *measured(forms.Case(1, 8, False), {}, {'fom': 100}),
      *measured(
        forms.Case(1, 50, False),
        {},
        {'fom': 120, 'store_phi': 11e6, 'sqrt': 13e6},
      ),
      # More pictures need more memory at the same number of steps.
      *measured(forms.Case(5, 50), times, {'fom': 900}),
    ]
  )
  sizes = ufom.Sizes(shots=(5,))
  rows = {row.case: row for row in ufom.summary(sizes, results)}
  assert rows['exact, r=50: MB of temporaries (the least mode)'].ours == 11
  assert rows['exact, r=200: MB of temporaries (the least mode)'].met() is None
  assert rows['fom: memory at any r over the least'].ours == 1.2
  assert not rows['fom: memory at any r over the least'].met()
  assert rows['exact (store_phi) over fom, 5 shots, r=50'].ours == 3
  row = rows['UFOM q=0.1 over recompute, wall, 5 shots, r=50']
  assert row.ours == pytest.approx((0.9 * 2 + 0.1 * 52) / 50)
  assert row.met()
  assert rows['fom beside torch fom, 5 shots, r=50'].met()
  assert not rows['store_phi beside torch exact, 5 shots, r=50'].met()
  pairs = harness.rows(ufom.SUBJECT, sizes, results)['pairs']
  assert [row.ratio for row in pairs if 'torch' in row.case] == [0.5, 1.0]


@pytest.mark.slow
def test_all_of_ours_agree():
  case = forms.Case(1, 4)
  for name in forms.FORMS[:-1]:  # UFOM is made of two others.
    assert ufom.differs(name, forms.program(name, case).bound()(), case) is None
