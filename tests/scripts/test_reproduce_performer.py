import jax
import numpy as np
import pytest

from benchmarks import attention_forms, harness, programs
from runtime.record import ledger
from tests.performer.models import test_bert

COMMON = {
  'paper': 'paper',
  'scale': 'tiny',
  'hardware': 'none',
  'command': 'none',
  'commit': '0' * 7,
  'minutes': 0.0,
}


def check_rows(found, seeds, folder):
  """Findings make rows of the ledger, and pictures."""
  for finding in found:
    ledger.write(
      ledger.Row(seeds=tuple(seeds), **finding.fields, **COMMON), folder
    )
    path = folder / f'{finding.fields["id"]}.png'
    finding.draw(path)
    assert path.stat().st_size > 10_000
  return {finding.fields['id']: finding.fields for finding in found}


def test_errors_are_those_of_the_output(load, monkeypatch):
  """One setting by a direct sum over keys, in float64."""
  lib = load('reproduce_performer_error_table')
  monkeypatch.setattr(lib, '_COPIES', {'pos': 1})
  seeds = (3, 5)
  errors, bad, norms = lib.measure(seeds, sizes=(8,), keys=64, queries=8)
  draw = np.random.default_rng(3).standard_normal((3, 64, lib.WIDTH))
  draw = draw.astype(np.float32).astype(float)
  q, k, v = 0.5 * draw[0, :8] / 2, 0.5 * draw[1, :64] / 2, draw[2, :64]
  w = np.asarray(lib._draw(seeds, 8, 'iid', 'chi')[0], float)
  exact, estimate = np.exp(q @ k.T), np.exp(
    (q @ w.T)[:, None] + (k @ w.T)[None] - (k**2).sum(-1)[None, :, None] / 2
  ).sum(-1)  # fmt: skip
  average = [m / m.sum(-1, keepdims=True) @ v for m in (exact, estimate)]
  expected = np.mean((average[0] - average[1]) ** 2)
  found = errors['low-norm', 'pos', 'iid', 'chi', 8]
  assert found.shape == (2,)
  assert found[0] == pytest.approx(expected, rel=1e-4)
  assert not bad['high-norm', 'pos', 'rorf', 'chi', 8].any()
  # The mean of |x + y|^2 is 2 s^2 sqrt(d).
  assert norms['high-norm'][0] == pytest.approx(8, rel=0.1)
  assert norms['low-norm'][0] == pytest.approx(2, rel=0.1)


def planted(lib, order):
  """Errors that follow every trend, or, with order -1, none."""
  rng = np.random.default_rng(0)
  errors, bad = {}, {}
  for regime in ('high-norm', 'low-norm'):
    for kernel in ('pos', 'hyp', 'trig'):
      trig = {'high-norm': 5.0, 'low-norm': -1.5}[regime]
      for m in (4, *lib.SIZES) if kernel != 'pos' else lib.SIZES:
        for ortho, norm in lib._matrices(kernel):
          level = trig * (kernel == 'trig') - np.log10(m)
          level += 0.3 * (ortho == 'iid') - 0.3 * (norm == 'sqrt_d')
          noise = 0.01 * rng.standard_normal(5)
          key = (regime, kernel, ortho, norm, m)
          errors[key] = 10 ** (order * level + noise)
          share = 0.2 * (kernel == 'trig') if order > 0 else 0.1
          bad[key] = share + 0.001 * rng.random(5) * bool(share)
  return errors, bad, dict.fromkeys(('high-norm', 'low-norm'), (8.0, 13.0, 1.0))


@pytest.mark.parametrize(('order', 'verdict'), [(1, 'holds'), (-1, 'fails')])
def test_trends_of_errors_are_judged(load, tmp_path, order, verdict):
  lib = load('reproduce_performer_error_table')
  found = load('reproduce_performer_errors').findings(*planted(lib, order))
  rows = check_rows(found, range(5), tmp_path)
  assert len(rows) == 6
  for name, fields in rows.items():
    assert fields['verdict'] == verdict, name


def test_closed_forms_are_those_of_lemma_2(load):
  theory = load('reproduce_performer_theory')
  length, angle = np.array([0.7, 1.0]), np.array([60.0, 120.0])
  cosine = np.cos(np.deg2rad(angle))
  plus, minus = 2 * length**2 * (1 + cosine), 2 * length**2 * (1 - cosine)
  expected = {
    'pos': np.exp(plus) - 1,
    'hyp': 0.5 * (1 - np.exp(-plus)) * (np.exp(plus) - 1),
    'trig': 0.5 * np.exp(minus) * (1 - np.exp(-minus)) ** 2,
  }
  for kernel, values in expected.items():
    found = theory.closed_forms(kernel, length, angle)
    np.testing.assert_allclose(found, values, rtol=1e-5)


def test_sampled_errors_follow_the_closed_forms(load, monkeypatch):
  theory = load('reproduce_performer_theory')
  monkeypatch.setattr(theory, '_BLOCK', 64)
  monkeypatch.setattr(theory, 'ROWS', 8)
  lengths, angles = np.array([0.5, 0.5]), np.array([90.0, 150.0])
  x, y = (np.float32(z) for z in theory._vectors(lengths, angles))
  for kernel in theory.KERNELS:
    found = theory._sample(x, y, jax.random.key(1), kernel=kernel, draws=8192)
    closed = theory.closed_forms(kernel, lengths, angles)
    np.testing.assert_allclose(found, closed, rtol=0.1)


@pytest.mark.parametrize('bias', [1.0, 1.2])
def test_a_planted_bias_of_the_closed_form_is_seen(load, tmp_path, bias):
  theory = load('reproduce_performer_theory')
  grid = np.meshgrid(theory.LENGTHS, theory.ANGLES, indexing='ij')
  lengths, angles = (z.ravel().astype(float) for z in grid)
  rng = np.random.default_rng(1)
  found = {
    kernel: bias
    * theory.closed_forms(kernel, lengths, angles)
    * (1 + 0.01 * rng.standard_normal((6, len(lengths))))
    for kernel in theory.KERNELS
  }
  findings = theory.findings(lengths, angles, found)
  if bias != 1:
    assert findings[0].fields['verdict'] == 'fails'
    return
  rows = check_rows(findings, range(6), tmp_path)
  assert {f['verdict'] for f in rows.values()} == {'holds'}


def times(powers):
  """Results whose times are powers of the length, for three seeds."""
  rng = np.random.default_rng(2)
  records = []
  for causal in (False, True):
    for backward in (False, True):
      for name, (factor, power) in powers.items():
        for length in (256, 512, 1024, 2048, 4096):
          seconds = factor * length**power * (1.2 if causal else 1.0)
          noise = 1 + 0.01 * rng.standard_normal(6)
          samples = [programs.Sample(s, s) for s in seconds * noise]
          case = attention_forms.Case(causal, backward, length)
          program = programs.Program(None, temporary_bytes=length)
          records.append(harness.Measured(case, name, samples, program))
  return harness.Results(records)


@pytest.mark.parametrize(
  ('power', 'verdicts'),
  [
    pytest.param(1.0, ['holds', 'holds', 'holds'], marks=pytest.mark.slow),
    (2.5, ['fails', 'fails', 'holds']),
  ],
)
def test_growth_and_crossover_are_judged(load, tmp_path, power, verdicts):
  speed = load('reproduce_performer_speed')
  # Exact attention meets the linear form at 512.
  powers = {
    'ours pos': (512.0 ** (2 - power), power),
    'jax.nn exact': (1.0, 2.0),
    'identity': (0.01, 1.0),
  }
  found = speed.findings(times(powers), range(3))
  assert [f.fields['verdict'] for f in found] == verdicts
  if power == 1:
    rows = check_rows(found, range(3), tmp_path)
    crossovers = rows['fig3-crossover']['ours'].values()
    np.testing.assert_allclose(list(crossovers), 512, rtol=0.05)


# E4.


@pytest.mark.parametrize(
  ('tuned', 'scratch', 'verdict'),
  [
    ((0.4, 0.9), (0.05, 0.3), 'holds'),
    ((0.4, 0.6), (0.05, 0.3), 'fails'),
    ((0.1, 0.9), (0.05, 0.3), 'fails'),
    ((0.4, 0.9), (0.05, 0.95), 'fails'),
  ],
)
def test_transfer_is_judged(load, tmp_path, tuned, scratch, verdict):
  transfer = load('reproduce_performer_transfer')
  noise = 0.005 * np.arange(3)[:, None]
  performers = {
    transfer.TUNED: np.array(tuned) + noise,
    transfer.SCRATCH: np.array(scratch) + noise,
  }
  exact, commonest = (0.93, 0.92, 0.935), (0.16, 0.17, 0.165)
  curves = transfer.Curves(exact, commonest, (0, 100), performers)
  found = transfer.finding(curves, transfer.Setting())
  rows = check_rows([found], (0, 1, 2), tmp_path)
  assert rows['fig5-transfer']['verdict'] == verdict
  table = (tmp_path / 'fig5-transfer-curves.csv').read_text().splitlines()
  assert len(table) == 1 + 2 * 3 * 2


def test_a_pretrained_model_is_trained_on(load):
  """A tiny one: ids, masks, and that training starts from its parameters."""
  transfer = load('reproduce_performer_transfer')
  batch = transfer._encode(['ACDY' * 5], 24, np.random.default_rng(0))
  tokens, targets = np.asarray(batch.tokens)[0], np.asarray(batch.targets)[0]
  np.testing.assert_array_equal(tokens[[0, 21, 22, 23]], [2, 3, 0, 0])
  masked = targets >= 0
  assert masked.sum() == 3
  np.testing.assert_array_equal(tokens[masked], 4)
  letters = np.array([5, 6, 7, 24] * 5)
  np.testing.assert_array_equal(targets[masked], letters[masked[1:21]])

  weights = test_bert.state_dictionary(vocab=25, length=24)
  setting = transfer.Setting(
    num_heads=2, features=8, steps=2, every=2, batch=2, held_out=3
  )
  genes = ['ACDY' * 5, 'KLMN' * 4, 'ACDW' * 5] * 3
  found = transfer.measure(weights, genes, (0,), setting)
  assert found.steps == (0, 2)
  assert {x.shape for x in found.performers.values()} == {(1, 2)}
  assert 0 < found.common[0] < 1
