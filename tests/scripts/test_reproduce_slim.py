import dataclasses
import importlib
import pathlib
import sys

import jax
import numpy as np
import pytest

from runtime import ledger

SCRIPTS = pathlib.Path(__file__).parents[2] / 'scripts'
SEEDS = range(3)
MIB = 2**20
COMMON = {
  'paper': 'paper',
  'scale': 'tiny',
  'hardware': 'none',
  'command': 'none',
  'commit': '0' * 7,
  'minutes': 0.0,
}


@pytest.fixture(scope='module')
def load():
  sys.path.insert(0, str(SCRIPTS))
  yield importlib.import_module
  sys.path.remove(str(SCRIPTS))


@pytest.fixture
def quick_compiler():
  """These programs run once."""
  name = 'jax_disable_most_optimizations'
  before = jax.config.read(name)
  jax.config.update(name, True)
  yield
  jax.config.update(name, before)


def check_rows(found, seeds, folder):
  """Findings make rows of the ledger, and those that hold pictures."""
  for finding in found:
    row = ledger.Row(seeds=tuple(seeds), **finding.fields, **COMMON)
    ledger.write(row, folder)
    if row.verdict != 'fails':  # Pictures take most of the time.
      path = folder / f'{row.id}.png'
      finding.draw(path)
      assert path.stat().st_size > 5_000
  return {finding.fields['id']: finding.fields for finding in found}


def one(finding, folder):
  (fields,) = check_rows([finding], SEEDS, folder).values()
  return fields['verdict']


def noisy(value, seed=0):
  """A value for each seed, a few percent around it."""
  rng = np.random.default_rng(seed)
  return tuple(value * (1 + 0.03 * rng.standard_normal(len(SEEDS))))


# Memory, FLOPs and time.


def records(load, *, leak=16, root=0.5, small=2.0, usual=1.3, falls=True):
  """Of `full` and two chunks, with exponents and times as given."""
  forms, runs = load('bench_slim_forms'), load('bench_slim_runs')
  timing = load('bench_attention_runs')
  found = []

  def add(kind, chunk, length, memory, factor):
    form = forms.Form(kind, chunk)
    samples = [timing.Sample(factor * t, t) for t in (1.0, 1.1, 0.9) * 3]
    found.append(
      runs.Record(form, length, round(memory), 1.0, 10, None, samples)
    )

  for length in (1024, 4096, 16384):
    add('full', None, length, 100e3 * length, 1.0)
    for chunk, factor in ((16, small), (64, usual)):
      memory = 60e3 * (chunk if falls else 16) + leak * length
      add('subtract', chunk, length, memory, factor)
      add('checkpoint', chunk, length, memory + 5e4 * length / chunk, factor)
    if length != 1024:  # 2 sqrt(1024) is 64.
      add('checkpoint', 2 * round(length**0.5), length, 1e5 * length**root, 1)
  return found


@pytest.mark.parametrize(
  ('options', 'verdict'),
  [({}, 'holds'), ({'leak': 200}, 'fails'), ({'root': 0.95}, 'fails')],
)
def test_growth_of_memory_is_judged(load, tmp_path, options, verdict):
  memory = load('reproduce_slim_memory')
  found = memory.growth_finding(records(load, **options), 64)
  assert one(found, tmp_path) == verdict


@pytest.mark.parametrize(
  ('options', 'verdicts'),
  [
    ({}, ['holds', 'holds']),
    ({'small': 1.2}, ['holds', 'fails']),
    ({'usual': 1.7}, ['holds', 'fails']),
    ({'falls': False}, ['fails', 'holds']),
  ],
)
def test_memory_and_time_against_chunk_are_judged(
  load, tmp_path, options, verdicts
):
  memory = load('reproduce_slim_memory')
  found = memory.time_findings(records(load, **options), 1024, len(SEEDS))
  rows = check_rows(found, SEEDS, tmp_path)
  assert [row['verdict'] for row in rows.values()] == verdicts


@pytest.mark.parametrize(('two', 'verdict'), [(1.6, 'holds'), (2.0, 'fails')])
def test_flops_are_judged(load, tmp_path, two, verdict):
  memory = load('reproduce_slim_memory')
  found = {'subtract': 1.3, 'checkpoint': 1.35, 'checkpoint2': two}
  assert one(memory.flops_finding(found, 'here'), tmp_path) == verdict


@pytest.mark.parametrize(
  ('options', 'verdict'),
  [
    ({}, 'holds'),
    ({'long': 3 * MIB}, 'fails'),
    ({'two': 9 * MIB}, 'fails'),
    ({'gap': 1e-3}, 'fails'),
  ],
)
def test_constant_memory_is_judged(load, tmp_path, options, verdict):
  numbers = {'long': MIB + 16 * 1000, 'two': 2 * MIB, 'gap': 1e-6} | options
  memory = {
    'subtract': [MIB, numbers['long']],
    'checkpoint2': [MIB, numbers['two']],
  }
  finding = load('reproduce_slim_constant').constant_finding(
    memory, noisy(numbers['gap']), (1000, 2000), 64
  )
  assert one(finding, tmp_path) == verdict


# Precision.


def table(load, rows):
  """Errors by case; drifts are as large as the error of `subtract`."""
  found = load('reproduce_slim_errors').Found
  return {
    case: {
      kind: found(noisy(error), noisy(error) if kind == 'subtract' else ())
      for kind, error in row.items()
    }
    for case, row in rows.items()
  }


def row(subtract, safe=3e-7):
  return {'full': safe, 'subtract': subtract, 'checkpoint': safe}


STRESSED = {
  'softmax_pos pre qk x1': row(3e-7),
  'softmax_pos pre qk x6': row(0.2),
  'square post_branch spike x1000': row(0.05),
  'elu1 post_branch spike x1000': row(1e-5),
}


@pytest.mark.parametrize(
  ('changed', 'verdict'),
  [
    ({}, 'holds'),
    ({'elu1 pre': row(2e-5)}, 'fails'),
    ({'square float64': row(1e-11, 1e-16)}, 'fails'),
  ],
)
def test_random_parameters_are_judged(load, tmp_path, changed, verdict):
  rows = {'elu1 pre': row(3e-7), 'square float64': row(1e-15, 1e-16)} | changed
  precision = load('reproduce_slim_precision')
  found = precision.random_finding(table(load, rows))
  assert one(found, tmp_path) == verdict


@pytest.mark.parametrize(
  ('least', 'stored', 'long', 'verdict'),
  [
    (1e-6, 3e-7, 7e-7, 'holds'),
    (1e-7, 3e-7, 7e-7, 'fails'),
    (1e-6, 3e-6, 7e-7, 'fails'),
    (1e-6, 3e-7, 7e-6, 'fails'),
  ],
)
def test_errors_over_chunks_are_judged(
  load, tmp_path, least, stored, long, verdict
):
  of_chunk = {
    'C=1': {'subtract': least, 'checkpoint': stored},
    'C=64': {'subtract': 3e-7, 'checkpoint': 3e-7},
  }
  of_length = {'L=512': {'subtract': 3e-7}, 'L=4096': {'subtract': long}}
  found = load('reproduce_slim_precision').chunk_finding(
    table(load, of_chunk), table(load, of_length)
  )
  assert one(found, tmp_path) == verdict


@pytest.mark.parametrize(
  ('changed', 'verdict'),
  [
    ({}, 'holds'),
    ({'softmax_pos pre qk x6': row(1e-4)}, 'fails'),
    ({'elu1 post_branch spike x1000': row(1e-5, 1e-4)}, 'fails'),
  ],
)
def test_stress_is_judged(load, tmp_path, changed, verdict):
  precision = load('reproduce_slim_precision')
  found = precision.stress_finding(table(load, STRESSED | changed), 'float32')
  assert one(found, tmp_path) == verdict


@pytest.mark.parametrize(
  ('changed', 'verdict'),
  [
    ({}, 'holds'),
    ({'softmax_pos pre qk x6': row(1e-5)}, 'fails'),
    ({'square post_branch spike x1000': row(0.1, 0.1)}, 'fails'),
  ],
)
def test_wide_states_are_judged(load, tmp_path, changed, verdict):
  precision = load('reproduce_slim_precision')
  rows = dict(list(STRESSED.items())[1:]) | changed
  finding = precision.wide_finding(table(load, rows))
  assert one(finding, tmp_path) == verdict


@pytest.mark.parametrize(
  ('drifts', 'verdict'),
  [((1e-6, 1e-2), 'holds'), ((1e-2, 1e-2), 'fails'), ((1e-6, 1e-6), 'fails')],
)
def test_the_audit_is_judged(load, tmp_path, drifts, verdict):
  """A false alarm on a sound gradient fails, and so does a lost one missed."""
  lib = load('reproduce_slim_errors')
  sound, lost = (
    {
      'subtract': lib.Found(noisy(error), noisy(value)),
      'checkpoint': lib.Found(noisy(3e-7)),
    }
    for error, value in zip((4e-7, 0.3), drifts, strict=True)
  )
  finding = load('reproduce_slim_precision').audit_finding(
    [{'sound': sound, 'lost': lost}]
  )
  assert one(finding, tmp_path) == verdict
  counts = finding.fields['ours']
  assert sum(values[0] for values in counts.values()) == 2 * len(SEEDS)


def test_a_stress_changes_what_it_says(load):
  forms, lib = load('bench_slim_forms'), load('reproduce_slim_errors')
  sizes = forms.Sizes(8, 2, 1, 8, 7)
  plain, _, _ = lib._arrays(lib.Case(sizes, 16), 0)
  sharp, _, _ = lib._arrays(lib.Case(sizes, 16, 'qk', 6.0), 0)
  spike, batch, _ = lib._arrays(lib.Case(sizes, 16, 'spike', 100.0), 0)
  inside = [p['blocks']['attention'] for p in (plain, sharp)]
  for name in ('query', 'key'):
    for leaf in ('kernel', 'bias'):
      np.testing.assert_allclose(
        inside[1][name][leaf], 6 * inside[0][name][leaf]
      )
  np.testing.assert_array_equal(*(p['value']['kernel'] for p in inside))
  tables = [p['tokens']['embedding'] for p in (plain, spike)]
  np.testing.assert_allclose(tables[1][6], 100 * tables[0][6])
  np.testing.assert_array_equal(tables[1][:6], tables[0][:6])
  assert np.argwhere(batch['tokens'] == 6).tolist() == [[0, 12]]
  assert np.argwhere(batch['targets'] == 6).tolist() == [[0, 11]]


@pytest.mark.slow
def test_errors_are_those_of_the_gradient(load, monkeypatch, quick_compiler):
  forms, lib = load('bench_slim_forms'), load('reproduce_slim_errors')
  case = lib.Case(forms.Sizes(8, 2, 1, 8, 7), 16)
  found = lib.measure(case, [forms.Form('subtract', 4)], (0, 1))['subtract']
  assert len(found.errors) == len(found.drifts) == 2
  assert 0 < max(found.errors) < 1e-5
  assert max(found.drifts) < 1e-5
  monkeypatch.setattr(
    lib, '_expected', lambda case, seed: jax.tree.map(lambda x: 2 * x, true)
  )
  true = lib._compiled(case.sizes, forms.Form('subtract', 4))(
    *lib._arrays(case, 0)
  )[1]
  found = lib.measure(case, [forms.Form('subtract', 4)], (0,))['subtract']
  assert found.errors == pytest.approx((0.5,), rel=1e-5)


# Training.


def curves(load, *, gap=1e-6, end=0.3):
  training = load('reproduce_slim_training')
  found = {}
  for name, factor in (
    ('FULL', 0),
    ('C=8', 1),
    ('FINE-TUNE C=8', 0.5),
    ('CONTROL', 2),
  ):
    found[name] = []
    for seed in SEEDS:
      train = np.linspace(3, end, 200) + factor * gap * (1 + 0.01 * seed)
      valid = np.linspace(3, end, 4) + 0.01 * seed
      found[name].append(
        training.Curve(train, np.arange(50.0, 201, 50), valid, 1 - valid / 4)
      )
  return found


@pytest.mark.parametrize(
  ('options', 'verdicts'),
  [
    ({}, ['holds', 'holds']),
    ({'gap': 3e-3}, ['fails', 'holds']),
    ({'end': 2.9}, ['holds', 'fails']),
  ],
)
def test_regimes_are_judged(load, tmp_path, options, verdicts):
  findings = load('reproduce_slim_curves').regime_findings(
    'task', curves(load, **options), baseline=2.0, explanation='None.'
  )
  rows = check_rows(findings, SEEDS, tmp_path)
  assert [row['verdict'] for row in rows.values()] == verdicts


def test_one_late_difference_counts(load):
  lib = load('reproduce_slim_curves')
  found = curves(load, gap=0.0)
  assert lib.overlay(found, 'C=8') == (0, 0, 0)
  found['C=8'][1].train[150] += 0.5
  assert lib.overlay(found, 'C=8') == pytest.approx((0, 0.5, 0))
  found['C=8'][2].valid[-1] -= 0.25
  assert lib.overlay(found, 'C=8') == pytest.approx((0, 0.5, 0.25))


@pytest.mark.parametrize(('gap', 'verdict'), [(1e-7, 'holds'), (1e-5, 'fails')])
def test_jumps_are_judged(load, tmp_path, gap, verdict):
  found = curves(load)
  finding = load('reproduce_slim_switch').switch_finding(
    {'subtract C=4': noisy(1e-8), 'checkpoint C=4': noisy(gap)},
    list(zip(found['FULL'], found['C=8'], strict=True)),
    8,
    'None.',
  )
  assert one(finding, tmp_path) == verdict


def small(load, **options):
  """A setting whose programs compile and run in seconds."""
  setting = load('reproduce_slim_curves').copying_setting('tiny')
  sizes = load('bench_slim_forms').Sizes(8, 2, 1, 8, 16, norm='pre')
  fields = {'steps': 4, 'every': 2, 'eval_batches': 1, **options}
  return dataclasses.replace(setting, sizes=sizes, **fields)


@pytest.mark.slow
def test_copying_runs_in_all_regimes(load, tmp_path, quick_compiler):
  lib = load('reproduce_slim_curves')
  findings = lib.copying_rows('paper', (0, 1), setting=small(load))
  rows = check_rows(findings, (0, 1), tmp_path)
  assert len(rows) == 2
  agree = rows['copying-regimes-agree']
  assert max(max(values) for values in agree['ours'].values()) < 1e-5
  # It starts elsewhere.
  assert min(agree['ours']['CONTROL']) > 0
  learnt = rows['copying-learns']
  assert set(learnt['ours']) == {'FULL', 'C=8', 'FINE-TUNE C=8', 'baseline'}
  # Nothing is learnt in four steps.
  assert learnt['verdict'] != 'holds'
  longer = lib.long_copying_rows('tiny', (0,), setting=small(load))
  assert {f.fields['id'] for f in longer} == {
    'copying-128-regimes-agree',
    'copying-128-learns',
  }


@pytest.mark.slow
def test_a_run_that_continues_is_the_run(load, quick_compiler):
  """Two halves from the state between them are the whole, bit for bit."""
  training, forms = load('reproduce_slim_training'), load('bench_slim_forms')
  setting = small(load)
  form, start = forms.Form('full'), training.begin(setting, 3)
  _, whole = training.train(setting, form, start, 3, (0, 4))
  middle, first = training.train(setting, form, start, 3, (0, 2))
  _, second = training.train(setting, form, middle, 3, (2, 4))
  joined = first.joined(second)
  for field in dataclasses.fields(whole):
    np.testing.assert_array_equal(
      getattr(joined, field.name), getattr(whole, field.name)
    )
  assert whole.steps.tolist() == [2, 4]


def test_published_settings(load, tmp_path):
  lib = load('reproduce_slim_curves')
  with pytest.raises(ValueError, match='ptb needs files'):
    lib.text_setting(lib.Corpus('ptb', 'train.txt'))
  setting = lib.text_setting(lib.Corpus('ptb', 'a.txt', 'b.txt'))
  assert setting.data.max_length == 1023
  assert setting.chunks == (512, 256)
  setting = lib.text_setting(lib.Corpus('enwik8', 'enwik8'))
  assert setting.data.byte_ranges['valid'] == (90_000_000, 95_000_000)
  assert lib.copying_setting('paper').drop_at == 10_000


def test_arguments_that_do_not_fit_are_refused(load, capsys):
  main = load('reproduce_slim').main
  for flags in (
    ['text', '--scale', 'paper'],
    ['text', '--corpus', 'ptb'],
    ['copying', '--train_file', 'x'],
  ):
    with pytest.raises(SystemExit):
      main(flags)
  assert 'files are for the row text' in capsys.readouterr().err


@pytest.mark.slow
def test_every_other_row_runs(load, tmp_path, quick_compiler):
  forms, curves_lib = load('bench_slim_forms'), load('reproduce_slim_curves')
  sizes = forms.Sizes(8, 2, 1, 8, 16)
  rows = load('reproduce_slim_memory').memory_rows(
    'tiny', (0, 1), sizes=sizes, lengths=(32, 64), chunks=(8, 16)
  )
  rows += load('reproduce_slim_constant').constant_rows(
    'tiny', (0, 1), lengths=(32, 64), chunk=8
  )
  rows += load('reproduce_slim_precision').precision_rows(
    'tiny',
    (0, 1),
    kernels=('square',),
    lengths=(32, 64),
    chunks=(4, 8),
    stresses=(('softmax_pos', 'pre', 'qk', (1.0, 6.0)),),
    widths=(16, 16),
  )
  text = curves_lib.text_setting(curves_lib.Corpus())
  text = dataclasses.replace(
    text,
    sizes=forms.Sizes(8, 2, 1, 8, 256),
    steps=4,
    every=2,
    eval_batches=1,
  )
  copying = curves_lib.copying_rows('tiny', (0, 1), setting=small(load))
  wide = next(f for f in copying if 'float64' in f.fields['id'])
  assert 0 < max(map(max, wide.fields['ours'].values())) < 1e-12
  rows += curves_lib.text_rows('tiny', (0, 1), setting=text)
  rows += load('reproduce_slim_switch').switch_rows(
    'tiny', (0, 1), setting=text
  )
  assert len(check_rows(rows, (0, 1), tmp_path)) == 4 + 1 + 6 + 2 + 1
