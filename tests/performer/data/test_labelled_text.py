"""Texts to classify: what the bytes and the labels are."""

import numpy as np
import pytest

from performer.data import labelled, labelled_text, listops, pictures
from tests.performer.data import data_cases


def text_of(ids):
  return bytes((ids - labelled.SPECIAL).astype(np.uint8)).decode()


def test_shuffled_words_have_the_words_of_their_passage():
  source = labelled_text.ShuffledWords(8)
  data = labelled_text.LabelledText(source=source, length=400)
  everything = [
    word for ids, _ in data.rows('test') for word in text_of(ids).split()
  ]
  plain = ' '.join(text_of(data.rows('test')[i][0]) for i in (0, 2))
  assert text_of(data.rows('test')[0][0]) in plain
  changed = 0
  for i in range(1, 101, 2):
    (ids, label), (_, before) = data.rows('test')[i], data.rows('test')[i - 1]
    assert (label, before) == (1, 0)
    words = text_of(ids).split()
    original = labelled_text.ShuffledWords(4).read('test')
    first = original[4 * (i // 2) + 2][0].decode().split()
    changed += words[:4] != first
    assert set(first) <= set(words)
  assert changed > 45
  assert len(everything) > 10_000


def test_reviews_in_folders(tmp_path):
  folder = data_cases.reviews(tmp_path / 'aclImdb')
  data = labelled_text.LabelledText(
    source=labelled_text.Folders(str(folder)), length=6
  )
  assert (data.splits, data.num_classes, data.max_length) == (('valid',), 2, 7)
  rows = data.rows('valid')
  assert [label for _, label in rows] == [0] * 4 + [1] * 4
  assert text_of(rows[0][0]) == 'a bad '
  _, examples = data.evaluation_examples('valid')
  assert examples(np.array([0]))['tokens'][0, 0] == labelled.BEGIN
  (baseline,) = data.baselines().values()
  counted = baseline.probabilities
  np.testing.assert_allclose(counted, [0.5, 0.5])
  with pytest.raises(FileNotFoundError, match='train/neg: no such folder with'):
    labelled_text.Folders(str(tmp_path)).read('train')
  misspelt = labelled_text.Folders(str(folder), classes=('neg', 'positive'))
  with pytest.raises(FileNotFoundError, match='positive: no such folder with'):
    misspelt.read('train')


def test_the_baseline_counts_all_classes_of_a_sorted_set(monkeypatch):
  rows = [{'text': b'a', 'label': int(i >= 3000)} for i in range(6000)]
  monkeypatch.setattr(labelled_text.public, 'load', lambda *a, **k: [rows])
  data = labelled_text.LabelledText(source=labelled_text.Public(), length=9)
  (baseline,) = data.baselines().values()
  np.testing.assert_allclose(baseline.probabilities, [0.5, 0.5], atol=0.05)


def test_labels_out_of_range_are_refused(monkeypatch):
  """As of the part of the reviews that has no labels."""
  rows = [{'text': b'good', 'label': -1}]
  monkeypatch.setattr(labelled_text.public, 'load', lambda *a, **k: [rows])
  data = labelled_text.LabelledText(source=labelled_text.Public(), length=9)
  with pytest.raises(ValueError, match=r'in 0\.\.1 .* got -1 in the split'):
    data.evaluation_examples('valid')[1](np.array([0]))


@pytest.mark.parametrize(
  ('parts', 'message'),
  [
    ({'train': 'train', 'valid': './train'}, r"\['valid'\] and 'train' are"),
    ({'valid': 'test'}, "must name a 'train' split and another"),
  ],
)
def test_splits_must_be_apart(parts, message):
  for make in (
    lambda: labelled_text.Folders('reviews', parts=parts),
    lambda: labelled_text.Public(parts=parts),
    lambda: pictures.Public('cifar10', parts),
    lambda: pictures.Arrays(parts),
    lambda: listops.ListOps(grammar=None, files=parts, crop=9),
  ):
    with pytest.raises(ValueError, match=message):
      make()
  both = {'train': 'train', 'valid': 'test', 'test': 'test'}
  assert labelled_text.Public(parts=both).splits == tuple(both)


def test_public_reviews(monkeypatch):
  rows = [{'text': b'good', 'label': np.int64(1)}]
  monkeypatch.setattr(labelled_text.public, 'load', lambda *a, **k: [rows])
  data = labelled_text.LabelledText(source=labelled_text.Public(), length=9)
  ids, label = data.rows('train')[0]
  assert (text_of(ids), label) == ('good', 1)
