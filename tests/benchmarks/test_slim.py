import dataclasses

import numpy as np
import pytest

from benchmarks import harness, programs, slim
from benchmarks import slim_bars as bars
from benchmarks import slim_forms as forms

MIB = 2**20
SIGMA = 3 * MIB // 64


def measured(kind, chunk, length, memory, *, seconds=(), compile_s=2.0):
  samples = [programs.Sample(s, 2 * s) for s in seconds]
  program = programs.Program(
    None,
    temporary_bytes=round(memory),
    compile_s=compile_s,
    extras={'instructions': 1000},
  )
  form = forms.Form(kind, chunk)
  return harness.Measured(forms.Case(length), form, samples, program, form.ours)


def planted(*, leak=16.0, stored=1.0, full=100.0, slow=1.4, growth=0.0):
  """Results that clear every bar, unless a number is changed."""
  found = []
  for length in (2048, 4096, 16384, 65536):
    times = [1e-3 * length] * 3 if length <= 16384 else []
    if length <= 16384:
      memory = full * length / 1024 * MIB
      found.append(measured('full', None, length, memory, seconds=times))
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
        found.append(measured(kind, chunk, length, base + extra, **options))
  return harness.Results(found)


def verdicts(results):
  rows = bars.summary((64, 256), SIGMA, results)
  return {row.case: row.met() for row in rows}


def test_bars_that_are_cleared():
  found = verdicts(planted())
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
def test_bars_that_are_missed(options, named):
  found = verdicts(planted(**options))
  assert [met for bar, met in found.items() if bar.startswith(named)] == [False]


def test_copies_of_inputs_explain_growth_up_to_a_limit():
  assert bars.beyond_inputs(2000, 500 + 16 * 1000, 1000, 500) == 0
  assert bars.beyond_inputs(2000, 500 + 17 * 1000, 1000, 500) == 1000
  assert bars.beyond_inputs(2000, 500, 1000, 500) == 0
  assert bars.beyond_inputs(2000, 400, 1000, 500) == -100


def test_bars_without_measurements_are_open():
  assert set(verdicts(harness.Results()).values()) == {None}


def test_ours_stands_beside_the_peers_and_full():
  results = harness.Results(
    [
      measured('subtract', 64, 64, 1, seconds=[2.0]),
      measured('full', None, 64, 2, seconds=[1.0]),
      measured('autodiff', None, 64, 3, seconds=[1.0]),
    ]
  )
  rows = harness.rows(slim.SUBJECT, slim.SUBJECT.sizes, results)['pairs']
  assert [row.case for row in rows] == [
    'L=64, subtract C=64 against full',
    'L=64, subtract C=64 against autodiff',
    'L=64, full against autodiff',
  ]
  assert [row.ratio for row in rows] == [2, 2, 1]
  assert rows[1].extras['memory_ratio'] == 1 / 3


def test_long_lengths_have_no_whole_forms_and_one_has_a_sweep():
  sizes = slim.Sizes()
  keys = lambda n: [f.key for f in slim.forms_of(sizes, forms.Case(n))]
  assert len(keys(1024)) == 3 + 2 * 5
  # C of 64 and 256 are in the sweep too.
  assert len(keys(16384)) == 3 + 2 * 5 + 2 * (8 - 2)
  assert {form.kind for form in keys(65536)} == {
    *forms.OURS, *forms.PEERS,
  } - set(forms.WHOLE)  # fmt: skip


def test_forms_that_make_no_sense_are_refused():
  with pytest.raises(ValueError, match='kind must be one of'):
    forms.Form('half')
  for kind, chunk in (('full', 8), ('subtract', None)):
    with pytest.raises(ValueError, match='do not go together'):
      forms.Form(kind, chunk)
  with pytest.raises(ValueError, match='chunks must divide lengths'):
    slim.Sizes(chunks=(48,))


def test_sigma_is_the_size_of_the_states():
  """s M (d + h) numbers with M = d / h; arXiv:2012.11346."""
  sizes = forms.Sizes(512, 8, 3, 2048, 256)
  expected = 3 * 64 * (512 + 8) * 4
  assert forms.state_bytes(forms.build(sizes)) == expected
  random = dataclasses.replace(sizes, kernel='softmax_pos', random=2)
  assert forms.state_bytes(forms.build(random)) == 2 * expected


def test_a_wrong_gradient_is_told():
  expected = (2.0, {'a': np.ones(4), 'b': np.full(4, 3.0)})
  found = lambda loss, factor: forms.disagreement(
    (loss, {'a': factor * np.ones(4), 'b': np.full(4, 3.0)}), expected
  )
  assert found(2.0, 1.0) is None
  assert found(2.0, 1.01).startswith('gradient is off by')
  assert found(2.0, np.nan).startswith('gradient is off by nan')
  assert found(np.nan, 1.0).startswith('loss is off by nan')


@pytest.mark.slow
def test_a_case_is_measured(quick, monkeypatch):
  monkeypatch.setattr(slim, '_wrong', lambda form, sizes: None)
  small = dataclasses.replace(slim.SUBJECT.quick, kinds=('full', 'autodiff'))
  subject = dataclasses.replace(slim.SUBJECT, quick=small)
  results, rows = quick(subject)
  row = rows['L=16, full against autodiff']
  assert min(row.ours, row.peer, row.extras['memory_ratio']) > 0
  assert rows['L=16, full'].extras['planned_bytes'] > 0
  assert 'planned_bytes' not in rows['L=16, autodiff'].extras
  assert [panel.title for panel in bars.panels(results)] == [
    'temporary memory (MiB)',
    'temporary memory (MiB), L=16',
    'time of a step (ms), L=16',
  ]


@pytest.mark.slow
def test_chunks_have_the_gradient_of_the_whole(quick):
  results, _ = quick(slim.SUBJECT)
  assert results.left_out == []
  assert [str(m.form) for m in results] == ['autodiff', 'subtract C=8']
