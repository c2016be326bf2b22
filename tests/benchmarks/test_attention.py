import dataclasses
import math

import jax
import numpy as np
import pytest

from benchmarks import attention, harness, programs
from benchmarks import attention_bars as bars
from benchmarks import attention_forms as forms
from benchmarks import attention_runs as runs


def small(**options):
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
  [
    (False, ('ours hyp', 'jax.nn exact', 'identity')),
    (True, ('ours pos', 'jax.nn exact')),
  ],
)
def test_forms_agree_with_their_definitions(causal, names):
  case = small(causal=causal)
  for name in names:
    assert runs.check(forms.make(name, case), case) is None, name


def test_exact_definition_is_softmax_attention():
  case = small(causal=True)
  arrays = case.inputs(3, 1.0)
  found = runs.defined(forms.make('jax.nn exact', case), True, arrays)[0]
  q, k, v = (x.astype(float) for x in arrays[:3])
  np.testing.assert_allclose(found, definition(q, k, v, True), rtol=1e-10)


@pytest.mark.parametrize(
  ('wrong', 'named'),
  [
    (lambda q, k, v, attend: 1.01 * attend(q, k, v), 'value'),
    # The right value whose gradient in k alone is wrong.
    (
      lambda q, k, v, attend: attend(q, jax.lax.stop_gradient(k), v),
      'gradient in k',
    ),
    (lambda q, k, v, attend: attend(q, k, v) * np.nan, 'value'),
  ],
)
def test_a_wrong_form_is_refused(wrong, named):
  case = small()
  right = forms.make('jax.nn exact', case)

  def attend(causal):
    return lambda q, k, v: wrong(q, k, v, right.attend(causal))

  one = dataclasses.replace(right, attend=attend)
  assert runs.check(one, case).startswith(f'{named} is off by')


def test_error_is_that_against_softmax():
  case = small(backward=False, length=40)
  arrays = case.inputs(2, 0.5)
  exact = definition(*(x.astype(float) for x in arrays[:3]), False)
  one, built = forms.make('ours pos', case), runs.program('ours pos', 1.0, case)
  found = runs.apply(one, case, built, arrays)[0]
  gap = np.linalg.norm(found - exact) / np.linalg.norm(exact)
  error = runs.error(one, case, built, 0.5, rows=40)
  assert error == pytest.approx(gap, rel=1e-4)
  one = forms.make('jax.nn exact', case)
  built = runs.program('jax.nn exact', 1.0, case)
  assert runs.error(one, case, built, 0.5) < 1e-6 < gap


def test_what_does_not_fit_is_left_out():
  sizes = forms.Sizes(lengths=(32, 64), heads=2, width=8, features=16)
  one, two = sizes.case(False, False, 32), sizes.case(False, False, 64)
  form = harness.Form('jax.nn exact', lambda case: None)
  samples = [programs.Sample(2.0, 2.0), programs.Sample(1.0, 1.0)]
  results = harness.Results([harness.Measured(one, form.key, samples)])
  skip = lambda **limit: attention.SUBJECT.skip(
    dataclasses.replace(sizes, **limit), results, two, form
  )
  assert skip() is None
  # Twice the length, four times the least time.
  assert skip(call_seconds=4.1) is None
  assert skip(call_seconds=3.9) == 'would take about 4 s a call'
  assert 'GiB' in skip(memory_bytes=1)


def planted(case, name, seconds, *, memory=None, **extras):
  samples = [programs.Sample(s, 2 * s) for s in seconds]
  program = programs.Program(None, temporary_bytes=memory, extras=extras)
  return harness.Measured(case, name, samples, program)


def test_bars_are_decided_by_wall_clock():
  sizes = forms.Sizes()
  case = sizes.case(False, True, 4096)
  results = harness.Results(
    [
      planted(case, 'ours pos', [1.0]),
      harness.Measured(case, 'jax.nn exact', [programs.Sample(14.0, 32.0)]),
    ]
  )
  rows = [row for row in bars.summary(sizes, results) if row.bar]
  assert len(rows) == 25
  (measured,) = [row for row in rows if row.met() is not None]
  assert str(measured.bar) == 'at least 15'
  assert (measured.ours, measured.extras['cpu']) == (14.0, 16.0)
  assert not measured.met()


def test_growth_crossover_and_rate_of_products():
  sizes = forms.Sizes(lengths=(1024, 2048, 4096))
  measured = []
  for length in sizes.lengths:
    case = sizes.case(False, True, length)
    work = 1e3 * forms.make('ours pos', case).flops(case)
    measured += [
      planted(case, 'ours pos', [1e-3 * length], memory=length),
      planted(case, 'torch sdpa', [5e-7 * length**2], memory=9 * length),
      planted(case, 'published JAX', [2.5e-3 * length], memory=6 * length),
      planted(case, 'matmul jax', [400.0 * length], flops=work),
    ]
  rows = bars.summary(sizes, harness.Results(measured))
  found = {row.case: row for row in rows}
  kind = 'bidirectional forward+backward'
  names = {
    f'{kind}, ours pos, L=1024-4096: exponent of L': 1,
    f'{kind}, torch sdpa, L=1024-4096: exponent of L': 2,
    f'ours pos, {kind}: length from which faster than torch sdpa': 2000,
    f'ours pos, {kind}, least over L >= 1k: times faster than published JAX': 2.5,
    f'ours pos, {kind}, least over L >= 1k: times less memory than published '
    'JAX': 6,
    f'ours pos, {kind}, L=4096: fraction of the matmul rate': 400,
  }
  for name, value in names.items():
    assert found[name].ours == pytest.approx(value), name


def test_flops_of_linear_forms():
  case = forms.Case(False, False, 4096, heads=1)
  form = forms.make('ours pos', case)
  assert form.flops(case) == 8 * 4096 * 256 * 64
  both = dataclasses.replace(case, backward=True)
  # The two projections need one product each in the gradient, not two.
  assert form.flops(both) == (2 + 3) * 4 * 4096 * 256 * 64
  # A chunk has two products more, within it.
  causal = dataclasses.replace(case, causal=True)
  inside = 2 * 4096 * form.chunk * (256 + 64)
  assert form.flops(causal) == form.flops(case) + inside


def test_peers_that_are_missing_are_said(monkeypatch):
  def absent(name):
    raise ImportError(name)

  monkeypatch.setattr(programs.importlib, 'import_module', absent)
  for name in forms.PEERS:
    with pytest.raises(programs.MissingError, match='cannot be imported'):
      forms.make(name, small(features=17))
  with pytest.raises(ValueError, match='unknown form'):
    forms.make('flash', small())


def test_a_case_is_measured(quick):
  names = ('ours pos', 'jax.nn exact')
  subject = dataclasses.replace(
    attention.SUBJECT,
    quick=dataclasses.replace(attention.SUBJECT.quick, forms=names),
  )
  cases = attention.cases(subject.quick)
  results, rows = quick(subject, [cases[0], cases[-1]])
  row = rows['bidirectional forward L=32, ours pos against jax.nn exact']
  assert min(row.ours, row.peer, row.ratio, row.extras['memory_ratio']) > 0
  one = rows['bidirectional forward L=32, ours pos'].extras
  assert 0 < one['error_0.5'] < 3
  # The long one is only compiled, and only ours.
  compiled = rows['causal forward+backward L=64, ours pos']
  assert compiled.ours is None
  assert compiled.extras['temporary_bytes'] > 0
  assert len(results.of('jax.nn exact')) == 1
  assert len(bars.panels(results)) == 1
