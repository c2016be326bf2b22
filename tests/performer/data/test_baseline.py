import math

import numpy as np
import pytest

from performer.data import baseline, masking, proteins, vocabulary


def make(tmp_path, **options):
  """Train AAAC / AD, test AC / W: counts A 4, C 1, D 1 of 6."""
  files = {}
  for name, text in {
    'train': '>1\nAAAC\n>2\nAD\n',
    'test': '>3\nAC\n>4\nW\n',
  }.items():
    path = tmp_path / f'{name}.fasta'
    path.write_text(text)
    files[name] = str(path)
  settings = {'task': 'causal', 'max_length': 4, 'files': files}
  cache = str(tmp_path / 'cache')
  return proteins.Proteins(**{**settings, 'cache_dir': cache, **options})


def test_hand_computed_case(tmp_path):
  data = make(tmp_path)
  fitted = baseline.fit(data)
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
  right = baseline.fit(data, pseudocount=0.0)
  assert right.probabilities[0] == pytest.approx(4 / 6)
  assert padded.probabilities[0] == pytest.approx(4 / 8)


def test_frequencies_ignore_cropping(tmp_path):
  short = baseline.fit(make(tmp_path, max_length=2), pseudocount=0.0)
  assert short.probabilities[1] == pytest.approx(1 / 6)


def test_end_symbols_count_where_they_are_predicted(tmp_path):
  causal = baseline.fit(make(tmp_path, concatenate=True), pseudocount=0.0)
  assert causal.probabilities[vocabulary.EOS] == pytest.approx(2 / 8)
  masked = make(tmp_path, concatenate=True, task='mlm')
  masked_fit = baseline.fit(masked, pseudocount=0.0)
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
  fitted = baseline.fit(make(tmp_path))
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
    baseline.fit(make(tmp_path), pseudocount=-1.0)


@pytest.mark.parametrize('preset', ['bert', 'protein_lm'])
def test_copying_baseline_is_the_best_guess_from_the_token(preset):
  """Its table agrees with counts of masked tokens, and beats the unigram."""
  rng = np.random.default_rng(5)
  prior = np.zeros(29)
  prior[:20] = rng.dirichlet(np.full(20, 5.0))
  tokens = rng.choice(29, 400_000, p=prior).astype(np.int32)
  how = masking.preset(preset)
  inputs, chosen = masking.mask_tokens(tokens, rng, how)
  counts = np.zeros((29, 29))
  np.add.at(counts, (inputs[chosen], tokens[chosen]), 1)
  fitted = baseline.TokenWise.of_masking(baseline.Unigram(prior), how)
  seen = counts.sum(axis=1) > 0
  expected = (
    counts[seen].sum(axis=1, keepdims=True) * fitted.probabilities[seen]
  )
  possible = expected > 0
  z = (counts[seen] - expected)[possible] / np.sqrt(expected[possible])
  assert np.abs(z).max() < 4.5  # The largest of 420 normal deviates.
  assert not counts[seen][~possible].any()
  batch = {
    'tokens': inputs[None],
    'targets': tokens[None],
    'weights': chosen[None].astype(np.float32),
  }
  copying = fitted.evaluate([batch])
  plain = baseline.Unigram(prior).evaluate([batch])
  assert copying.accuracy > plain.accuracy + 0.05
  assert copying.perplexity < plain.perplexity - 1


def test_masked_task_has_both_baselines(tmp_path):
  names = set(baseline.all_baselines(make(tmp_path, task='mlm')))
  assert names == {'empirical baseline', 'empirical, copying'}
  assert set(baseline.all_baselines(make(tmp_path))) == {'empirical baseline'}
