import json

import jax
import numpy as np
import pytest


def planted(load, **changed):
  """Cases that clear every bar, unless a time is changed."""
  script, forms = load('bench_ode'), load('bench_ode_forms')
  timing = load('bench_attention_runs')
  times = {
    forms.OURS: 1.0,
    forms.STORED: 1.0,
    forms.HAND: 1.0,
    forms.DIFFRAX: 2.5,
    forms.TORCH: 30.0,
    script.EXPM: 4.0,
  } | changed
  samples = {
    name: [timing.Sample(t * s, t * s) for s in (1.0, 9.0, 1.1)]
    for name, t in times.items()
  }
  case = script.Case('case', samples)
  case.temporary_bytes = {forms.OURS: 10, forms.STORED: 130}
  flow = script.Case('flow', samples)
  flow.errors = {forms.OURS: 1e-6, script.EXPM: 1e-6}
  return {1: case, 64: case}, flow


def verdicts(load, **changed):
  rows = load('bench_ode').targets(*planted(load, **changed))
  return {row['bar']: row['met'] for row in rows}


def test_bars_that_are_cleared(load):
  found = verdicts(load)
  assert len(found) == 12
  assert all(found.values()), found


@pytest.mark.parametrize(
  ('form', 'time', 'missed'),
  [
    ('hand-written scan', 0.8, ['batch 1: time over', 'batch 64: time over']),
    ('diffrax', 1.9, ['batch 1: times faster', 'batch 64: times faster']),
    ('torchdiffeq', 20.0, ['batch 1: times faster']),
    ('general exponential', 2.0, ['flow of W: times faster']),
  ],
)
def test_bars_that_are_missed(load, form, time, missed):
  found = [
    bar for bar, met in verdicts(load, **{form: time}).items() if not met
  ]
  assert len(found) == len(missed)
  for bar, start in zip(found, missed, strict=True):
    assert bar.startswith(start)


def test_bars_without_measurements_are_open(load):
  script = load('bench_ode')
  rows = script.targets({1: script.Case('none')}, None)
  assert {row['met'] for row in rows} == {None}


def test_forms_agree_and_a_wrong_one_is_told(load):
  """All solve one equation; diffrax with a tableau of ours."""
  pytest.importorskip('diffrax')
  forms, script = load('bench_ode_forms'), load('bench_ode')
  sizes = forms.Sizes((3, 4, 3), 5)
  arguments = forms.inputs(sizes, 2)
  made = forms.jax_forms(sizes)
  expected = script._in_float64(made[forms.HAND], arguments)
  for name in (forms.OURS, forms.DIFFRAX):
    found = jax.jit(made[name])(*arguments)
    assert script.disagreement(found, expected) < 2e-5
  # One step fewer is another solution.
  fewer = forms.jax_forms(forms.Sizes((3, 4, 3), 2))[forms.OURS]
  case = script.Case('case')
  assert not script._accept(case, 'x', fewer(*arguments), expected)
  assert 'off by' in case.refused['x']
  bad = jax.tree.map(lambda x: x * np.nan, expected)
  assert not script._accept(case, 'y', bad, expected)


def test_writes_its_results(load, tmp_path, capsys):
  out = tmp_path / 'results' / 'ode.json'
  flags = (
    '--batches 1 --widths 3 4 3 --steps 3 --flow_width 4 --flow_steps 3 '
    f'--peers --rounds 2 --seconds 0 --out {out}'
  )
  load('bench_ode').main(flags.split())
  result = json.loads(out.read_text())
  assert result['name'] == 'ode'
  assert set(result) >= {'device', 'versions', 'load', 'rows', 'targets'}
  assert len(result['rows']) == 4
  assert min(row['ratio'] for row in result['rows']) > 0
  for row in result['forms']:
    assert row['compile_cpu_s'] > 0
    assert row['error'] < 1e-4
  assert 'bars' in capsys.readouterr().out


def test_bad_arguments_are_refused(load, capsys):
  with pytest.raises(SystemExit):
    load('bench_ode').main(['--widths', '3', '4'])
  assert 'as wide as it begins' in capsys.readouterr().err
