"""Turns are paired, what is wrong is refused, what is missing is said."""

import dataclasses
import itertools
import os

import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import growth, harness, memory, programs

SETTINGS = programs.Settings(rounds=3, seconds=0.0, pause=0.0)


@pytest.fixture
def clock(monkeypatch):
  """A clock that only the test moves."""
  now = [0.0]
  for name in ('perf_counter', 'process_time'):
    monkeypatch.setattr(programs.time, name, lambda: now[0])
  return now


def program(seconds, clock, **options):
  def call():
    clock[0] += seconds

  return programs.Program(call, **options)


def subject(forms, **options):
  return harness.Subject(
    'test',
    None,
    None,
    cases=lambda sizes: ['short', 'long'],
    forms=lambda sizes, case: forms,
    **options,
  )


def run(forms, *, peers=True, **options):
  one = subject(forms, **options)
  results = harness.run(one, None, SETTINGS, ['short', 'long'], peers=peers)
  return one, results


def test_calls_take_turns():
  order = []
  calls = {name: lambda name=name: order.append(name) for name in 'ab'}
  found = programs.alternate(calls, SETTINGS)
  assert [len(samples) for samples in found.values()] == [3, 3]
  # Two calls of each to warm up, then turns of as many calls as last 30 ms.
  assert order[:4] == list('aabb')
  turns = [name for name, _ in itertools.groupby(order[4:])]
  assert turns == list('ababab')


def test_a_form_that_used_its_time_takes_three_turns(clock):
  calls = {'slow': program(9.0, clock).call, 'fast': program(1.0, clock).call}
  settings = dataclasses.replace(SETTINGS, rounds=6, seconds=5.0)
  found = programs.alternate(calls, settings)
  assert [len(samples) for samples in found.values()] == [3, 6]


def test_a_slow_form_is_slower_and_times_are_per_unit(clock):
  forms = [
    harness.Form('ours', lambda case: program(6.0, clock, units=2), ours=True),
    harness.Form('peer', lambda case: program(3.0, clock, units=3)),
  ]
  one, results = run(forms)
  assert results.ratio('short', 'ours', 'peer') == (3.0, 3.0)
  row = harness.rows(one, None, results)['pairs'][0]
  assert row.case == 'short, ours against peer'
  assert (row.ours, row.peer, row.ratio) == (3000.0, 1000.0, 3.0)
  assert row.extras == {'cpu_ratio': 3.0}


def test_a_ratio_pairs_the_turns():
  """A machine that slows down for a while slows both sides of a ratio."""
  samples = lambda *walls: [programs.Sample(w, 2 * w) for w in walls]
  results = harness.Results(
    [
      harness.Measured('case', 'ours', samples(1.0, 9.0, 1.0)),
      harness.Measured('case', 'peer', samples(3.0, 27.0, 3.0, 50.0)),
    ]
  )
  assert results.ratio('case', 'ours', 'peer') == pytest.approx((1 / 3, 1 / 3))
  assert results.ratio('case', 'ours', 'nobody') == (None, None)


def test_a_wrong_form_is_refused_and_a_missing_one_is_said(clock, capsys):
  def absent(case):
    return programs.peer('no_such_package')

  wrong = lambda case, built: f'off by {built.units}'
  forms = [
    harness.Form('ours', lambda case: program(1.0, clock), ours=True),
    harness.Form('wrong', lambda case: program(1.0, clock, units=7), wrong),
    harness.Form('absent', absent, peer=True),
  ]
  one, results = run(forms)
  assert {m.form for m in results} == {'ours'}
  expected = [('wrong', 'refused'), ('absent', 'missing')]
  assert [(x['form'], x['why']) for x in results.left_out] == expected
  assert results.left_out[0]['reason'] == 'off by 7'
  printed = capsys.readouterr().out
  assert 'missing: absent: short: no_such_package cannot be imported' in printed
  # Not asked for, a peer is not even looked for.
  assert [x['form'] for x in run(forms, peers=False)[1].left_out] == ['wrong']
  assert harness.rows(one, None, results)['pairs'] == []


def test_a_form_that_does_not_fit_is_skipped(clock):
  skip = lambda sizes, results, case, form: (
    'too long' if case == 'long' else None
  )
  make = lambda case: program(1.0, clock)
  _, results = run([harness.Form('ours', make)], skip=skip)
  assert [m.case for m in results] == ['short']
  assert results.left_out[0]['why'] == 'skipped'


def test_what_is_only_compiled_is_compared_by_memory():
  sizes = {'ours': 2**20, 'peer': 2**22}
  forms = [
    harness.Form(
      name,
      lambda case, n=n: programs.Program(None, temporary_bytes=n),
      ours=name == 'ours',
    )
    for name, n in sizes.items()
  ]
  one, results = run(forms, timed=lambda sizes, case: False)
  row = harness.rows(one, None, results)['pairs'][0]
  assert row.case == 'short, ours against peer: temporary MiB'
  assert (row.ours, row.peer, row.ratio) == (1.0, 4.0, 0.25)


def test_inputs_follow_the_seeds(clock):
  seen = []
  built = programs.Program(seen.append, lambda seed: (seed,))
  form = harness.Form('ours', lambda case: built)
  (found,) = harness.measure('case', {form: built}, SETTINGS, seeds=(4, 5))
  assert len(found.samples) == 6
  assert list(dict.fromkeys(seen)) == [4, 5]


def test_filters_choose_cases():
  cases = ['causal L=1', 'causal L=2', 'bidirectional L=1']
  assert harness.chosen(cases, []) == cases
  assert harness.chosen(cases, ['L=2', 'bi']) == cases[1:]
  with pytest.raises(ValueError, match=r"filters=\['x'\]"):
    harness.chosen(cases, ['x'])


def test_compiled_programs_tell_memory_and_check_in_float64():
  x = np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8)
  function = lambda x: (jnp.exp(x) @ jnp.exp(x), jnp.int32(3))
  built = programs.compiled(function, lambda seed: (x + seed,))
  expected = programs.in_float64(function, x)
  assert expected[0].dtype == np.float64
  assert programs.disagreement(built.bound()(), expected) < 1e-6
  assert programs.disagreement(built.bound(1)(), expected) > 0.1
  bad = (expected[0] * np.nan, expected[1])
  assert np.isnan(programs.disagreement(bad, expected))
  assert built.compile_s > 0
  assert built.temporary_bytes >= 0


def held(size):
  """Holds `size` bytes beside the four that it returns."""
  return programs.Program(lambda: np.ones(size, np.uint8).sum(dtype=np.int32))


@pytest.mark.slow
def test_peak_memory_is_that_of_a_process_of_its_own():
  before = dict(os.environ)
  small, large = memory.peaks(held, [10 * 2**20, 40 * 2**20])
  assert small == pytest.approx(10 * 2**20, abs=2**20)
  assert large == pytest.approx(40 * 2**20, abs=2**20)
  assert dict(os.environ) == before


def test_crossover_interpolates_on_logarithms():
  # Times L^2 against 100 L meet at 100, whatever lengths are measured.
  found = growth.crossover({n: n / 100 for n in (16, 64, 256, 1024)})
  assert found == pytest.approx(100)


def test_crossover_at_the_ends_and_when_it_recurs():
  assert growth.crossover({16: 1.5, 32: 2.0}) == 16
  assert growth.crossover({16: 0.5, 32: 0.9}) is None
  assert growth.crossover({}) is None
  # Ahead at 32, behind again at 64: only what lasts counts.
  found = growth.crossover({32: 1.2, 64: 0.5, 128: 2.0})
  assert found == pytest.approx(64 * 2**0.5)


def test_slope_is_the_exponent():
  points = {length: 3e-6 * length**1.7 for length in (256, 512, 2048)}
  assert growth.slope(points) == pytest.approx(1.7)
  with pytest.raises(ValueError, match='two points'):
    growth.slope({256: 1.0})
