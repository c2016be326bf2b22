"""The scripts of the UFOM rows, at sizes of a second."""

import dataclasses
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from hpo.ufom.tasks import class_sets, few_shot, networks
from runtime.data import images as images_lib

SCRIPTS = Path(__file__).parents[2] / 'scripts'


@pytest.fixture(scope='module')
def script():
  sys.path.insert(0, str(SCRIPTS))
  try:
    import reproduce_ufom

    yield reproduce_ufom
  finally:
    sys.path.remove(str(SCRIPTS))


def written(finding, path):
  finding.draw(path / 'picture.png')
  assert (path / 'picture.png').exists()
  return finding.fields


def test_constants_are_the_tabulated_ones(script, tmp_path):
  for alpha, D2, V2, stored, recomputed in (
    (0.001, 0.7859, 3708.28, 0.0107, 0.0093),
    (0.01, 53.212, 2229.32, 0.1100, 0.1119),
    (0.05, 232.12, 273.27, 0.8461, 1),
  ):
    np.testing.assert_allclose(
      script.synthetic.constants(alpha), (D2, V2), rtol=1e-4
    )
    q = [
      script.synthetic.best_q(alpha, p=p, stored=s)
      for p, s in ((0.5, True), (2.0, False))
    ]
    np.testing.assert_allclose(q, (stored, recomputed), atol=1e-4)
  row = written(script.synthetic._constants_finding(), tmp_path)
  assert row['verdict'] == 'holds'


@pytest.mark.slow
def test_synthetic_rows(script, tmp_path):
  (row,) = script.synthetic.divergence_rows('tiny', (0, 1), runs=20, steps=100)
  assert len(written(row, tmp_path)['ours']['q=0']) == 2
  rows = script.synthetic.q_rows(
    'tiny', (0, 1), steps=200, starts=5, scan=(3, 4, 10)
  )
  for row in rows:
    assert written(row, tmp_path)['verdict']


def test_cost_to_a_target_lies_between_records(script):
  curve = script.adaptive.Curve(
    np.array([100.0, 200, 400]), np.array([1.0, 0.5, 0.125]), np.ones(3)
  )
  # Power laws between records: (0.25 / 0.5) = (cost / 200)^-2.
  np.testing.assert_allclose(
    script.adaptive._cost(curve, 0.25), 200 * np.sqrt(2), rtol=1e-6
  )
  np.testing.assert_allclose(script.adaptive._cost(curve, 0.125), 400)
  assert script.adaptive._cost(curve, 1.0) == 100


@pytest.mark.slow
def test_adaptive_rows(script, tmp_path):
  (row,) = script.adaptive.adaptive_rows(
    'tiny', (0, 1), runs=20, steps=60, records=6
  )
  fields = written(row, tmp_path)
  # A first-order step costs 11, an exact one 66.
  for name, (low, high) in {'q=1': (66, 66), 'adaptive': (11, 66)}.items():
    assert all(10 * low <= cost <= 60 * high for cost in fields['ours'][name])


def part(count, seed):
  rng = np.random.default_rng(seed)
  return images_lib.ImageSet(
    images=rng.random((count, 2, 2)).astype(np.float32),
    labels=rng.integers(2, size=count).astype(np.int32),
  )


@pytest.mark.slow
def test_hypercleaning_rows(script, tmp_path):
  images = images_lib.Images(train=part(40, 0), test=part(9, 1), num_classes=2)
  sizes = script.hypercleaning.Setting(
    images, num_train=20, r=3, steps=4, rate=1.0
  )
  rows = script.hypercleaning.hypercleaning_rows('tiny', (0, 1), sizes=sizes)
  first, second = (written(row, tmp_path) for row in rows)
  assert first['ours']['exact: gradients'] == (4 * 10.0,) * 2
  assert second['id'] == 'adaptive-hypercleaning'


@pytest.mark.slow
def test_fewshot_rows(script, tmp_path):
  rng = np.random.default_rng(0)
  images = rng.integers(0, 256, (30, 3, 3, 1), dtype=np.uint8)
  classes = class_sets.ClassSet(images, np.arange(30) // 5)
  family = few_shot.FewShot(
    class_sets.ClassSplit(classes, classes),
    networks.MLP(3, widths=(4,)),
    eval_tasks=5,
  )
  sizes = script.fewshot.Setting(
    'x', family, 0.1, (0.1, 0.0), 600, r=2, tasks=2
  )
  (row,) = script.fewshot.fewshot_rows('tiny', (0, 1), sizes=sizes)
  fields = written(row, tmp_path)
  assert fields['id'] == 'fewshot-x'
  assert set(fields['ours']) >= {'FOM', 'adaptive', 'exact'}
  assert 'outer step chosen by seeds (1000, 1001)' in fields['explanation']


@pytest.mark.slow
def test_rates_rows(script, tmp_path):
  usual = script.rates.setting()
  sizes = {'max_length': 8, 'd_model': 8, 'd_ff': 8, 'num_layers': 1}
  family = dataclasses.replace(
    usual.family,
    model=usual.family.model.clone(num_heads=1, **sizes),
    inner_steps=2,
    batch_size=2,
    start=0.3,
  )
  sizes = dataclasses.replace(usual, family=family, steps=3, grid=(0.1, 0.3))
  (row,) = script.rates.rates_rows('tiny', (0, 1), sizes=sizes)
  ours = written(row, tmp_path)['ours']
  assert 4 < ours['initial rates'][0] < 12
  # The grid has the initial rates.
  assert ours['best single rate'][0] <= ours['initial rates'][0]
  assert all(rate != 0.3 for rate in ours['rate of head'])


def test_memory_rows_are_written(script, tmp_path, monkeypatch):
  monkeypatch.setattr(
    script.memory,
    'temporary_bytes',
    lambda gradient, r: (
      1_000_000 + 90_000 * r
      if getattr(gradient, 'keywords', {}).get('mode', '').startswith('store')
      else 1_000_000
    ),
  )
  script.main(['memory', f'--root={tmp_path / "results"}'])
  row = json.loads(
    (tmp_path / 'results/2106.02487/memory-against-r.json').read_text()
  )
  assert row['verdict'] == 'holds'
  assert row['command'].startswith('python scripts/reproduce_ufom.py memory')


def test_files_belong_to_their_rows(script, capsys):
  with pytest.raises(SystemExit):
    script.main(['memory', '--mnist=somewhere'])
  assert '--mnist is for the row hypercleaning' in capsys.readouterr().err
