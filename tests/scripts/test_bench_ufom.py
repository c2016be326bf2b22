"""The UFOM benchmark: what is compared is equal, what is judged is right."""

import sys
from pathlib import Path

import numpy as np
import pytest

SCRIPTS = Path(__file__).parents[2] / 'scripts'


@pytest.fixture(scope='module')
def bench():
  sys.path.insert(0, str(SCRIPTS))
  try:
    import bench_ufom

    yield bench_ufom
  finally:
    sys.path.remove(str(SCRIPTS))


def samples(bench, *seconds):
  return [bench.runs.Sample(s, s) for s in seconds]


def test_a_wrong_gradient_is_refused(bench, monkeypatch):
  case = bench.forms.Case(1, bench._CHECK_STEPS)
  monkeypatch.setattr(
    bench,
    '_reference',
    lambda case: {'exact': np.ones(5), 'fom': np.full(5, 1.01)},
  )
  assert bench.agrees('store', {'x': np.ones(5)}, case)
  assert not bench.agrees('store', {'x': np.full(5, 1.01)}, case)
  assert bench.agrees('torch fom', {'x': np.full(5, 1.01)}, case)


def test_missing_peers_are_said(bench, monkeypatch):
  monkeypatch.setitem(sys.modules, 'torch', None)
  found = bench.check(['torch fom', 'torch exact'], 1)
  assert found == dict.fromkeys(found, 'not installed: torch')
  assert len(found) == 2


def test_bars(bench):
  case = bench.forms.Case(1, 50)
  records = {
    'fom': samples(bench, 1.0, 2.0, 3.0),
    'store_phi': samples(bench, 5.0, 6.0, 7.0),
    'recompute': samples(bench, 50.0),
    'ufom xi=0': samples(bench, 2.0),
    'ufom xi=1': samples(bench, 52.0),
    'torch fom': samples(bench, 4.0),
    'torch exact': samples(bench, 6.0),
  }
  memory = [
    {'form': 'fom', 'r': 8, 'bytes': 100},
    {'form': 'fom', 'r': 50, 'bytes': 120},
    {'form': 'store_phi', 'r': 50, 'bytes': 11e6},
    {'form': 'sqrt', 'r': 50, 'bytes': 13e6},
  ]
  pairs = bench.pair_rows(records, case)
  assert [row['ratio'] for row in pairs] == [0.5, 1.0]
  rows = {r['bar']: r for r in bench.bars(memory, {case: records}, pairs)}
  found = {name.split(',')[0]: row for name, row in rows.items()}
  assert rows['exact, r=50: MB of temporaries (the least mode)']['found'] == 11
  assert rows['exact, r=200: MB of temporaries (the least mode)']['met'] is None
  assert not rows['fom: memory at any r over the least']['met']
  assert rows['exact (store_phi) over fom, 1 shots, r=50']['found'] == 3
  ufom = rows['UFOM q=0.1 over recompute, wall, 1 shots, r=50']
  assert ufom['found'] == pytest.approx((0.9 * 2 + 0.1 * 52) / 50)
  assert ufom['met']
  assert found['fom beside torch fom']['met']
  assert not found['store_phi beside torch exact']['met']


@pytest.mark.slow
def test_all_of_ours_agree(bench):
  assert bench.check(list(bench.forms.FORMS), 1) == {}
