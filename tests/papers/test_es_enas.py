"""The rows of ES-ENAS: what is measured and judged, at sizes of a second."""

import dataclasses

import numpy as np
import pytest

from nas.es_enas import controllers, edges, partitions, scores, sharing
from papers import rows
from papers.es_enas import costs, hybrid, runs, theory
from rl.envs import pendulum
from tests.papers import planted

SYSTEM = rows.find()['es_enas']


def _row(name):
  return SYSTEM.rows[name]


@pytest.mark.parametrize(
  ('chromatic', 'random', 'verdict'),
  [(160, 0, 'holds'), (120, 0, 'fails'), (160, 168, 'fails')],
)
def test_compression_is_judged(chromatic, random, verdict):
  row = _row('swimmer-compression')
  study = row.at_scale('tiny')
  final = {'ES-ENAS, evolution': chromatic, 'random at every direction': random}
  records = {
    arm: [
      {'returns': [0.0, v], 'level': v, 'final': v, 'parameters': 6, 'bits': 9}
      for v in planted.noisy(final.get(arm, 170), 2.0, i)
    ]
    for i, arm in enumerate(study.arms)
  }
  found = planted.results(study, records)
  assert planted.verdict(row, found) == verdict


def _small(**settings):
  return runs.Setting(
    **{
      'env': pendulum.Pendulum,
      'sharing': sharing.Dense(),
      'generations': 2,
      'pairs': 4,
      'hidden': (2,),
      'episodes': 2,
    }
    | settings
  )


@pytest.mark.slow
def test_a_run_of_plain_es_and_one_of_a_controller_take_the_same_steps():
  plain = runs.run(_small(sharing=partitions.RandomPartition(2)), seed=1)
  found = runs.run(
    _small(sharing=partitions.Partition(2), controller=controllers.Evolution),
    seed=1,
  )
  assert plain['steps'] == found['steps'] == 2 * 8 * 200
  assert plain['parameters'] == found['parameters'] == 4
  assert found['compression'] == pytest.approx(1 - 4 / 10)
  assert np.isfinite([found['level'], found['final'], *found['returns']]).all()


@pytest.mark.slow
def test_a_masked_policy_is_judged_by_the_edges_that_it_keeps():
  found = runs.run(
    _small(
      sharing=edges.Masked(),
      controller=controllers.Random,
      score=scores.Mixed(2),
      keep=3,
    ),
    seed=0,
  )
  assert found['edges'] == found['weights'] == 3
  assert np.isfinite(found['final'])


def test_accounts_are_those_of_the_paper():
  found = costs.count(
    costs.Sizes(sharing.Toeplitz(), (41,)), at='HalfCheetah, Walker2d'
  )
  assert (found['weights'], found['bits']) == (103, 4608)
  assert found['compression'] == pytest.approx(0.854, abs=5e-4)


@pytest.mark.slow
def test_methods_of_a_hybrid_problem_improve_on_random_search():
  setting = hybrid.Setting(
    'Sphere',
    3,
    hybrid.METHODS['random'],
    categories=3,
    evaluations=1000,
    pairs=10,
  )
  random, *_ = hybrid.run(setting, seeds=(0,))
  for name in ('ES-ENAS, evolution', 'evolution, Gaussian'):
    method = dataclasses.replace(setting, method=hybrid.METHODS[name], step=1.0)
    one, two = hybrid.run(method, seeds=(0, 1))
    assert np.all(np.diff(one['best']) <= 0)
    assert one['last'] < random['last']
    assert one['last'] != two['last']


def test_theory_is_measured_against_its_forms():
  found = theory.improvement(theory.Improvement(20, 8, trials=400), seed=0)
  assert found['es'] == pytest.approx(1, abs=0.2)
  assert found['mutation'] < 1
  for paired in (True, False):
    setting = theory.Pairing(paired, dimension=3, pairs=8, trials=2000)
    found = theory.pairing(setting, seed=0)
    assert found['ratio'] == pytest.approx(1, abs=0.15)
