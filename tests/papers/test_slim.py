"""The rows of SLiM: what is measured and judged, at sizes of a second."""

import dataclasses

import jax
import numpy as np
import pytest

from benchmarks import slim_forms as forms
from papers import rows, running
from papers.slim import constant, curves, errors, memory, runs
from tests.papers import planted

SYSTEM = rows.find()['slim']
TINY = forms.build(forms.Sizes(8, 2, 1, 8, 16, norm='pre'))
SEEDS = 3


def noisy(value, seed=0):
  """A few percent around a value."""
  return value * planted.noisy(1.0, 0.03, seed, SEEDS)


@pytest.fixture
def quick_compiler():
  """These programs run once."""
  name = 'jax_disable_most_optimizations'
  before = jax.config.read(name)
  jax.config.update(name, True)
  yield
  jax.config.update(name, before)


# Memory, FLOPs and time.


def planned(setting, length, *, leak, root, falls):
  """Bytes: growth of inputs, exponent of the root, whether C matters."""
  if setting.kind == 'full':
    return 1e5 * length
  if setting.chunk == memory.ROOT:
    return 1e5 * length**root
  stored = 5e4 * length / setting.chunk * (setting.kind == 'checkpoint')
  return 2e3 * (setting.chunk if falls else 64) + leak * length + stored


@pytest.mark.parametrize(
  ('options', 'verdicts'),
  [
    ({}, ['holds', 'holds']),
    ({'leak': 200}, ['fails', 'holds']),
    ({'root': 0.95}, ['fails', 'holds']),
    ({'falls': False}, ['holds', 'fails']),
  ],
)
def test_memory_is_judged(options, verdicts):
  """Of subtraction: constant but for copies of inputs, and rising with C."""
  choice = {'leak': 16, 'root': 0.5, 'falls': True} | options
  both = (
    SYSTEM.rows['memory-against-length'],
    SYSTEM.rows['memory-against-chunk'],
  )
  study = both[0].at_scale('tiny')
  records = {
    (arm, n): {'bytes': planned(setting, n, **choice)}
    for arm, setting in study.arms.items()
    for n in study.at
  }
  found = dataclasses.replace(planted.results(study, records, 1), seeds=None)
  assert [planted.verdict(row, found) for row in both] == verdicts


@pytest.mark.parametrize(
  ('small', 'usual', 'verdict'),
  [(2.0, 1.3, 'holds'), (1.2, 1.3, 'fails'), (2.0, 1.7, 'fails')],
)
def test_time_is_judged(small, usual, verdict):
  row = SYSTEM.rows['time-against-chunk']
  study = row.at_scale('tiny')
  records = [
    {
      str(form): (small if form.chunk == 16 else usual) * (1 + 0.01 * i)
      for form in memory.FORMS
    }
    | {'seconds': 1.0}
    for i in range(SEEDS)
  ]
  found = planted.results(study, {'all': records}, SEEDS)
  assert planted.verdict(row, found) == verdict


@pytest.mark.parametrize(('two', 'verdict'), [(1.6, 'holds'), (2.0, 'fails')])
def test_flops_are_judged(two, verdict):
  row = SYSTEM.rows['flops']
  study = row.at_scale('tiny')
  values = {'subtract': 1.3, 'checkpoint': 1.35, 'checkpoint2': two, 'full': 1}
  records = {(k, 4096): {'FLOPs': 1e9 * v} for k, v in values.items()}
  found = dataclasses.replace(planted.results(study, records, 1), seeds=None)
  assert planted.verdict(row, found) == verdict


@pytest.mark.parametrize(
  ('options', 'verdict'),
  [
    ({}, 'holds'),
    ({'subtract L=131072 MiB': 4.0}, 'fails'),
    ({'checkpoint2 L=131072 MiB': 9.0}, 'fails'),
    ({'gap': 1e-3}, 'fails'),
  ],
)
def test_constant_memory_is_judged(options, verdict):
  (row,) = constant.ROWS
  sizes = dict.fromkeys(row.study.fixed, 1.0) | options
  gaps = noisy(sizes.pop('gap', 1e-6))
  records = {
    label: {'bytes': memory.MIB * size} for label, size in sizes.items()
  }
  (arm,) = row.study.arms
  records[arm] = [{'distance': gap} for gap in gaps]
  found = planted.results(row.study, records, SEEDS)
  assert planted.verdict(row, found) == verdict


# Precision.


def errors_of(row, usual=3e-7, **changed):
  """Drifts are as large as errors; changed ones by a part of their label."""
  records = {}
  for number, arm in enumerate(row.study.arms):
    value = next((v for k, v in changed.items() if k in arm), usual)
    records[arm] = [{'error': e, 'drift': e} for e in noisy(value, number)]
  return planted.results(row.study, records, SEEDS)


STRESSED = {
  'softmax_pos pre qk x6: subtract': 0.2,
  'softmax_pos pre bfloat16 qk x6: subtract': 0.2,
  'square post_branch spike x1000: subtract': 0.05,
  'square post_branch bfloat16 spike x1000: subtract': 0.05,
}


@pytest.mark.parametrize(
  ('name', 'changed', 'verdict'),
  [
    ('random', {'float64': 1e-15}, 'holds'),
    ('random', {'float64': 1e-15, 'elu1 pre: subtract': 2e-5}, 'fails'),
    ('random', {'float64': 1e-11}, 'fails'),
    ('chunk', {'C=1: subtract': 1e-6}, 'holds'),
    ('chunk', {'C=1: subtract': 1e-7}, 'fails'),
    ('chunk', {'C=1: subtract': 1e-6, 'C=1: checkpoint': 3e-6}, 'fails'),
    ('chunk', {'C=1: subtract': 1e-6, 'L=4096': 7e-6}, 'fails'),
    ('stress-float32', STRESSED, 'holds'),
    ('stress-float32', {'x6: subtract': 1e-4} | STRESSED, 'fails'),
    ('stress-float32', STRESSED | {'elu1': 1e-4}, 'fails'),
    ('stress-bfloat16', STRESSED, 'holds'),
    ('stress-bfloat16', STRESSED | {'x1: checkpoint': 1e-6}, 'fails'),
    ('wide-states', STRESSED, 'holds'),
    ('wide-states', {'x6: subtract': 1e-5} | STRESSED, 'fails'),
    ('wide-states', STRESSED | {'x1000: checkpoint': 0.1}, 'fails'),
  ],
)
def test_precision_is_judged(name, changed, verdict):
  row = SYSTEM.rows[f'precision-{name}']
  assert planted.verdict(row, errors_of(row, **changed)) == verdict


@pytest.mark.parametrize(
  ('drifts', 'verdict'),
  [((1e-6, 0.1), 'holds'), ((0.1, 0.1), 'fails'), ((1e-6, 1e-6), 'fails')],
)
def test_the_audit_is_judged(drifts, verdict):
  """A false alarm on a sound gradient fails, and so does a lost one missed."""
  row = SYSTEM.rows['precision-audit']
  records = {}
  for arm in row.study.arms:
    lost = arm.endswith('x6: subtract')
    error = 0.3 if lost else 4e-7
    records[arm] = [{'error': error, 'drift': drifts[lost]}] * SEEDS
  found = planted.results(row.study, records, SEEDS)
  assert planted.verdict(row, found) == verdict
  counts = row.ours(found)
  cases = sum(arm.endswith('subtract') for arm in row.study.arms)
  assert sum(counts.values()) == SEEDS * cases


def test_a_stress_changes_what_it_says():
  model = forms.build(forms.Sizes(8, 2, 1, 8, 7))
  plain = errors.Setting(model, forms.Form('full'), 16)
  change = dataclasses.replace
  params, _, _ = errors.stressed(plain, 0)
  sharp, _, _ = errors.stressed(change(plain, stress='qk', factor=6.0), 0)
  spike, batch, _ = errors.stressed(
    change(plain, stress='spike', factor=100.0), 0
  )
  inside = [p['blocks']['attention'] for p in (params, sharp)]
  for name in ('query', 'key'):
    for leaf in ('kernel', 'bias'):
      np.testing.assert_allclose(
        inside[1][name][leaf], 6 * inside[0][name][leaf]
      )
  np.testing.assert_array_equal(*(p['value']['kernel'] for p in inside))
  tables = [p['tokens']['embedding'] for p in (params, spike)]
  np.testing.assert_allclose(tables[1][6], 100 * tables[0][6])
  np.testing.assert_array_equal(tables[1][:6], tables[0][:6])
  assert np.argwhere(batch['tokens'] == 6).tolist() == [[0, 12]]
  assert np.argwhere(batch['targets'] == 6).tolist() == [[0, 11]]
  with pytest.raises(ValueError, match='stress must be'):
    change(plain, stress='none')


@pytest.mark.slow
def test_errors_are_those_of_the_gradient(monkeypatch, quick_compiler):
  model = forms.build(forms.Sizes(8, 2, 1, 8, 7))
  setting = errors.Setting(model, forms.Form('subtract', 4), 16)
  found = errors.run(setting, seed=0)
  assert 0 < found['error'] < 1e-5
  assert found['drift'] < 1e-5
  wide = dataclasses.replace(setting, wide=True)
  assert 0 < errors.run(wide, seed=0)['error'] < 1e-5
  true, _ = errors._gradient(setting, 0)
  monkeypatch.setattr(
    errors, '_expected', lambda *_: jax.tree.map(lambda x: 2 * x, true)
  )
  found = errors.run(setting, seed=0)
  assert found['error'] == pytest.approx(0.5, rel=1e-5)


# Training.


def trained(study, *, gap=1e-6, end=0.3):
  """Curves that part from FULL by a gap, half of it for FINE-TUNE."""
  records = {}
  for arm in study.arms:
    factor = {'FULL': 0, 'CONTROL': 2}.get(arm, 0.5 if 'FINE' in arm else 1)
    records[arm] = [
      {
        'train': np.linspace(3, end, 200) + factor * gap * (1 + 0.01 * seed),
        'steps': np.arange(50, 201, 50),
        'valid': np.linspace(3, end, 4) + 0.01 * seed,
        'accuracy': np.linspace(0.1, 0.9, 4),
      }
      for seed in range(SEEDS)
    ]
  records[curves.BASELINE] = {'bits': 2.0}
  return planted.results(study, records, SEEDS)


@pytest.mark.parametrize('task', curves.STUDIES)
@pytest.mark.parametrize(
  ('options', 'verdicts'),
  [
    ({}, ['holds', 'holds']),
    ({'gap': 3e-3}, ['fails', 'holds']),
    ({'end': 2.9}, ['holds', 'fails']),
  ],
)
def test_regimes_are_judged(task, options, verdicts):
  pair = [SYSTEM.rows[f'{task}-{what}'] for what in ('regimes-agree', 'learns')]
  study = pair[0].at_scale('tiny' if pair[0].has_scale('tiny') else 'paper')
  found = trained(study, **options)
  assert [planted.verdict(row, found) for row in pair] == verdicts


def test_one_late_difference_counts():
  found = trained(SYSTEM.rows['copying-learns'].at_scale('tiny'), gap=0.0)
  assert curves.gaps(found)['C=8'].tolist() == [0, 0, 0]
  records = found.records['C=8', None]
  records[1]['train'][150] += 0.5
  records[2]['valid'][-1] -= 0.25
  assert curves.gaps(found)['C=8'] == pytest.approx([0, 0.5, 0.25])


@pytest.mark.parametrize(('gap', 'verdict'), [(1e-7, 'holds'), (1e-5, 'fails')])
def test_jumps_are_judged(gap, verdict):
  row = SYSTEM.rows['switch-half-way']
  line = np.linspace(3, 1, row.study.arms['FULL'].steps)
  jumps = {'subtract': 1e-8, 'checkpoint': gap, 'checkpoint2': 1e-9}
  record = {f'jump {kind} C=64': value for kind, value in jumps.items()}
  record |= {'train': line}
  found = planted.results(
    row.study, {arm: [record] * SEEDS for arm in row.study.arms}, SEEDS
  )
  assert planted.verdict(row, found) == verdict


def small(**options):
  """A setting whose programs compile and run in seconds."""
  setting = SYSTEM.rows['copying-learns'].at_scale('tiny').arms['FULL']
  return dataclasses.replace(setting, model=TINY, steps=4, every=2, **options)


@pytest.mark.slow
def test_a_row_of_copying(tmp_path, quick_compiler):
  row = SYSTEM.rows['copying-regimes-agree']
  study = dataclasses.replace(
    runs.regimes(small(), (8,)), fixed=row.at_scale('tiny').fixed
  )
  written = planted.publish(SYSTEM, row, study, tmp_path)
  assert set(written.ours) == {'C=8', 'FINE-TUNE C=8', 'CONTROL'}
  assert max(max(values) for values in written.ours.values()) < 1e-5
  # It starts elsewhere, which rounding may hide from the four losses of a seed.
  assert max(written.ours['CONTROL']) > 0
  model = written.settings['C=8']['model']
  assert (model['attention']['kernel'], model['norm']) == ('square', 'pre')
  learnt = planted.publish(
    SYSTEM, SYSTEM.rows['copying-learns'], study, tmp_path
  )
  assert set(learnt.ours) == {'FULL', 'C=8', 'FINE-TUNE C=8', 'baseline'}
  # Nothing is learnt in four steps.
  assert learnt.verdict != 'holds'


@pytest.mark.slow
def test_a_run_that_switches_goes_on(quick_compiler):
  """Until half way it is FULL, bit for bit; after that with the next batches."""
  chunks = runs.slim_options.Slim('subtract', 8)
  form = forms.Form('subtract', 8)
  whole = runs.run(small(), seed=3)
  found = runs.run(small(second=chunks, probed=(form,)), seed=3)
  assert found['train'][:2] == whole['train'][:2]
  np.testing.assert_allclose(found['train'], whole['train'], rtol=1e-6)
  assert found['steps'] == whole['steps'] == [2, 4]
  assert found['jump subtract C=8'] < 1e-6


@pytest.mark.slow
def test_every_other_row_runs(tmp_path, monkeypatch, quick_compiler):
  chunks, lengths = (4, 8), (16, 32)
  monkeypatch.setattr(
    memory, 'FORMS', [forms.Form(k, c) for c in chunks for k in memory.KINDS]
  )
  options = running.Options(folder=tmp_path / 'parts', log=lambda text: None)
  plans = running.run(memory._plans(TINY, lengths), None, options)
  assert plans('full', 'bytes', at=32) > plans('full', 'bytes', at=16)
  turns = running.run(memory._turns(TINY, lengths), (0,), options)
  (record,) = turns.records['all', None]
  assert min(record.values()) > 0
  assert record['full'] == 1
  short = constant.study_of(forms.Sizes(8, 2, 1, 8, 7), 8, 32, 64)
  written = planted.publish(SYSTEM, constant.ROWS[0], short, tmp_path)
  assert max(written.ours[f'gradients apart, L={constant.LONG}']) < 1e-5
  row = SYSTEM.rows['switch-half-way']
  tiny = curves.switch_row(small())
  written = planted.publish(SYSTEM, tiny, tiny.study, tmp_path)
  assert row.id == written.id
