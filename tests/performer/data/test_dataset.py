"""Every data set keeps the contract that the trainer relies on."""

import inspect
import itertools

import numpy as np
import pytest

from performer.data import copying, dataset, proteins, text

SETS = {
  'proteins, masked': lambda: proteins.Proteins(task='mlm', max_length=15),
  'proteins, causal': lambda: proteins.Proteins(
    task='causal', max_length=15, concatenate=True
  ),
  'text': lambda: text.Text(max_length=15),
  'copying': lambda: copying.Copying(max_length=15, vocab_size=9, num_eval=7),
}


@pytest.fixture(params=SETS)
def data(request):
  return SETS[request.param]()


def test_members(data):
  assert isinstance(data, dataset.DataSet)
  assert data.task in ('causal', 'mlm')
  assert data.unit in ('bits', 'perplexity')
  assert 'train' not in data.splits
  for method in ('num_examples', 'train_iterator', 'eval_batches'):
    promised = inspect.signature(getattr(dataset.DataSet, method)).parameters
    kept = inspect.signature(getattr(type(data), method)).parameters
    for name, parameter in promised.items():
      assert kept[name].kind == parameter.kind
      assert kept[name].default == parameter.default


def test_a_data_set_without_baselines_is_none():
  class Half:
    task, max_length, vocab_size = 'causal', 15, 9
    splits, unit = (), 'bits'

    def num_examples(self, split):
      return None

    train_iterator = eval_batches = num_examples

  assert not isinstance(Half(), dataset.DataSet)


def test_batches(data):
  batches = list(itertools.islice(data.train_iterator(batch_size=2, seed=0), 2))
  batches.append(next(data.eval_batches(data.splits[0], batch_size=2)))
  for batch in batches:
    found = {name: (a.dtype.name, a.shape) for name, a in batch.items()}
    assert found == {
      'tokens': ('int32', (2, 15)),
      'targets': ('int32', (2, 15)),
      'weights': ('float32', (2, 15)),
      'mask': ('bool', (2, 15)),
    }
    ids = np.stack([batch['tokens'], batch['targets']])
    assert ids.min() >= 0
    assert ids.max() < data.vocab_size


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
