import dataclasses
import json
import math

import numpy as np
import pytest


@pytest.fixture
def forms(load):
  return load('bench_attention_forms')


@pytest.fixture
def runs(load):
  return load('bench_attention_runs')


@pytest.fixture
def report(load):
  return load('bench_attention_report')


def small(forms, **options):
  sizes = {'heads': 2, 'width': 8, 'features': 16, **options}
  return forms.Case(
    **{'causal': False, 'backward': True, 'length': 32, **sizes}
  )


def definition(q, k, v, causal):
  """Numpy softmax attention, [b, l, h, d]."""
  logits = np.einsum('bihd,bjhd->bhij', q, k) / math.sqrt(q.shape[-1])
  weights = np.exp(logits)
  if causal:
    weights = np.tril(weights)
  weights /= weights.sum(-1, keepdims=True)
  return np.einsum('bhij,bjhv->bihv', weights, v)


@pytest.mark.parametrize(
  ('causal', 'names'),
  [(False, ('hyp', 'exact', 'identity')), (True, ('pos', 'exact'))],
)
def test_forms_agree_with_their_definitions(forms, runs, causal, names):
  case = small(forms, causal=causal)
  for name in names:
    assert runs.check(forms.make(name, case), case) is None, name


def test_exact_definition_is_softmax_attention(forms, runs):
  case = small(forms, causal=True)
  arrays = case.inputs(3, 1.0)
  found = runs._defined(forms.make('exact', case), True, arrays)[0]
  q, k, v = (x.astype(float) for x in arrays[:3])
  np.testing.assert_allclose(found, definition(q, k, v, True), rtol=1e-10)


@pytest.mark.parametrize(
  ('wrong', 'named'),
  [
    (lambda q, k, v, attend: 1.01 * attend(q, k, v), 'value'),
    # The right value whose gradient in k alone is wrong.
    (lambda q, k, v, attend: attend(q, _stop(k), v), 'gradient in k'),
    (lambda q, k, v, attend: attend(q, k, v) * np.nan, 'value'),
  ],
)
def test_a_wrong_form_is_refused(forms, runs, load, wrong, named, capsys):
  lib = load('bench_attention_lib')
  case = small(forms)
  right = forms.make('exact', case)

  def attend(causal):
    return lambda q, k, v: wrong(q, k, v, right.attend(causal))

  form = dataclasses.replace(right, name='wrong', attend=attend)
  accepted, refused = lib.accept({'right': right, 'wrong': form}, [case])
  assert list(accepted) == [('right', False)]
  assert [row['form'] for row in refused] == ['wrong']
  assert refused[0]['reason'].startswith(f'{named} is off by')
  assert 'not timed: wrong' in capsys.readouterr().out


def _stop(x):
  import jax

  return jax.lax.stop_gradient(x)


def test_a_wrong_form_is_not_timed(forms, load):
  lib = load('bench_attention_lib')
  case = small(forms, backward=False)
  right = forms.make('exact', case)
  bench = lib.Bench({('exact', False): right}, tiny(lib))
  bench.time(case)
  assert [r.form for r in bench.records] == [right.name]
  bench.time(dataclasses.replace(case, causal=True))
  assert len(bench.records) == 1


def tiny(lib):
  return lib.Settings(rounds=3, seconds=0.0, error_scales=(0.5,), matmul=32)


def test_error_is_that_against_softmax(forms, runs):
  case = small(forms, backward=False, length=40)
  run = runs.Run(forms.make('pos', case), case, scale=1.0)
  arrays = case.inputs(2, 0.5)
  exact = definition(*(x.astype(float) for x in arrays[:3]), False)
  gap = np.linalg.norm(run.apply(*arrays)[0] - exact) / np.linalg.norm(exact)
  assert runs.error(run, 0.5, rows=40) == pytest.approx(gap, rel=1e-4)
  exact_run = runs.Run(forms.make('exact', case), case, scale=1.0)
  assert runs.error(exact_run, 0.5) < 1e-6 < gap


def test_what_does_not_fit_is_left_out(forms, load):
  lib = load('bench_attention_lib')
  case = small(forms, backward=False)
  form = forms.make('exact', case)
  settings = dataclasses.replace(tiny(lib), memory_bytes=1)
  bench = lib.Bench({('exact', False): form}, settings)
  bench.time(case)
  assert not bench.records
  assert 'GiB' in bench.skipped[0]['reason']
  slow = dataclasses.replace(tiny(lib), call_seconds=1e-9)
  bench = lib.Bench({('exact', False): form}, slow)
  bench.time(case)
  bench.time(dataclasses.replace(case, length=64))
  assert len(bench.records) == 1
  assert 's a call' in bench.skipped[0]['reason']


def test_crossover_interpolates_on_logarithms(report):
  # Times L^2 against 100 L meet at 100, whatever lengths are measured.
  lengths = [16, 64, 256, 1024]
  ratios = [length / 100 for length in lengths]
  assert report.crossover(lengths, ratios) == pytest.approx(100)
  # Between two lengths, not at one of them.
  assert 64 < report.crossover(lengths, ratios) < 256


def test_crossover_at_the_ends_and_when_it_recurs(report):
  assert report.crossover([16, 32], [1.5, 2.0]) == 16
  assert report.crossover([16, 32], [0.5, 0.9]) is None
  # Ahead at 32, behind again at 64: only what lasts counts.
  assert report.crossover([32, 64, 128], [1.2, 0.5, 2.0]) == pytest.approx(
    64 * 2**0.5
  )
  with pytest.raises(ValueError, match='lengths must rise'):
    report.crossover([32, 16], [1.0, 2.0])


def test_slope_is_the_exponent(report):
  lengths = [256, 512, 2048]
  times = [3e-6 * length**1.7 for length in lengths]
  assert report.slope(lengths, times) == pytest.approx(1.7)
  with pytest.raises(ValueError, match='two points'):
    report.slope([256], [1.0])


def record(report, runs, forms, form, walls, **options):
  samples = [runs.Sample(wall, 2 * wall) for wall in walls]
  return report.Record(form, small(forms), samples=samples, **options)


def test_speedup_pairs_the_turns(report, runs, forms):
  """A machine that slows down for a while slows both sides of a ratio."""
  ours = record(report, runs, forms, 'ours pos', [1.0, 9.0, 1.0])
  peer = record(report, runs, forms, 'peer', [3.0, 27.0, 3.0, 50.0])
  assert report.speedup(ours, peer, 'wall') == pytest.approx(3.0)


def test_fraction_of_the_matmul_rate(report, runs, forms):
  matmul = [runs.Sample(0.5, 0.5)] * 2
  one = record(
    report, runs, forms, 'ours pos', [2.0, 2.0],
    flops=100.0, matmul=matmul, matmul_flops=50.0,
  )  # fmt: skip
  # 50 a second against 100 a second.
  assert one.matmul_fraction('wall') == pytest.approx(0.5)
  assert one.matmul_fraction('cpu') == pytest.approx(0.25)


def test_flops_of_linear_and_quadratic_forms(forms):
  case = forms.Case(False, False, 4096, heads=1)
  form = forms.make('pos', case)
  assert form.flops(case) == 8 * 4096 * 256 * 64
  both = dataclasses.replace(case, backward=True)
  # The two projections need one product each in the gradient, not two.
  assert form.flops(both) == (2 + 3) * 4 * 4096 * 256 * 64
  exact = forms.make('exact', case)
  assert exact.flops(case) == 4 * 4096**2 * 64
  causal = dataclasses.replace(case, causal=True)
  assert exact.flops(causal) == 2 * 4096**2 * 64


def test_peers_that_are_missing_are_said(forms, monkeypatch):
  monkeypatch.setattr(forms.importlib.util, 'find_spec', lambda name: None)
  case = small(forms)
  for name in ('torch', 'performer-pytorch', 'fla', 'recipe'):
    with pytest.raises(forms.MissingError):
      forms.make(name, case)
  with pytest.raises(ValueError, match='unknown form'):
    forms.make('flash', case)


def test_targets_decide_by_wall_clock(report, runs, forms, load):
  targets = load('bench_attention_targets')
  case = forms.Case(False, True, 4096)
  records = [
    report.Record('ours pos', case, samples=[runs.Sample(1.0, 1.0)]),
    report.Record('jax.nn exact', case, samples=[runs.Sample(14.0, 16.0)]),
  ]
  rows = targets.targets(report.Results(records), 'ours pos')
  measured = [row for row in rows if row['met'] is not None]
  assert len(measured) == 1
  assert measured[0]['wanted'] == 'at least 15'
  assert (measured[0]['wall'], measured[0]['cpu']) == (14.0, 16.0)
  assert not measured[0]['met']


def test_writes_its_results(load, tmp_path, capsys):
  script = load('bench_attention')
  out = tmp_path / 'results' / 'attention.json'
  flags = (
    '--lengths 16 32 --compile_lengths 64 --forms pos exact recipe --kinds '
    'bidirectional --heads 2 --width 8 --features 16 --rounds 3 --seconds 0 '
    f'--matmul 32 --error_scales 0.5 --out {out}'
  )
  script.main(flags.split())
  result = json.loads(out.read_text())
  assert result['name'] == 'attention'
  assert set(result) >= {'device', 'versions', 'load', 'rows'}
  cases = [
    f'bidirectional {what} L={length}, ours pos against jax.nn exact'
    for what in ('forward', 'forward+backward')
    for length in (16, 32)
  ]
  assert [row['case'] for row in result['rows']] == cases
  for row in result['rows']:
    assert row['ratio'] == pytest.approx(1 / row['speedup'])
    assert min(row['ours'], row['peer'], row['memory']) > 0
    assert 0 < row['error_0.5'] < 3
  compiled = [row for row in result['forms'] if 'wall_ms' not in row]
  assert [row['case'] for row in compiled] == [
    'bidirectional forward+backward L=64'
  ]
  assert result['missing'][0]['form'] == 'recipe'
  assert out.with_suffix('.png').stat().st_size > 10_000
  printed = capsys.readouterr().out
  assert 'left out: recipe: needs --recipe=PATH' in printed
  assert 'error_0.5' in printed


def test_bad_arguments_are_refused(load, capsys):
  script = load('bench_attention')
  for flags in (['--lengths', '0'], ['--forms', 'flash'], ['--kinds', 'both']):
    with pytest.raises(SystemExit):
      script.main(flags)
  assert 'lengths must be positive' in capsys.readouterr().err
