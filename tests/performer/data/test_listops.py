"""ListOps against an evaluator and a reader of their own."""

import re
import traceback

import numpy as np
import pytest

from performer.data import labelled, listops
from tests import seeds

SMALL = listops.Grammar(max_depth=5, max_args=4, min_length=4, max_length=40)


def words(ids):
  return [listops.SYMBOLS[i - labelled.SPECIAL] for i in ids]


def by_python(ids):
  """The value as a Python expression, evaluated by Python."""
  calls = {
    '[MIN': 'min((',
    '[MAX': 'max((',
    '[MED': 'int(np.median((',
    '[SM': 'digit((',
  }
  ends, text = [], ''
  for word in words(ids):
    if word == ']':
      text += ends.pop() + ','
    elif word in calls:
      text += calls[word]
      ends.append(')))' if word == '[MED' else '))')
    else:
      text += f'{word},'
  scope = {'np': np, 'digit': lambda x: sum(x) % 10}
  return eval(text.rstrip(','), scope)


def test_values_agree_with_python():
  rng = seeds.rng(0)
  for _ in range(300):
    ids = SMALL.draw(rng)
    assert listops.value(ids) == by_python(ids), words(ids)


def test_expressions_follow_the_grammar():
  rng = seeds.rng(1)
  first, arguments = [], []
  for _ in range(400):
    ids = SMALL.draw(rng)
    assert SMALL.min_length < ids.size < SMALL.max_length
    text = ' '.join(words(ids))
    depth = deepest = 0
    for word in text.split():
      depth += word.startswith('[')
      deepest = max(deepest, depth)
      depth -= word == ']'
    assert depth == 0
    assert deepest < SMALL.max_depth  # The deepest place holds a digit.
    while (found := re.search(r'\[[A-Z]+((?: [\dv])+) \]', text)) is not None:
      arguments.append(len(found[1].split()))
      text = text.replace(found[0], 'v', 1)
    assert text == 'v'
    first.append(words(ids)[0])
  assert set(arguments) == {2, 3, 4}
  assert set(first) == set(listops.OPERATORS)


def test_operators_are_as_frequent_as_the_grammar_says():
  """At the root and below, before lengths select; 4 standard deviations."""
  free = listops.Grammar(max_depth=3, max_args=3, min_length=0, max_length=99)
  rng = seeds.rng(2)
  drawn = [free.draw(rng) for _ in range(6000)]
  lists = [ids for ids in drawn if ids.size > 1]
  assert len(lists) / 6000 == pytest.approx(
    0.25, abs=4 * (0.1875 / 6000) ** 0.5
  )
  # An argument at depth 2 is a list with probability 1/4 too.
  inner = sum((ids[1:] >= listops._FIRST_OPERATOR).sum() // 2 for ids in lists)
  expected = 0.25 * 2.5 * len(lists)
  assert inner == pytest.approx(expected, rel=0.12)


@pytest.mark.parametrize(
  ('text', 'value'),
  [
    ('7', 7),
    ('[SM 9 9 9 ]', 7),
    ('[MED 1 2 5 8 ]', 3),
    ('( ( ( [MAX 2 ) ( ( ( [MIN 4 ) 7 ) ] ) ) ] )', 4),
    ('( ( ( ( [MED 0 ) 1 ) 9 ) ] )', 1),
  ],
)
def test_released_texts_are_read(text, value):
  assert listops.value(listops.encode(text)) == value


@pytest.mark.parametrize(
  ('text', 'message'),
  [
    ('[FIRST 1 2 ]', r'symbols must be .* got .\[FIRST'),
    ('[MAX 1 x ]', "symbols must be .* got 'x'"),
  ],
)
def test_other_texts_are_refused(text, message):
  with pytest.raises(ValueError, match=message):
    listops.encode(text)


@pytest.mark.parametrize('text', ['[MAX 1 2', '1 2', ']', '[MAX ]', ''])
def test_no_expression_has_no_value(text):
  with pytest.raises(ValueError, match=r'an expression must be|closes nothing'):
    listops.value(listops.encode(text))


def test_files_give_back_what_was_written(tmp_path):
  drawn = listops.ListOps(grammar=SMALL, num_train=20, num_eval=5)
  files = {}
  for split in ('train', 'valid'):
    files[split] = str(tmp_path / f'{split}.tsv')
    listops.write(files[split], drawn.rows(split))
  found = listops.ListOps(grammar=None, files=files, crop=SMALL.max_length - 1)
  assert found.splits == ('valid',)
  assert (found.max_length, found.vocab_size) == (40, drawn.vocab_size)
  for split in files:
    pairs = zip(found.rows(split), drawn.rows(split), strict=True)
    for (ids, label), (other, value) in pairs:
      np.testing.assert_array_equal(ids, other)
      assert label == value


def test_released_files_may_end_lines_as_on_windows(tmp_path):
  path = tmp_path / 'released.tsv'
  path.write_bytes(
    b'Source\tTarget\r\n( ( ( [MAX 2 ) 9 ) ] )\t9\r\n\r\n7\t7\r\n\r\n'
  )
  (first, nine), (_, seven) = listops.read(str(path))
  assert words(first) == ['[MAX', '2', '9', ']']
  assert (nine, seven) == (9, 7)


def test_no_expression_is_in_two_splits():
  """Of this grammar half of the 250 drawn would be."""
  grammar = listops.Grammar(max_depth=2, max_args=2, min_length=3, max_length=5)
  data = listops.ListOps(grammar=grammar, num_train=200, num_eval=50)
  found = {
    split: [ids.tobytes() for ids, _ in data.rows(split)]
    for split in ('train', 'valid', 'test')
  }
  judged = found['valid'] + found['test']
  assert len(set(judged)) == len(judged) == 100
  assert not set(judged) & set(found['train'])
  again = listops.ListOps(grammar=grammar, num_train=9, num_eval=50)
  assert again.rows('train')[8][0].tobytes() == found['train'][8]
  few = listops.ListOps(grammar=grammar, num_train=9, num_eval=300)
  with pytest.raises((ValueError, TypeError)) as caught:
    few.rows('valid')[0]
  # The check of types may read a row first, and fails in its own way.
  told = ''.join(traceback.format_exception(caught.value))
  assert 'has too few expressions for 300' in told


def test_bad_files_are_named(tmp_path):
  path = tmp_path / 'bad.tsv'
  for text, message in (
    ('Target\tSource\n', ':1: the header must be'),
    ('[MAX 1 2 ]\t10\n', ":2: the value must be a digit, got '10"),
    ('', 'must hold an expression'),
    ('7\t7\n\n[MAX 1 2 ]\n', ':4: a line must be an expression'),
    ('( )\t1\n', ':2: there must be an expression'),
  ):
    header = '' if 'header' in message else 'Source\tTarget\n'
    path.write_text(header + text)
    with pytest.raises(ValueError, match=message):
      listops.read(str(path))


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    ({'max_depth': 1}, 'a depth of 2'),
    ({'min_length': 99}, 'must fit strictly between'),
  ],
)
def test_impossible_grammars_are_refused(options, message):
  with pytest.raises(ValueError, match=message):
    listops.Grammar(**{'max_length': 99} | options)


def test_lengths_that_no_expression_has_end_the_search():
  """With two arguments at most, every operator adds three symbols."""
  grammar = listops.Grammar(max_depth=9, max_args=2, min_length=4, max_length=7)
  with pytest.raises(ValueError, match='none of 20000 expressions'):
    grammar.draw(seeds.rng(0))


def test_options_of_the_set():
  for options, message in (
    ({'files': {'train': 'a', 'test': 'b'}}, 'a grammar or files'),
    ({'grammar': None, 'files': {'train': 'a', 'test': 'b'}}, 'crop must say'),
    ({'grammar': None, 'files': {'test': 'a'}, 'crop': 3}, "a 'train' split"),
    ({'num_eval': 0}, 'sizes must be at least 1'),
  ):
    with pytest.raises(ValueError, match=message):
      listops.ListOps(**options)
