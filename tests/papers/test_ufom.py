"""The rows of UFOM: what is measured and judged, at sizes of a second."""

import dataclasses
import functools

import numpy as np
import pytest

from hpo import ufom
from hpo.ufom.tasks import class_sets, networks
from hpo.ufom.tasks import performer_rates as rates_lib
from papers import rows
from papers.ufom import (
  adaptive,
  fewshot,
  hypercleaning,
  memory,
  rates,
  synthetic,
)
from runtime.data import images as images_lib
from tests.papers import planted

SYSTEM = rows.find()['ufom']
publish = functools.partial(planted.publish, SYSTEM)


def with_arms(study, **changes):
  arms = {
    arm: dataclasses.replace(setting, **changes)
    for arm, setting in study.arms.items()
  }
  return dataclasses.replace(study, arms=arms)


def test_constants_are_the_tabulated_ones():
  for alpha, D2, V2, stored, recomputed in (
    (0.001, 0.7859, 3708.28, 0.0107, 0.0093),
    (0.01, 53.212, 2229.32, 0.1100, 0.1119),
    (0.05, 232.12, 273.27, 0.8461, 1),
  ):
    found = synthetic.predict(alpha)
    np.testing.assert_allclose((found['D2'], found['V2']), (D2, V2), rtol=1e-4)
    q = [v for name, v in found.items() if name.startswith('q*')]
    np.testing.assert_allclose(q, (stored, recomputed), atol=1e-4)
  best = synthetic.best_q(0.01, p=0.5, stored=True)
  assert round(best, 4) == synthetic.PREDICTED_Q


def test_the_row_of_constants(tmp_path):
  row = SYSTEM.rows['constants-against-alpha']
  assert publish(row, row.study, tmp_path, seeds=None).verdict == 'holds'


def test_cost_to_a_target_lies_between_records():
  cost, square = np.array([100.0, 200, 400]), np.array([1.0, 0.5, 0.125])
  # Power laws between records: (0.25 / 0.5) = (cost / 200)^-2.
  np.testing.assert_allclose(
    adaptive.cost_to(cost, square, 0.25), 200 * np.sqrt(2), rtol=1e-6
  )
  np.testing.assert_allclose(adaptive.cost_to(cost, square, 0.125), 400)
  assert adaptive.cost_to(cost, square, 1.0) == 100


@pytest.mark.parametrize(
  ('few', 'moved', 'share', 'expected'),
  [
    (0.90, 0.0, 0.1, 'holds'),
    (0.85, 0.0, 0.1, 'fails'),  # Below exact.
    (0.90, 1.0, 0.1, 'fails'),  # First order moves the logits.
    (0.90, 0.0, 0.3, 'fails'),  # Not cheap.
  ],
)
def test_hypercleaning_is_judged(few, moved, share, expected):
  study = hypercleaning.STUDY['tiny']
  accuracy = dict.fromkeys(study.arms, 0.9)
  accuracy |= {'FOM': 0.8, 'UFOM q=0.1': few}
  spent = dict.fromkeys(study.arms, 1.0) | {'UFOM q=0.1': share}
  found = planted.results(
    study,
    {
      arm: [
        {
          'accuracy': [0.5, a],
          'valid_loss': [2.0, 1.0],
          'auc': [0.5, 0.9],
          'gradients': [0.5 * spent[arm], spent[arm]],
          'moved': moved,
          'q': 0.5,
          'ratio': 1.0,
        }
        for a in planted.noisy(accuracy[arm], 1e-3)
      ]
      for arm in study.arms
    },
  )
  clean, adapt = hypercleaning.ROWS
  assert planted.verdict(clean, found) == expected
  # The rule spends what exact gradients do, and UFOM less.
  assert planted.verdict(adapt, found) == ('fails' if share < 0.9 else 'holds')


def test_a_rule_that_never_gets_there_fails():
  study = hypercleaning.STUDY['tiny']
  ends = dict.fromkeys(study.arms, 1.0) | {'adaptive': 1.1}
  record = {'gradients': [1.0, 2.0], 'q': 0.5, 'ratio': 1.0}
  record |= {'accuracy': [0.5, 0.6]}
  found = planted.results(
    study,
    {arm: [record | {'valid_loss': [2, ends[arm]]}] * 4 for arm in study.arms},
  )
  assert planted.verdict(hypercleaning.ROWS[1], found) == 'fails'


@pytest.mark.parametrize(
  ('ends', 'expected'),
  [
    ({}, 'holds'),
    ({'FOM': 0.75}, 'fails'),
    ({'exact': 0.65}, 'fails'),
    ({'exact': 0.69}, 'holds'),
  ],
)
def test_few_shot_is_judged(ends, expected):
  row = SYSTEM.rows['fewshot-digits']
  study = row.at_scale('tiny')
  ends = dict.fromkeys(study.arms, 0.7) | {'FOM': 0.5} | ends
  found = planted.results(
    study,
    {
      arm: [
        {'accuracy': [0.1, a], 'gradients': [1, 2], 'q': 0.3, 'ratio': 0.4}
        for a in planted.noisy(ends[arm], 1e-3)
      ]
      for arm in study.arms
    },
  )
  assert planted.verdict(row, found) == expected
  assert 'mean q of 0.300, and D/V of 0.40' in row.explain(found)


def test_memory_is_judged():
  (row,) = memory.ROWS
  slopes = {'store': 0.09, 'store_phi': 0.085, 'sqrt': 0.01}

  def verdict(**changes):
    found = planted.results(
      row.study,
      {
        (arm, r): {'MB': 1 + (slopes | changes).get(arm, 0) * r}
        for arm in row.study.arms
        for r in memory.STEPS
      },
      seeds=1,
    )
    return planted.verdict(row, dataclasses.replace(found, seeds=None))

  assert verdict() == 'holds'
  assert verdict(FOM=0.001) == 'fails'
  assert verdict(recompute=0.001) == 'fails'
  assert verdict(store=0.07) == 'fails'


def test_memory_is_measured():
  found = [memory.measure('store_phi', at=r)['MB'] for r in (8, 32)]
  assert found[1] - found[0] > 0.9 * 24 * 0.08


def judged(name, record_of):
  """The verdict of a row about planted records of its arms, by seed."""
  row = SYSTEM.rows[name]
  study = row.at_scale('tiny')
  records = {
    arm: [record_of(arm, setting, seed) for seed in range(4)]
    for arm, setting in study.arms.items()
  }
  records |= {label: {'bits': 5.5} for label in study.fixed}
  return planted.verdict(row, planted.results(study, records))


@pytest.mark.parametrize(
  ('first', 'factor', 'expected'),
  [(0.346, 1.0, 'holds'), (0.30, 1.0, 'fails'), (0.346, 1.3, 'fails')],
)
def test_divergence_is_judged(first, factor, expected):
  def record(arm, setting, seed):
    limit = setting.tasks.predicted(setting.q, synthetic.STEP, setting.steps)
    square = factor * limit
    slope = first if arm == 'q=0' else np.sqrt(square)
    last = square * planted.noisy(1.0, 1e-3, seed, 50)
    curve = {'square': [square], 'rms': [np.sqrt(square)], 'step': [1.0]}
    return curve | {'last': last, 'slope': slope + 1e-4 * seed}

  assert judged('divergence', record) == expected


@pytest.mark.parametrize(
  ('middle', 'expected'), [(0.1, 'holds'), (0.5, 'fails'), (0.9, 'fails')]
)
def test_the_predicted_q_is_judged(middle, expected):
  """Beside 0.8 of first order and 0.3 of exact gradients."""
  ends = {'q=0': 0.8, 'q=0.11': middle, 'q=1': 0.3}

  def record(arm, setting, seed):
    noise = 1 + 0.01 * seed + 0.001 * len(arm) * seed
    square = np.full(200, ends[arm] * noise)
    return {'square': square, 'cost': setting.at * synthetic.price(setting.q)}

  assert judged('q-curves', record) == expected


@pytest.mark.parametrize(('power', 'expected'), [(1, 'holds'), (-1, 'fails')])
def test_the_scan_is_judged(power, expected):
  def record(arm, setting, seed):
    return {'q': setting.alpha**power + 1e-3 * seed}

  assert judged('q-against-alpha', record) == expected


@pytest.mark.parametrize(
  ('factor', 'expected'), [(1.05, 'holds'), (1.3, 'fails'), (0.5, 'holds')]
)
def test_the_adaptive_rule_is_judged(factor, expected):
  """Beside the best fixed q, whose cost is 1."""
  costs = {'q=0.05': 1.0, 'adaptive': factor}

  def record(arm, setting, seed):
    cost = costs.get(arm, 2.0) * (1 + 0.001 * seed)
    return {'cost': [0.5 * cost, cost], 'square': [1.0, 0.1], 'q': [0.1, 0.2]}

  assert judged('adaptive-toy', record) == expected


@pytest.mark.parametrize(('bits', 'expected'), [(5, 'holds'), (6, 'fails')])
def test_learnt_rates_are_judged(bits, expected):
  def record(arm, setting, seed):
    rates = {f'rate_{g}': [0.1] * 3 for g in rates_lib.GROUPS}
    return rates | {'bits': [6.0, 5.5, bits + 0.01 * seed]}

  assert judged('performer-rates', record) == expected


@pytest.mark.slow
def test_synthetic_rows(tmp_path):
  for name, changes in (
    ('divergence', {'runs': 20, 'steps': 100, 'records': 10}),
    ('q-curves', {'runs': 5, 'steps': 200}),
    ('q-against-alpha', {'starts': 5, 'steps': 10, 'num_q': 4}),
  ):
    row = SYSTEM.rows[name]
    study = with_arms(row.at_scale('tiny'), **changes)
    written = publish(row, study, tmp_path)
    assert {len(values) for values in written.ours.values()} == {2}


@pytest.mark.slow
def test_the_adaptive_row(tmp_path, monkeypatch):
  sizes = {'runs': 20, 'steps': 60, 'records': 6}
  small = dataclasses.replace(adaptive._fixed(1.0), **sizes)
  monkeypatch.setattr(
    adaptive, '_fixed', lambda q: dataclasses.replace(small, q=q)
  )
  (row,) = adaptive.ROWS
  arms = {'q=1': small, 'adaptive': ufom.AdaptiveRule(r=10)}
  study = dataclasses.replace(row.study, arms=arms)
  ours = publish(row, study, tmp_path).ours
  # A first-order step costs 11, an exact one 66.
  for name, (low, high) in {'q=1': (66, 66), 'adaptive': (11, 66)}.items():
    assert all(10 * low <= cost <= 60 * high for cost in ours[name])


def pictures():
  def part(count, seed):
    rng = np.random.default_rng(seed)
    return images_lib.ImageSet(
      images=rng.random((count, 2, 2)).astype(np.float32),
      labels=rng.integers(2, size=count).astype(np.int32),
    )

  return images_lib.Images(train=part(40, 0), test=part(9, 1), num_classes=2)


@pytest.mark.slow
def test_hypercleaning_rows(tmp_path):
  study = hypercleaning.studies(
    hypercleaning.Setting(pictures, num_train=20, r=3, steps=4, rate=1.0)
  )
  first, _ = (publish(row, study, tmp_path) for row in hypercleaning.ROWS)
  assert first.ours['exact: gradients'] == (4 * 10.0,) * 2
  assert len(list((tmp_path / 'runs').iterdir())) == 10  # Shared by both rows.


def classes():
  rng = np.random.default_rng(0)
  images = rng.integers(0, 256, (30, 3, 3, 1), dtype=np.uint8)
  found = class_sets.ClassSet(images, np.arange(30) // 5)
  return class_sets.ClassSplit(found, found)


@pytest.mark.slow
def test_a_few_shot_row(tmp_path):
  small = {'eval_tasks': 5, 'gradients': 600, 'r': 2, 'tasks': 2}
  setting = fewshot.Setting(classes, networks.MLP(3, widths=(4,)), **small)
  study = fewshot._study(setting, more=True, choose=True)
  written = publish(SYSTEM.rows['fewshot-digits'], study, tmp_path)
  assert set(written.ours) >= {'FOM', 'adaptive', 'exact'}
  assert 'Short runs with seeds (1000, 1001) chose the' in written.explanation
  assert written.settings['adaptive']['q']['r'] == 2


@pytest.mark.slow
def test_the_row_of_rates(tmp_path):
  family = rates._family()
  sizes = {'max_length': 8, 'd_model': 8, 'd_ff': 8, 'num_layers': 1}
  family = dataclasses.replace(
    family,
    model=family.model.clone(num_heads=1, **sizes),
    inner_steps=2,
    batch_size=2,
    start=0.3,
  )
  study = rates.studies(rates.Setting(family, steps=3), grid=(0.1, 0.3))
  (row,) = rates.ROWS
  ours = publish(row, study, tmp_path).ours
  assert 4 < ours['initial rates'][0] < 12
  # The grid has the initial rates.
  assert ours['best single rate'][0] <= ours['initial rates'][0]
  assert all(rate != 0.3 for rate in ours['rate of head'])


def test_data_are_named_in_the_settings():
  study = SYSTEM.rows['fewshot-emoji'].at_scale('paper')
  loader = study.arms['FOM'].pictures
  assert isinstance(loader, functools.partial)
  assert loader.args == ('data/emoji.npz',)
