"""Pieces of words: the encoding, its windows, and perplexities of words."""

import math

import numpy as np
import pytest
import sentencepiece

from performer import results
from performer.data import documents, subwords
from tests.performer.data import batch_cases, data_cases


@pytest.fixture(scope='module')
def sources(tmp_path_factory):
  folder = tmp_path_factory.mktemp('subwords')
  texts, model = data_cases.pieces(folder)
  (folder / 'books').mkdir()
  for name, text in (('b', 'the hat sat'), ('a', 'the cat sat on the mat')):
    (folder / 'books' / f'{name}.txt').write_text(text)
  files = {'train': str(texts), 'valid': str(folder / 'books')}
  return str(model), documents.Files(files), str(folder / 'cache')


def make(sources, **options):
  model, texts, cache = sources
  return subwords.Subwords(
    **{
      'task': 'causal',
      'max_length': 8,
      'model': model,
      'documents': texts,
      'cache_dir': cache,
      'num_threads': 0,
    }
    | options
  )


def test_published_multipliers():
  found = subwords.pg19_pieces_per_word()
  rounded = {name: round(value, 4) for name, value in found.items()}
  assert rounded == {'train': 1.5634, 'valid': 1.5487, 'test': 1.5359}


def test_windows_are_the_documents_in_order(sources):
  data = make(sources)
  _, rows = data.evaluation_examples('valid')
  count = data.num_examples('valid')
  batch = rows(np.arange(count))
  pieces = batch['targets'].ravel()
  library = data._processor
  expected = []
  for text in ('the cat sat on the mat', 'the hat sat'):
    expected += [*library.encode(text), library.eos_id()]
  np.testing.assert_array_equal(pieces, expected[: pieces.size])
  assert pieces.size > len(expected) - 8
  assert (batch['tokens'][:, 0] == data.vocab_size - 1).all()
  np.testing.assert_array_equal(
    batch['tokens'][:, 1:], batch['targets'][:, :-1]
  )
  assert data.counts('valid') == (9, len(expected) - 2)
  assert data.tokens_per_word('valid') == (len(expected) - 2) / 9
  assert data.codec.decode(data.codec.encode('the cat')[1:]) == 'the cat'
  assert data.vocab_size == data_cases.PIECES + 2


def test_masks(sources):
  data = make(sources, task='mlm', max_length=64)
  [batch] = batch_cases.take(data.train_iterator(batch_size=32, seed=0), 1)
  hidden = batch['weights'] > 0
  assert hidden.mean() == pytest.approx(0.15, abs=0.01)
  masked = batch['tokens'] == data.vocab_size - 2
  assert not (masked & ~hidden).any()
  assert masked.sum() / hidden.sum() == pytest.approx(0.8, abs=0.08)
  same = batch['tokens'] == batch['targets']
  assert same[~hidden].all()
  [later] = batch_cases.take(data.train_iterator(batch_size=32, seed=1), 1)
  assert (later['tokens'] != batch['tokens']).any()


def test_the_text_is_encoded_once(sources, monkeypatch):
  make(sources).num_examples('train')
  monkeypatch.setattr(subwords, 'encode', None)
  assert make(sources, max_length=4).num_examples('train') > 100


def test_a_model_without_an_end_symbol_is_refused(sources, tmp_path):
  _, texts, _ = sources
  sentencepiece.SentencePieceTrainer.train(
    input=texts.files['train'],
    model_prefix=str(tmp_path / 'endless'),
    vocab_size=data_cases.PIECES - 1,
    eos_id=-1,
    minloglevel=2,
  )
  model = str(tmp_path / 'endless.model')
  with pytest.raises(ValueError, match='must have an end symbol'):
    make(sources, model=model).num_examples('train')


def test_perplexities_of_words(sources):
  data = make(sources, pieces_per_word={'train': 9.0, 'valid': 1.5})
  scores = {'valid': {'accuracy': 0.5, 'perplexity': math.exp(2.0)}}
  model, baseline = results.score_rows(data, scores, batch_size=4)
  assert model['valid word perpl.'] == pytest.approx(math.exp(1.5 * 2.0))
  assert baseline['valid word perpl.'] == pytest.approx(
    baseline['valid perpl.'] ** 1.5
  )
  scores['valid']['perplexity'] = 1e300
  assert (
    results.score_rows(data, scores, batch_size=4)[0]['valid word perpl.']
    == math.inf
  )


def test_public_books(monkeypatch, sources):
  rows = [{'book_text': b'the cat'}, {'book_text': 'sat'}]
  monkeypatch.setattr(documents.public, 'load', lambda *a, **k: [rows])
  assert [*documents.pg19().read('valid')] == ['the cat', 'sat']
  assert documents.lm1b().splits == ('train', 'valid')
  assert documents.wiki40b('de').dataset == 'wiki40b/de'


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    ({'task': 'classify'}, 'task must be'),
    ({'max_length': 1}, 'max_length must be at least 2'),
    ({'masking': 'none'}, 'masking must be one of'),
    ({'num_threads': -1}, 'num_threads must be >= 0'),
    (
      {'pieces_per_word': {'train': 1.5}},
      'must be positive and of every split',
    ),
  ],
)
def test_bad_options_are_refused(sources, options, message):
  with pytest.raises(ValueError, match=message):
    make(sources, **options)


def test_missing_files(sources, tmp_path):
  with pytest.raises(FileNotFoundError, match='no such model'):
    make(sources, model=str(tmp_path / 'none')).num_examples('train')
  missing = documents.Files({'train': str(tmp_path / 'none')})
  with pytest.raises(FileNotFoundError, match='no such file, nor a folder'):
    make(sources, documents=missing).num_examples('train')
  with pytest.raises(ValueError, match='split must be one of'):
    make(sources).num_examples('test')
  with pytest.raises(ValueError, match='a window of 500 pieces'):
    make(sources, max_length=500).num_examples('valid')
