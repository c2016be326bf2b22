import dataclasses

import numpy as np
import pytest

from benchmarks import slim_forms as forms
from tests.scripts.slim_row_cases import SEEDS, check_rows, noisy, one


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
  sizes = forms.Sizes(8, 2, 1, 8, 16, norm='pre')
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
  training = load('reproduce_slim_training')
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
  curves_lib = load('reproduce_slim_curves')
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
  assert 'at 0.003.' in copying[-1].fields['explanation']
  rows += curves_lib.text_rows('tiny', (0, 1), setting=text)
  rows += load('reproduce_slim_switch').switch_rows(
    'tiny', (0, 1), setting=text
  )
  assert len(check_rows(rows, (0, 1), tmp_path)) == 4 + 1 + 6 + 2 + 1
