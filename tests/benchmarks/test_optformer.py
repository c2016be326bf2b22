"""The benchmark of OptFormer: what is compared suggests, what is judged is right."""

import sys

import numpy as np
import pytest

from benchmarks import harness, optformer, programs
from hpo.optformer import trained

CASE = optformer.Case(4, 50)


@pytest.mark.slow
def test_cases_are_measured(quick):
  results, rows = quick(optformer.SUBJECT, [optformer.Case(2, 5)], peers=False)
  timed = {m.form for m in results if m.samples}
  assert {*timed} >= {optformer.CACHED, optformer.UNCACHED, optformer.PRIOR}
  case = f'{optformer.CACHED} over {optformer.UNCACHED}, D=2, t=5: CPU time'
  assert rows[case].ours > 0


def test_known_points_are_refused():
  study = optformer._study(CASE)
  known = programs.Program(lambda: [study.trials[3].parameters])
  assert 'was tried before' in optformer.legal(CASE, known)
  fresh = programs.Program(
    lambda: [dict.fromkeys(study.problem.space.names, 1)]
  )
  assert optformer.legal(CASE, fresh) is None


def test_the_last_trial_is_no_extreme():
  values = optformer._study(CASE).values
  assert values[:-1].min() < values[-1] < values[:-1].max()
  longer = optformer._study(CASE, 2)
  np.testing.assert_array_equal(longer.values[:49], values[:49])


def test_what_is_missing_is_said(monkeypatch, tmp_path):
  monkeypatch.setitem(sys.modules, 'vizier.pyvizier', None)
  with pytest.raises(programs.MissingError, match='vizier'):
    optformer._vizier(True, CASE)
  monkeypatch.setattr(trained, 'SHIPPED', tmp_path / 'none')
  with pytest.raises(programs.MissingError, match='is missing'):
    optformer._model.__wrapped__(optformer.SHIPPED)


@pytest.mark.slow
@pytest.mark.parametrize('padded', [False, True])
def test_designers_of_vizier_suggest(padded):
  pytest.importorskip(
    'vizier._src.algorithms.designers.gp_bandit', reason='benchmarks/README.md'
  )
  case = optformer.Case(2, 3)
  assert optformer.legal(case, optformer._vizier(padded, case)) is None


def measured(case, form, seconds, ours=True):
  samples = [programs.Sample(2 * s, s) for s in seconds]
  return harness.Measured(case, form, samples, ours=ours)


def test_bars():
  results = harness.Results(
    [
      measured(CASE, optformer.UNCACHED, (0.1, 0.2, 0.3)),
      measured(CASE, optformer.CACHED, (0.05, 0.1, 0.15)),
      measured(CASE, optformer.GP, (4.0, 8.0, 12.0), ours=False),
      measured(optformer.BATCH, optformer.GP_UCB, (0.02,)),
    ]
  )
  wall, over, teacher, cached, _ = optformer.summary(optformer.Sizes(), results)
  assert (wall.ours, wall.met()) == (0.4, True)
  assert (over.ours, over.met()) == (pytest.approx(40), True)
  assert (teacher.ours, teacher.met()) == (0.02, True)
  assert cached.ours == pytest.approx(0.5)
  empty = list(optformer.summary(optformer.Sizes(), harness.Results()))
  assert [row.met() for row in empty] == [None] * 3
