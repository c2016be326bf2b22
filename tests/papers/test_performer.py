"""The rows of Performer: what is measured and judged, at sizes of a second."""

import dataclasses
import itertools

import jax
import numpy as np
import pytest

from papers import describing, rows
from papers.performer import errors, proteins, speed, theory, transfer
from performer import attention, train_lib
from performer.attention.kernels import projections
from performer.data import proteins as protein_data
from runtime.config import sessions
from tests.papers import planted
from tests.performer.models import test_bert

SYSTEM = rows.find()['performer']


# Errors of the output.


def test_errors_are_those_of_the_output():
  """One setting by a direct sum over keys, in float64."""
  setting = errors.Setting('pos', 0.5, 'iid', sizes=(8,), keys=64, queries=8)
  found = errors.run(setting, seed=3)
  q, k, v = (x.astype(float) for x in setting.inputs(3))
  q, k = q / 2, k / 2  # The fourth root of d, as both are 16 wide.
  w = np.asarray(
    projections.draw(jax.random.key(1003), 8, 16, ortho='iid', norm='chi'),
    float,
  )
  exact, estimate = np.exp(q @ k.T), np.exp(
    (q @ w.T)[:, None] + (k @ w.T)[None] - (k**2).sum(-1)[None, :, None] / 2
  ).sum(-1)  # fmt: skip
  average = [m / m.sum(-1, keepdims=True) @ v for m in (exact, estimate)]
  expected = np.mean((average[0] - average[1]) ** 2)
  assert found['error'] == pytest.approx([expected], rel=1e-4)
  assert found['bad'] == [0.0]
  # The mean of |x + y|^2 is 2 s^2 sqrt(d), from 8 pairs here.
  assert found['norm'] == pytest.approx(2, rel=0.3)


def planted_errors(study, regime, order):
  """Errors that follow every trend, or, with order -1, none."""
  records = {}
  trig = {'high': 5.0, 'low': -1.5}[regime]
  for number, (arm, setting) in enumerate(study.arms.items()):
    level = trig * (setting.kernel == 'trig') - np.log10(setting.sizes)
    level += 0.3 * (setting.ortho == 'iid') - 0.3 * (setting.norm == 'sqrt_d')
    share = 0.2 * (setting.kernel == 'trig') if order > 0 else 0.1
    records[arm] = [
      {
        'error': 10
        ** (order * level + planted.noisy(0, 0.01, (number, seed))[0]),
        'bad': np.full(len(level), share * (1 + 0.01 * seed)),
        'norm': 8.0,
        'great norm': 13.0,
        'power': 1.0,
      }
      for seed in range(5)
    ]
  return planted.results(study, records, 5)


@pytest.mark.parametrize(('order', 'verdict'), [(1, 'holds'), (-1, 'fails')])
def test_trends_of_errors_are_judged(order, verdict):
  for row in errors.ROWS:
    regime = 'high' if 'high' in row.id else 'low'
    found = planted_errors(row.study, regime, order)
    assert planted.verdict(row, found) == verdict, row.id


# Errors of the kernel.


def test_closed_forms_are_those_of_lemma_2():
  length, angle = np.array([0.7, 1.0]), np.array([60.0, 120.0])
  cosine = np.cos(np.deg2rad(angle))
  plus, minus = 2 * length**2 * (1 + cosine), 2 * length**2 * (1 - cosine)
  expected = {
    'pos': np.exp(plus) - 1,
    'hyp': 0.5 * (1 - np.exp(-plus)) * (np.exp(plus) - 1),
    'trig': 0.5 * np.exp(minus) * (1 - np.exp(-minus)) ** 2,
  }
  for kernel, values in expected.items():
    found = theory.closed_forms(kernel, [*zip(length, angle, strict=True)])
    np.testing.assert_allclose(found, values, rtol=1e-5)


@pytest.mark.parametrize('kernel', theory.KERNELS)
def test_sampled_errors_follow_the_closed_forms(kernel):
  points = ((0.5, 90), (0.5, 150))
  setting = theory.Setting(kernel, points, rows=8, draws=8192, block=64)
  found = theory.run(setting, seed=1)['error']
  closed = theory.closed_forms(kernel, points)
  np.testing.assert_allclose(found, closed, rtol=0.1)


@pytest.mark.parametrize(('bias', 'verdict'), [(1.0, 'holds'), (1.2, 'fails')])
def test_a_planted_bias_of_the_closed_form_is_seen(bias, verdict):
  lemma, regions = theory.ROWS
  rng = np.random.default_rng(1)
  records = {
    kernel: [
      {
        'error': bias
        * theory.closed_forms(kernel, theory.GRID)
        * (1 + 0.01 * rng.standard_normal(len(theory.GRID)))
      }
      for _ in range(6)
    ]
    for kernel in theory.KERNELS
  }
  found = planted.results(lemma.study, records, 6)
  assert planted.verdict(lemma, found) == verdict
  assert planted.verdict(regions, found) == 'holds'


# Time.


@pytest.mark.parametrize(
  ('power', 'verdicts'),
  [(1.0, ['holds', 'holds', 'holds']), (2.5, ['fails', 'fails', 'holds'])],
)
def test_growth_and_crossover_are_judged(power, verdicts):
  """Exact attention meets the linear form at 512; it does not fit at 8192."""
  powers = {
    'ours pos': (512.0 ** (2 - power), power),
    'jax.nn exact': (1.0, 2.0),
    'identity': (0.01, 1.0),
  }
  study = speed.ROWS[0].at_scale('tiny')
  rng, records = np.random.default_rng(2), {}
  for kind, length in itertools.product(study.arms, study.at):
    slower = 1.2 if 'causal' in kind else 1.0
    records[kind, length] = [
      {
        name: slower * factor * length**p * (1 + 0.01 * rng.standard_normal())
        for name, (factor, p) in powers.items()
        if (name, length) != ('jax.nn exact', 8192)
      }
      for _ in range(3)
    ]
  found = planted.results(study, records, 3)
  assert [planted.verdict(row, found) for row in speed.ROWS] == verdicts
  if power == 1:
    crossovers = [*speed.ROWS[1].ours(found).values()]
    np.testing.assert_allclose(crossovers, 512, rtol=0.05)


def test_forms_that_fit_are_timed():
  (setting, *_) = speed.ROWS[0].at_scale('tiny').arms.values()
  case = dataclasses.replace(setting.case, heads=1, width=8, features=16)
  mechanism = dataclasses.replace(setting.mechanism, features=16)
  small = dataclasses.replace(
    setting, case=case, mechanism=mechanism, turns=2, memory_bytes=1000
  )
  found = speed.run(small, seeds=(0, 1), at=32)
  assert [set(record) for record in found] == 2 * [{'ours pos', 'identity'}]
  assert min(min(record.values()) for record in found) > 0
  other = dataclasses.replace(small, mechanism=setting.mechanism)
  with pytest.raises(ValueError, match='the benchmark must time'):
    speed.run(other, seeds=(0,), at=32)


# A pretrained model.


@pytest.mark.parametrize(
  ('tuned', 'scratch', 'verdict'),
  [
    ((0.4, 0.9), (0.05, 0.3), 'holds'),
    ((0.4, 0.6), (0.05, 0.3), 'fails'),
    ((0.1, 0.9), (0.05, 0.3), 'fails'),
    ((0.4, 0.9), (0.05, 0.95), 'fails'),
  ],
)
def test_transfer_is_judged(tuned, scratch, verdict):
  (row,) = transfer.ROWS
  curves = {transfer.TUNED: tuned, transfer.SCRATCH: scratch}
  records = {
    arm: [{'accuracy': np.linspace(*ends, 6) + 0.005 * i} for i in range(3)]
    for arm, ends in curves.items()
  }
  records[transfer.EXACT] = [
    {'accuracy': [exact], 'commonest': commonest}
    for exact, commonest in ((0.93, 0.16), (0.92, 0.17), (0.935, 0.165))
  ]
  found = planted.results(row.study, records, 3)
  assert planted.verdict(row, found) == verdict


def test_genes_are_masked():
  masks = transfer.Setting(attention.Exact()).masks
  rng = np.random.default_rng(0)
  batch = transfer.encode(['ACDY' * 5], 24, rng, masks)
  tokens, targets = np.asarray(batch.tokens)[0], np.asarray(batch.targets)[0]
  np.testing.assert_array_equal(tokens[[0, 21, 22, 23]], [2, 3, 0, 0])
  masked = targets >= 0
  assert masked.sum() == 3
  np.testing.assert_array_equal(tokens[masked], 4)
  letters = np.array([5, 6, 7, 24] * 5)
  np.testing.assert_array_equal(targets[masked], letters[masked[1:21]])


@pytest.mark.slow
def test_a_pretrained_model_is_trained_on():
  """A tiny one, from new parameters, and as it is."""
  weights = test_bert.state_dictionary(vocab=25, length=24)
  genes = ['ACDY' * 5, 'KLMN' * 4, 'ACDW' * 5] * 3
  small = {'every': 2, 'batch': 2, 'held_out': 3, 'num_heads': 2}
  setting = transfer.Setting(
    attention.Favor(features=8), pretrained=False, steps=2, **small
  )
  found = transfer.measure(setting, weights, genes, 0)
  assert len(found['accuracy']) == 2
  assert 0 < found['commonest'] < 1
  start = dataclasses.replace(setting, pretrained=True, steps=0)
  other = transfer.measure(start, weights, genes, 0)
  assert len(other['accuracy']) == 1
  assert other['commonest'] == found['commonest']  # The same genes and masks.


# Proteins.


@pytest.mark.parametrize('task', ['mlm', 'causal'])
@pytest.mark.parametrize(
  ('changed', 'verdicts'),
  [
    ({}, ['holds', 'holds', 'holds']),
    ({'test perpl.': 18.0}, ['fails', 'holds', 'fails']),
    ({'test acc. %': 14.0}, ['holds', 'fails', 'holds']),
    ({'ood perpl.': 11.0}, ['holds', 'holds', 'fails']),
  ],
)
def test_table_2_is_judged(task, changed, verdicts):
  """Of the softmax Performer a column is changed; the baseline is 17."""
  table = [row for row in proteins.ROWS if f'-{task}-' in row.id]
  study = table[0].at_scale('tiny')
  usual = {'test perpl.': 12.0, 'ood perpl.': 14.0, 'test acc. %': 20.0}
  records = {}
  for number, arm in enumerate(study.arms):
    columns = usual | (changed if arm == 'softmax' else {})
    columns = {
      name: planted.noisy(value, 0.05, number, 3)
      for name, value in columns.items()
    }
    curve = np.linspace(3, 2, study.arms[arm].steps // 20)
    records[arm] = [
      {f'model {name}': values[i] for name, values in columns.items()}
      | {f'{proteins.BASELINE[task]} {name}': 17.0 for name in usual}
      | {'loss': curve, 'accuracy': curve / 10}
      for i in range(3)
    ]
  found = planted.results(study, records, 3)
  assert [planted.verdict(row, found) for row in table] == verdicts


@pytest.mark.slow
def test_a_row_of_proteins(tmp_path):
  row = SYSTEM.rows['table2-mlm-accuracy']
  study = row.at_scale('tiny')
  arms = {
    name: dataclasses.replace(
      setting,
      model=setting.model.clone(num_layers=1, d_model=8, d_ff=8, max_length=16),
      data=protein_data.Proteins(task='mlm', max_length=16, masking='bert'),
      steps=4,
      every=2,
      warmup=1,
    )
    for name, setting in study.arms.items()
  }
  small = dataclasses.replace(study, arms=arms)
  written = planted.publish(SYSTEM, row, small, tmp_path)
  assert set(written.ours) == {
    f'{name} test' for name in (*study.arms, 'baseline')
  }
  favor = written.settings['softmax']['model']['attention']
  assert (favor['kernel'], favor['features']) == ('softmax_hyp', 64)
  assert (favor['norm'], favor['redraw_every']) == ('chi', 1000)
  assert written.settings['softmax']['data']['masking'] == 'bert'


@pytest.mark.parametrize(
  ('scale', 'name'),
  [('tiny', 'protein_{}_tiny'), ('paper', 'trembl_36layer_{}')],
)
@pytest.mark.parametrize('task', ['mlm', 'causal'])
def test_settings_are_those_of_the_configurations(task, scale, name):
  """Rows train what `performer.train` trains, but for the mechanism."""
  setting = proteins.studies(task)[scale].arms['exact']
  params = [
    f"{split.upper()}_FILE = 'data/trembl/{split}.fasta.gz'"
    for split in setting.data.files or ()
  ]
  files = [f'configs/performer/{name.format(task)}.gin']
  with sessions.session(train_lib.train, files, params) as parsed:
    trainer = parsed.arguments()['trainer']
    operative = parsed.operative()
  model = trainer.model.clone(attention=setting.model.attention)
  assert describing.describe(model) == describing.describe(
    setting.model.clone(dtype=model.dtype)
  )
  assert np.dtype(model.dtype) == np.dtype(setting.model.dtype)
  data = dataclasses.replace(trainer.data, masking=setting.data.masking)
  assert describing.describe(data) == describing.describe(setting.data)
  assert trainer.batch_size == setting.batch
  for line in (
    f'STEPS = {setting.steps}\n',
    f'LEARNING_RATE = {setting.rate}\n',
  ):
    assert line in operative
