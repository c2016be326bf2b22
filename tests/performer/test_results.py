"""The table that a run ends with."""

import math

import pytest

from performer import results
from performer.data import copying, proteins, text
from tests.performer.data import data_cases


def rows(data, perplexity=8.0):
  scores = {
    split: {'accuracy': 0.25, 'perplexity': perplexity, 'loss': 0.0}
    for split in data.splits
  }
  return results.score_rows(data, scores, batch_size=200)


def test_proteins_are_judged_by_perplexity(tmp_path):
  files = data_cases.few_proteins(tmp_path)
  data = proteins.Proteins(
    task='mlm', max_length=20, files=files, cache_dir=str(tmp_path)
  )
  model, *others = rows(data)
  assert model == {'predictor': 'model'} | {
    f'{split} {column}': value
    for split in ('valid', 'test', 'ood')
    for column, value in (('acc. %', 25.0), ('perpl.', 8.0))
  }
  expected = ['empirical baseline', 'empirical, copying']
  assert [row['predictor'] for row in others] == expected
  for row, fitted in zip(others, data.baselines().values(), strict=True):
    assert list(row) == list(model)
    scores = fitted.evaluate(data.eval_batches('ood', batch_size=7))
    assert row['ood acc. %'] == pytest.approx(100 * scores.accuracy)
    assert row['ood perpl.'] == pytest.approx(scores.perplexity)


def test_text_is_judged_in_bits_too():
  data = text.Text(max_length=100)
  model, frequencies = rows(data)
  columns = [
    f'{split} {column}'
    for split in ('valid', 'test')
    for column in ('acc. %', 'perpl.', 'bits')
  ]
  assert list(model) == list(frequencies) == ['predictor', *columns]
  assert model['valid bits'] == pytest.approx(3)
  for split in data.splits:
    bits = frequencies[f'{split} bits']
    assert bits == pytest.approx(data.unigram_bits(split))
    assert bits == pytest.approx(math.log2(frequencies[f'{split} perpl.']))


def test_copying_stands_beside_chance():
  data = copying.Copying(max_length=31, vocab_size=16, num_eval=10)
  model, chance = rows(data, perplexity=1.0)
  assert model['test bits'] == 0
  assert chance['predictor'] == 'knows the format'
  assert chance['test bits'] == pytest.approx(data.chance_bits)
