"""Every data set keeps the contract that the trainer relies on."""

import dataclasses
import json

import numpy as np
import pytest

from performer.data import (
  copying,
  dataset,
  labelled_text,
  listops,
  pictures,
  pixels,
  proteins,
  text,
)
from tests.performer.data import batch_cases, data_cases

SETS = {
  'proteins, masked': lambda **few: proteins.Proteins(
    task='mlm', max_length=15, **few
  ),
  'proteins, causal': lambda **few: proteins.Proteins(
    task='causal', max_length=15, concatenate=True, **few
  ),
  'text': lambda: text.Text(max_length=15),
  'text, shuffled': lambda: text.Text(max_length=15, order='shuffled'),
  'listops': lambda: listops.ListOps(
    grammar=listops.Grammar(3, 3, 3, 15), num_train=9, num_eval=5
  ),
  'labelled text': lambda: labelled_text.LabelledText(
    source=labelled_text.ShuffledWords(4), length=14
  ),
  'digits': lambda: pixels.Pixels(source=pictures.Digits()),
  'photographs': lambda: pixels.Pixels(source=pictures.Photographs(4)),
  'labelled digits': lambda: pixels.LabelledPixels(
    source=pictures.Digits(), num_classes=10
  ),
  'copying': lambda: copying.Copying(max_length=15, vocab_size=9, num_eval=7),
}


@pytest.fixture(scope='module')
def few(tmp_path_factory):
  folder = tmp_path_factory.mktemp('few')
  files = data_cases.few_proteins(folder)
  return {'files': files, 'cache_dir': str(folder)}


@pytest.fixture(params=SETS, scope='module')
def data(request, few):
  return SETS[request.param](**few if 'proteins' in request.param else {})


def test_members(data):
  assert isinstance(data, dataset.DataSet)
  assert data.task in ('causal', 'mlm', 'classify')
  assert data.unit in ('bits', 'perplexity')
  assert 'train' not in data.splits


def test_batches(data):
  batches = batch_cases.take(data.train_iterator(batch_size=2, seed=0), 2)
  batches.append(next(data.eval_batches(data.splits[0], batch_size=2)))
  for batch in batches:
    found = {name: (a.dtype.name, a.shape) for name, a in batch.items()}
    tokens, targets = (2, data.max_length), (2, data.target_length)
    assert found == {
      'tokens': ('int32', tokens),
      'targets': ('int32', targets),
      'weights': ('float32', targets),
      'mask': ('bool', tokens),
    }
    values = getattr(data, 'num_classes', data.vocab_size)
    for name, most in (('tokens', data.vocab_size), ('targets', values)):
      assert 0 <= batch[name].min() <= batch[name].max() < most
    if data.task != 'classify':
      assert not (batch['weights'] * ~batch['mask']).any()
    # Attention over no key at all is undefined.
    assert batch['mask'].any(axis=1).all()


def test_resume_is_bit_exact(data):
  unbroken = data.train_iterator(batch_size=4, seed=5)
  batch_cases.take(unbroken, 7)
  state = json.loads(json.dumps(unbroken.get_state()))
  expected = batch_cases.take(unbroken, 8)
  resumed = data.train_iterator(batch_size=4, seed=5)
  batch_cases.take(resumed, 2)
  resumed.set_state(state)
  for one, other in zip(batch_cases.take(resumed, 8), expected, strict=True):
    batch_cases.assert_equal(one, other)
  assert (expected[0]['tokens'] != expected[1]['tokens']).any()


def test_threads_change_nothing(data):
  makes = [
    dataclasses.replace(data, num_threads=n).train_iterator for n in (0, 3)
  ]
  found = [batch_cases.take(make(batch_size=4, seed=5), 9) for make in makes]
  for one, other in zip(*found, strict=True):
    batch_cases.assert_equal(one, other)


def test_processes_split_every_batch(data):
  sizes = {'batch_size': 6}
  shares = [{'process_index': p, 'process_count': 3} for p in range(3)]
  split = data.splits[0]
  for make in (
    lambda **share: data.train_iterator(seed=2, **sizes, **share),
    lambda **share: data.eval_batches(split, **sizes, **share),
  ):
    parts = zip(
      *(batch_cases.take(make(**share), 3) for share in shares), strict=True
    )
    for found, batch in zip(parts, batch_cases.take(make(), 3), strict=True):
      batch_cases.assert_equal(batch_cases.joined(found), batch)


def test_evaluation_does_not_depend_on_the_batch(data):
  split = data.splits[0]
  one, other = (
    batch_cases.joined(
      batch_cases.take(data.eval_batches(split, batch_size=size), 12 // size)
    )
    for size in (1, 4)
  )
  count = min(data.num_examples(split), 12)
  for name, values in one.items():
    np.testing.assert_array_equal(values[:count], other[name][:count])


def test_unknown_splits_are_refused(data):
  for split in ('ood2', 'train.txt'):
    with pytest.raises(ValueError, match=f'split must be one of .*{split}'):
      data.num_examples(split)
    with pytest.raises(ValueError, match='split must be one of'):
      data.eval_batches(split, batch_size=1)
  with pytest.raises(ValueError, match='num_threads must be >= 0'):
    dataclasses.replace(data, num_threads=-1)


def test_baselines_can_judge_every_split(data):
  found = data.baselines()
  assert found
  for predictor in found.values():
    assert isinstance(predictor, dataset.Predictor)
    for split in data.splits:
      batches = list(data.eval_batches(split, batch_size=100))
      scores = predictor.evaluate(batches)
      assert scores.weight == sum(batch['weights'].sum() for batch in batches)
      assert 1 < scores.perplexity < data.vocab_size
