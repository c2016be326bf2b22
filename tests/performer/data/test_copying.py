import math

import numpy as np
import pytest

from performer.data import baseline, copying
from tests.performer.data import batch_cases

LENGTH, SYMBOLS = 31, 16  # A window of 32: the small setting of the paper.


def windows(batches):
  """The windows that batches were made from, [n, L]."""
  batches = list(batches)
  first = np.concatenate([batch['tokens'][:, :1] for batch in batches])
  rest = np.concatenate([batch['targets'] for batch in batches])
  return np.concatenate([first, rest], axis=1)


def train(steps=1, batch_size=8, seed=0, **options):
  settings = {'max_length': LENGTH, 'vocab_size': SYMBOLS, **options}
  data = copying.Copying(**settings)
  return batch_cases.take(
    data.train_iterator(batch_size=batch_size, seed=seed), steps
  )


def check_words(words, symbols):
  """Raises unless letters are uniform on 1..V-1 and independent of neighbours.

  The statistics are normal deviates: of every letter at every place, and of
  every pair of neighbours.
  """
  size = symbols - 1
  at = np.stack([np.bincount(c, minlength=symbols + 1) for c in words.T])
  assert not at[:, [0, symbols]].any(), 'a letter outside 1..V-1'
  mean = len(words) / size
  z = (at[:, 1:symbols] - mean) / np.sqrt(mean * (1 - 1 / size))
  pairs = words[:, 0:-1:2] * symbols + words[:, 1::2]
  counts = np.bincount(pairs.ravel(), minlength=symbols**2)
  counts = counts.reshape(symbols, symbols)[1:, 1:]
  mean = pairs.size / size**2
  z_pairs = (counts - mean) / np.sqrt(mean)
  worst = max(np.abs(z).max(), np.abs(z_pairs).max())
  assert worst < 5, f'{worst=} must be below 5'


def test_a_window_is_separator_word_separator_word():
  found = windows(train(steps=50))
  half = (LENGTH + 1) // 2
  assert found.shape == (400, 2 * half)
  assert not found[:, [0, half]].any()
  words = found[:, 1:half]
  assert words.min() >= 1
  np.testing.assert_array_equal(words, found[:, half + 1 :])
  assert len({tuple(word) for word in words.tolist()}) == 400


def test_the_second_half_counts():
  for batch in train(steps=2):
    half = (LENGTH + 1) // 2
    expected = [0] * (half - 1) + [1] * half
    np.testing.assert_array_equal(batch['weights'], [expected] * 8)
    # The first target that counts is the repeated separator.
    assert not batch['targets'][:, half - 1].any()
    assert batch['targets'][:, half:].all()
    assert batch['mask'].all()


def test_words_are_uniform_and_independent():
  half = (LENGTH + 1) // 2
  words = windows(train(steps=25, batch_size=400))[:, 1:half]
  check_words(words, SYMBOLS)


@pytest.mark.parametrize('recipe', ['with_zero', 'bias', 'sticky'])
def test_wrong_words_fail_that_check(recipe):
  rng = np.random.default_rng(1)
  words = rng.integers(1, SYMBOLS, (10_000, 15))
  if recipe == 'with_zero':
    words -= 1
  elif recipe == 'bias':  # One letter in twenty becomes the first.
    words[rng.random(words.shape) < 0.05] = 1
  else:  # One letter in twenty repeats the one before.
    repeat = rng.random((10_000, 14)) < 0.05
    words[:, 1:] = np.where(repeat, words[:, :-1], words[:, 1:])
  with pytest.raises(AssertionError, match=r'a letter outside|worst'):
    check_words(words, SYMBOLS)


def test_examples_depend_on_seed_and_position_only():
  one = windows(train(steps=12, batch_size=2, seed=7))
  other = windows(train(steps=4, batch_size=6, seed=7))
  np.testing.assert_array_equal(one, other)
  assert (windows(train(steps=4, batch_size=6, seed=8)) != other).any(1).all()


def test_evaluation_has_streams_of_its_own():
  data = copying.Copying(max_length=LENGTH, vocab_size=SYMBOLS, num_eval=50)
  found = {
    split: {
      tuple(row)
      for row in windows(data.eval_batches(split, batch_size=25)).tolist()
    }
    for split in data.splits
  }
  assert {len(rows) for rows in found.values()} == {50}
  assert not found['valid'] & found['test']
  for seed in range(3):
    rows = {tuple(row) for row in windows(train(10, 10, seed)).tolist()}
    assert not rows & (found['valid'] | found['test'])
  again = copying.Copying(max_length=LENGTH, vocab_size=SYMBOLS, num_eval=3)
  first = windows(again.eval_batches('valid', batch_size=1)).tolist()
  assert {tuple(row) for row in first} <= found['valid']


@pytest.mark.parametrize(('length', 'symbols'), [(31, 16), (511, 256), (3, 3)])
def test_chance_is_what_the_format_alone_gives(length, symbols):
  """Certain of the separator, undecided between the letters."""
  data = copying.Copying(max_length=length, vocab_size=symbols, num_eval=4)
  [batch] = data.eval_batches('valid', batch_size=4)
  half = (length + 1) // 2
  probabilities = np.zeros((length, symbols))
  probabilities[:, 1:] = 1 / (symbols - 1)
  probabilities[half - 1] = np.eye(symbols)[0]
  with np.errstate(divide='ignore'):
    bits = -np.log2(probabilities[np.arange(length), batch['targets']])
  mean = (bits * batch['weights']).sum() / batch['weights'].sum()
  assert data.chance_bits == pytest.approx(mean, rel=1e-6)
  # Published as the chance level of the letters: 7.994 bits at 256 symbols.
  letters = data.chance_bits * half / (half - 1)
  assert letters == pytest.approx({16: 3.907, 256: 7.994, 3: 1}[symbols], 1e-3)


def test_the_baseline_knows_the_format_and_nothing_else():
  data = copying.Copying(max_length=LENGTH, vocab_size=SYMBOLS, num_eval=500)
  [(name, predictor)] = data.baselines().items()
  assert name == 'knows the format'
  scores = predictor.evaluate(data.eval_batches('test', batch_size=100))
  half = (LENGTH + 1) // 2
  assert scores.weight == 500 * half
  assert math.log2(scores.perplexity) == pytest.approx(data.chance_bits)
  # Sure of the separator; of the letters one in V - 1 is right by luck.
  expected = (1 + (half - 1) / (SYMBOLS - 1)) / half
  assert scores.accuracy == pytest.approx(expected, abs=0.01)


def test_the_best_table_over_input_tokens_does_not_know_the_format():
  """So the baseline has to look at positions: the price is about half a bit."""
  data = copying.Copying(max_length=LENGTH, vocab_size=SYMBOLS, num_eval=2000)
  batches = list(data.eval_batches('test', batch_size=500))
  counts = np.zeros((SYMBOLS, SYMBOLS))
  for batch in batches:
    used = batch['weights'] > 0
    np.add.at(counts, (batch['tokens'][used], batch['targets'][used]), 1)
  table = baseline.TokenWise(counts / counts.sum(axis=1, keepdims=True))
  bits = math.log2(table.evaluate(batches).perplexity)
  assert bits > data.chance_bits + 0.2


def test_training_has_no_end():
  data = copying.Copying(max_length=3, num_threads=0)
  assert data.num_examples('train') is None
  iterator = data.train_iterator(batch_size=1, seed=0)
  iterator.set_state({'next_index': 2**40})
  assert next(iterator)['tokens'].shape == (1, 3)


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    ({'max_length': 1}, 'max_length must be odd and at least 3'),
    ({'max_length': 512}, 'max_length must be odd'),
    ({'vocab_size': 2}, 'two letters beside the separator'),
    ({'num_eval': 0}, 'num_eval must be at least 1'),
  ],
)
def test_bad_options(options, message):
  with pytest.raises(ValueError, match=message):
    copying.Copying(**{'max_length': 31, **options})
