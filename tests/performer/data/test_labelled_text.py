"""Texts to classify: what the bytes and the labels are."""

import numpy as np
import pytest

from performer.data import labelled, labelled_text
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
  with pytest.raises(FileNotFoundError, match='with'):
    labelled_text.Folders(str(tmp_path)).read('train')


def test_public_reviews(monkeypatch):
  rows = [{'text': b'good', 'label': np.int64(1)}]
  monkeypatch.setattr(labelled_text.public, 'load', lambda *a, **k: [rows])
  data = labelled_text.LabelledText(source=labelled_text.Public(), length=9)
  ids, label = data.rows('train')[0]
  assert (text_of(ids), label) == ('good', 1)
