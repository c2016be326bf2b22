import dataclasses
import json

import numpy as np
import pytest

MIB = 2**20
SIGMA = 3 * MIB // 64


def record(load, kind, chunk, length, memory, *, seconds=(), compile_s=2.0):
  forms, runs = load('bench_slim_forms'), load('bench_slim_runs')
  timing = load('bench_attention_runs')
  return runs.Record(
    forms.Form(kind, chunk),
    length,
    round(memory),
    compile_s,
    1000,
    planned_bytes=round(memory) * 2,
    samples=[timing.Sample(s, 2 * s) for s in seconds],
  )


def planted(load, *, leak=16.0, stored=1.0, full=100.0, slow=1.4, growth=0.0):
  """Records that clear every bar, unless a number is changed."""
  records = []
  for length in (2048, 4096, 16384, 65536):
    times = [1e-3 * length] * 3 if length <= 16384 else []
    if length <= 16384:
      memory = full * length / 1024 * MIB
      records.append(record(load, 'full', None, length, memory, seconds=times))
    for chunk in (64, 256):
      base = 4 * MIB * chunk / 64 + leak * length
      states = stored * SIGMA * length / chunk
      options = {
        'seconds': [slow * s for s in times],
        'compile_s': 2.0 * length**growth,
      }
      for kind, extra in (
        ('subtract', 0),
        ('anchored', 0.05 * states),
        ('checkpoint', states),
        ('checkpoint2', 0.1 * states),
      ):
        memory = base + extra
        records.append(record(load, kind, chunk, length, memory, **options))
  return records


def verdicts(load, **options):
  rows = load('bench_slim_targets').targets(planted(load, **options), SIGMA)
  return {row['bar']: row['met'] for row in rows}


def test_bars_that_are_cleared(load):
  found = verdicts(load)
  assert len(found) == 4 + 1 + 8 + 16
  assert all(found.values()), found


@pytest.mark.parametrize(
  ('options', 'named'),
  [
    ({'leak': 24.0}, 'subtract C=64, L > 2048: memory apart'),
    ({'leak': -16.0}, 'subtract C=64, L > 2048: memory apart'),
    ({'stored': 1.2}, 'checkpoint less subtract, C=64'),
    ({'stored': 0.8}, 'checkpoint less subtract, C=256'),
    ({'full': 15.0}, 'L=16384: times less memory than full'),
    ({'slow': 1.7}, 'subtract C=256: time over that of full'),
    ({'growth': 0.2}, 'time to compile, checkpoint: exponent of L'),
  ],
)
def test_bars_that_are_missed(load, options, named):
  found = verdicts(load, **options)
  assert [met for bar, met in found.items() if bar.startswith(named)] == [False]


def test_copies_of_inputs_explain_growth_up_to_a_limit(load):
  beyond = load('bench_slim_targets').beyond_inputs
  assert beyond(2000, 500 + 16 * 1000, 1000, 500) == 0
  assert beyond(2000, 500 + 17 * 1000, 1000, 500) == 1000
  assert beyond(2000, 500, 1000, 500) == 0
  assert beyond(2000, 400, 1000, 500) == -100


def test_bars_without_measurements_are_open(load):
  rows = load('bench_slim_targets').targets([], SIGMA)
  assert {row['met'] for row in rows} == {None}


def test_ratios_pair_the_turns(load):
  """A machine that slows down for a while slows both sides."""
  ours = record(load, 'subtract', 64, 64, 1, seconds=[2.0, 20.0, 2.0])
  peer = record(load, 'autodiff', None, 64, 3, seconds=[1.0, 10.0, 1.0, 0.5])
  (row,) = load('bench_slim_report').pair_rows([ours, peer])
  assert row['case'] == 'L=64, subtract C=64 against autodiff'
  assert (row['ours'], row['peer']) == (2000, 1000)
  assert row['ratio'] == row['cpu_ratio'] == 2
  assert row['memory'] == 3


def test_forms_that_make_no_sense_are_refused(load):
  form = load('bench_slim_forms').Form
  with pytest.raises(ValueError, match='kind must be one of'):
    form('half')
  for kind, chunk in (('full', 8), ('subtract', None)):
    with pytest.raises(ValueError, match='do not go together'):
      form(kind, chunk)


def test_sigma_is_the_size_of_the_states(load):
  """s M (d + h) numbers with M = d / h; arXiv:2012.11346."""
  forms = load('bench_slim_forms')
  sizes = forms.Sizes(512, 8, 3, 2048, 256)
  expected = 3 * 64 * (512 + 8) * 4
  assert forms.state_bytes(forms.build(sizes)) == expected
  random = dataclasses.replace(sizes, kernel='softmax_pos', random=2)
  assert forms.state_bytes(forms.build(random)) == 2 * expected


def test_a_wrong_gradient_is_refused(load, monkeypatch, quick_compiler):
  forms, runs = load('bench_slim_forms'), load('bench_slim_runs')
  monkeypatch.setattr(runs, 'CHECK_LENGTH', 16)
  reference = runs.Reference(forms.Sizes(8, 2, 1, 8, 7))
  right = forms.gradient(forms.Form('subtract', 8), reference.model)
  assert reference.disagreement(right) is None
  table = reference._grads['tokens']['embedding']

  def answer(loss, factor):
    grads = {**reference._grads, 'tokens': {'embedding': factor * table}}
    return lambda *arrays: (loss, grads, None)

  loss = reference._loss
  assert reference.disagreement(answer(loss, 1.0)) is None
  found = reference.disagreement(answer(loss, 1.01))
  assert found.startswith('gradient is off by')
  found = reference.disagreement(answer(np.nan, 1.0))
  assert found.startswith('loss is off by nan')


def test_writes_its_results(
  load, tmp_path, monkeypatch, capsys, quick_compiler
):
  script, runs = load('bench_slim'), load('bench_slim_runs')
  monkeypatch.setattr(runs, 'CHECK_LENGTH', 16)
  out = tmp_path / 'results' / 'slim.json'
  flags = (
    '--lengths 16 --chunks 8 --kinds subtract autodiff --sweep '
    '--sweep_length 16 --rounds 2 --seconds 0 '
    f'--width 8 --heads 2 --layers 1 --inner 8 --vocab 7 --out {out}'
  )
  script.main(flags.split())
  result = json.loads(out.read_text())
  assert result['name'] == 'slim'
  assert set(result) >= {'device', 'versions', 'load', 'rows', 'targets'}
  assert [row['case'] for row in result['rows']] == [
    'L=16, subtract C=8 against autodiff'
  ]
  assert min(result['rows'][0][k] for k in ('ours', 'peer', 'memory')) > 0
  measured = [(row['length'], row['form']) for row in result['forms']]
  assert measured == [(16, 'autodiff'), (16, 'subtract C=8')]
  assert [row['form'] for row in result['plans']] == ['subtract C=8']
  assert result['refused'] == []
  assert out.with_suffix('.png').stat().st_size > 10_000
  assert 'ours beside the peers' in capsys.readouterr().out


def test_bad_arguments_are_refused(load, capsys):
  script = load('bench_slim')
  for flags in (['--lengths', '0'], ['--chunks', '48'], ['--kinds', 'half']):
    with pytest.raises(SystemExit):
      script.main(flags)
  assert 'chunks must divide lengths' in capsys.readouterr().err
