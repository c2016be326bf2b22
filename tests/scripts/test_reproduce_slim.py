import jax
import numpy as np
import pytest

from benchmarks import harness, programs
from benchmarks import slim_forms as forms
from tests.scripts.slim_row_cases import SEEDS, check_rows, noisy, one

MIB = 2**20


# Memory, FLOPs and time.


def records(*, leak=16, root=0.5, small=2.0, usual=1.3, falls=True):
  """Of `full` and two chunks, with exponents and times as given."""
  found = []

  def add(kind, chunk, length, memory, factor):
    form = forms.Form(kind, chunk)
    samples = [programs.Sample(factor * t, t) for t in (1.0, 1.1, 0.9) * 3]
    program = programs.Program(None, temporary_bytes=round(memory))
    case = forms.Case(length)
    found.append(harness.Measured(case, form, samples, program))

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
  found = memory.growth_finding(records(**options), 64)
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
  found = memory.time_findings(records(**options), 1024, len(SEEDS))
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
  lib = load('reproduce_slim_errors')
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
  lib = load('reproduce_slim_errors')
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
