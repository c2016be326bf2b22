import math

import numpy as np
import pytest

from performer.data import baseline, proteins, vocabulary
from tests.performer.data import data_cases


def make(tmp_path, **options):
  """Train AAAC / AD, test AC / W: counts A 4, C 1, D 1 of 6."""
  files = {
    name: data_cases.write_fasta(tmp_path / f'{name}.fasta', sequences)
    for name, sequences in (('train', ('AAAC', 'AD')), ('test', ('AC', 'W')))
  }
  settings = {'task': 'causal', 'max_length': 4, 'files': files}
  cache = str(tmp_path / 'cache')
  return proteins.Proteins(**{**settings, 'cache_dir': cache, **options})


def fit(data, pseudocount=1.0):
  return data.baselines(pseudocount=pseudocount)['empirical baseline']


def test_hand_computed_case(tmp_path):
  data = make(tmp_path)
  fitted = fit(data)
  # Add-one over 25 residues: A 5/31, C and D 2/31, each other 1/31.
  assert fitted.probabilities[0] == pytest.approx(5 / 31)
  assert fitted.probabilities[1] == pytest.approx(2 / 31)
  assert fitted.probabilities[18] == pytest.approx(1 / 31)
  assert not fitted.probabilities[25:].any()
  assert fitted.probabilities.sum() == pytest.approx(1)
  scores = fitted.evaluate(data.eval_batches('test', batch_size=3))
  loss = -(math.log(5 / 31) + math.log(2 / 31) + math.log(1 / 31)) / 3
  assert scores.weight == 3
  assert scores.accuracy == pytest.approx(1 / 3)
  assert scores.loss == pytest.approx(loss)
  assert scores.perplexity == pytest.approx(math.exp(loss))


def test_counting_padding_fails_that_case(tmp_path):
  """The released recipe counts the padded batch: A falls from 4/6 to 4/8."""
  data = make(tmp_path)
  rows = next(data.train_iterator(batch_size=2, seed=0))['targets']
  counts = np.bincount(rows.ravel(), minlength=29).astype(float)
  padded = baseline.Unigram(counts / counts.sum())
  right = fit(data, pseudocount=0.0)
  assert right.probabilities[0] == pytest.approx(4 / 6)
  assert padded.probabilities[0] == pytest.approx(4 / 8)


def test_frequencies_ignore_cropping(tmp_path):
  short = fit(make(tmp_path, max_length=2), pseudocount=0.0)
  assert short.probabilities[1] == pytest.approx(1 / 6)


def test_end_symbols_count_where_they_are_predicted(tmp_path):
  causal = fit(make(tmp_path, concatenate=True), pseudocount=0.0)
  assert causal.probabilities[vocabulary.EOS] == pytest.approx(2 / 8)
  masked = make(tmp_path, concatenate=True, task='mlm')
  masked_fit = fit(masked, pseudocount=0.0)
  assert masked_fit.probabilities[vocabulary.EOS] == 0
  assert masked_fit.probabilities[0] == pytest.approx(4 / 6)


def test_only_weighted_targets_are_scored():
  batch = {
    'tokens': np.full((1, 4), vocabulary.MASK, np.int32),
    'targets': np.array([[0, 1, 1, vocabulary.PAD]], np.int32),
    'weights': np.array([[1, 0, 0.5, 0]], np.float32),
  }
  probabilities = np.zeros(29)
  probabilities[:2] = 0.75, 0.25
  scores = baseline.Unigram(probabilities).evaluate([batch, batch])
  assert scores.weight == 3
  assert scores.accuracy == pytest.approx(2 / 3)
  expected = -(math.log(0.75) + 0.5 * math.log(0.25)) / 1.5
  assert scores.loss == pytest.approx(expected)


def test_errors(tmp_path):
  fitted = fit(make(tmp_path))
  batch = {
    'tokens': np.array([[0]]),
    'targets': np.array([[vocabulary.PAD]]),
    'weights': np.zeros((1, 1), np.float32),
  }
  with pytest.raises(ValueError, match='target of weight > 0'):
    fitted.evaluate([batch])
  with pytest.raises(ValueError, match=r'must be residues, got ids \[27\]'):
    fitted.evaluate([{**batch, 'weights': np.ones((1, 1), np.float32)}])
  with pytest.raises(ValueError, match='pseudocount must be >= 0'):
    fit(make(tmp_path), pseudocount=-1.0)


@pytest.mark.parametrize('preset', ['bert', 'protein_lm'])
def test_copying_baseline_is_the_best_guess_from_the_token(tmp_path, preset):
  """Its table agrees with counts of masked tokens, and beats the unigram."""
  rng = np.random.default_rng(5)
  letters = list(vocabulary.SYMBOLS[:20])
  prior = rng.dirichlet(np.full(20, 5.0))
  texts = (''.join(rng.choice(letters, 1000, p=prior)) for _ in range(400))
  files = {'train': data_cases.write_fasta(tmp_path / 'long.fasta', texts)}
  options = {'task': 'mlm', 'masking': preset, 'max_length': 1000}
  data = make(tmp_path, files=files, **options)
  fitted = data.baselines(pseudocount=0.0)
  batches = list(data.eval_batches('train', batch_size=100))
  counts = np.zeros((29, 29))
  for batch in batches:
    chosen = batch['weights'] > 0
    np.add.at(counts, (batch['tokens'][chosen], batch['targets'][chosen]), 1)
  seen = counts.sum(axis=1) > 0
  table = fitted['empirical, copying'].probabilities
  expected = counts[seen].sum(axis=1, keepdims=True) * table[seen]
  possible = expected > 0
  z = (counts[seen] - expected)[possible] / np.sqrt(expected[possible])
  assert np.abs(z).max() < 4.5  # The largest of 420 normal deviates.
  assert not counts[seen][~possible].any()
  copying = fitted['empirical, copying'].evaluate(batches)
  plain = fitted['empirical baseline'].evaluate(batches)
  assert copying.accuracy > plain.accuracy + 0.05
  assert copying.perplexity < plain.perplexity - 1


def test_masked_task_has_both_baselines(tmp_path):
  names = set(make(tmp_path, task='mlm').baselines())
  assert names == {'empirical baseline', 'empirical, copying'}
  assert set(make(tmp_path).baselines()) == {'empirical baseline'}


def random_batches(vocab, shape=(3, 5), count=2):
  rng = np.random.default_rng(vocab)
  for _ in range(count):
    yield {
      'tokens': rng.integers(0, vocab, shape).astype(np.int32),
      'targets': rng.integers(0, vocab, shape).astype(np.int32),
      'weights': rng.integers(0, 3, shape).astype(np.float32),
    }


@pytest.mark.parametrize('kind', ['unigram', 'token', 'position'])
@pytest.mark.parametrize('vocab', [2, 7, 300])
def test_tables_of_any_size_score_target_by_target(kind, vocab):
  rng = np.random.default_rng(1)

  def draw(*rows):
    return rng.dirichlet(np.ones(vocab), rows)

  one, by_token, by_position = draw(), draw(vocab), draw(5)
  predictor = {
    'unigram': baseline.Unigram(one),
    'token': baseline.TokenWise(by_token),
    'position': baseline.PositionWise(by_position),
  }[kind]
  losses, hits, weights = [], [], []
  for batch in random_batches(vocab):
    for (row, at), target in np.ndenumerate(batch['targets']):
      given = {
        'unigram': one,
        'token': by_token[batch['tokens'][row, at]],
        'position': by_position[at],
      }[kind]
      losses.append(-math.log(given[target]))
      hits.append(target == given.argmax())
      weights.append(float(batch['weights'][row, at]))
  scores = predictor.evaluate(random_batches(vocab))
  assert scores.weight == sum(weights)
  assert scores.loss == pytest.approx(np.average(losses, weights=weights))
  assert scores.accuracy == pytest.approx(np.average(hits, weights=weights))
  assert scores.perplexity == pytest.approx(math.exp(scores.loss))


def test_unigram_of_counts():
  counts = np.array([3, 0, 1])
  np.testing.assert_allclose(
    baseline.unigram(counts).probabilities, [4 / 7, 1 / 7, 2 / 7]
  )
  np.testing.assert_allclose(
    baseline.unigram(counts, pseudocount=0.0).probabilities, [3 / 4, 0, 1 / 4]
  )
  with pytest.raises(ValueError, match='pseudocount must be >= 0'):
    baseline.unigram(counts, pseudocount=-0.1)
  with pytest.raises(ValueError, match='counts must have a positive sum'):
    baseline.unigram(np.zeros(3, int), pseudocount=0.0)


def test_batches_that_do_not_fit_the_table():
  """Ids past the end must not count as those of the next row."""
  wide = next(random_batches(9))
  with pytest.raises(ValueError, match='must fit the table of the baseline'):
    baseline.TokenWise(np.full((4, 4), 0.25)).evaluate([wide])
  with pytest.raises(ValueError, match='must fit the table of the baseline'):
    baseline.PositionWise(np.full((4, 9), 1 / 9)).evaluate([wide])
  with pytest.raises(ValueError, match='ids of positive probability, got ids'):
    baseline.Unigram(np.eye(9)[0]).evaluate([wide])
