"""ListOps: the value of a nested list of digits, such as [MAX 4 [MIN 2 3 ] ].

An expression is a digit or an operator with two or more expressions. Trees grow
from the root: an expression is an operator with probability 1/4, unless it lies
at the greatest depth; then the number of arguments, the arguments, and the
operator are drawn, all uniformly. Expressions whose length is not strictly
between two bounds are drawn again. The length counts digits, operators and
closing brackets. The value is a digit:

| operator | value |
|---|---|
| `[MIN`, `[MAX` | the least, the greatest argument |
| `[MED` | the median; of an even number, the mean of the middle two, rounded down |
| `[SM` | the sum modulo 10 |

This is the grammar of the released generator, with its defaults. As there, no
expression that is drawn for one evaluation split occurs in another split.

The released files write parentheses around pairs. The reader here drops them.
The released reader keeps nothing but letters and digits, so that published
accuracies are those of expressions without any bracket.

References: arXiv:2011.04006, section 2.2.1; arXiv:1804.06028.
"""

import csv
import dataclasses
import functools
import itertools
import random
import re
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from typing import Any

import numpy as np
from jaxtyping import Int, Integer

from performer.data import dataset, labelled
from runtime import paths
from runtime.data import indexed

__all__ = [
  'OPERATORS',
  'SYMBOLS',
  'Grammar',
  'ListOps',
  'encode',
  'read',
  'value',
  'write',
]

OPERATORS = ('[MIN', '[MAX', '[MED', '[SM')
CLOSE = ']'
SYMBOLS = (*map(str, range(10)), *OPERATORS, CLOSE)

_ID = {s: i + labelled.SPECIAL for i, s in enumerate(SYMBOLS)}
_FIRST_OPERATOR, _CLOSE_ID = _ID[OPERATORS[0]], _ID[CLOSE]
_OPERATOR_RATE = 0.25
_MOST_DRAWS = 20_000  # The published bounds accept one expression in 13.
_MOST_REPEATS = 1000  # Draws in a row that all are expressions of other splits.
_SPLITS = ('valid', 'test')
# First words of the random streams of the splits.
_STREAMS = {name: i for i, name in enumerate(('train', *_SPLITS))}
_HEADER = ['Source', 'Target']
_TOKEN = re.compile(r'\[[A-Z]+|[^()\s]')


@dataclasses.dataclass(frozen=True)
class Grammar:
  """The distribution of expressions; the defaults are the published ones.

  Attributes:
    max_depth: depth of the deepest digit; the root has depth 1.
    max_args: most arguments of an operator.
    min_length: expressions are longer than this.
    max_length: expressions are shorter than this.

  Raises:
    ValueError: there is no such expression.
  """

  max_depth: int = 10
  max_args: int = 10
  min_length: int = 500
  max_length: int = 2000

  def __post_init__(self) -> None:
    if self.max_depth < 2 or self.max_args < 2:
      raise ValueError(
        'an operator needs a depth of 2 and two arguments, got '
        f'{self.max_depth=} {self.max_args=}'
      )
    if not 0 <= self.min_length < self.max_length - 1:
      raise ValueError(
        'an expression must fit strictly between min_length and max_length, '
        f'got {self}'
      )

  def draw(self, rng: np.random.Generator) -> Int[np.ndarray, 'n']:
    """Draws an expression, int64 [n], as ids of tokens.

    Raises:
      ValueError: many draws in a row have no such length.
    """
    # Thousands of single draws, at which NumPy is five times slower.
    uniform = random.Random(int(rng.integers(2**63))).random
    for _ in range(_MOST_DRAWS):
      ids: list[int] = []
      self._grow(1, uniform, ids)
      if self.min_length < len(ids) < self.max_length:
        return np.array(ids)
    raise ValueError(
      f'none of {_MOST_DRAWS} expressions has a length strictly between '
      f'min_length and max_length: {self}'
    )

  def _grow(
    self, depth: int, uniform: Callable[[], float], ids: list[int]
  ) -> None:
    """Appends an expression; leaves it unfinished once it is too long."""
    if depth == self.max_depth or uniform() > _OPERATOR_RATE:
      ids.append(_ID['0'] + int(10 * uniform()))
      return
    # The operator is independent of its arguments, so that it may come first.
    ids.append(_FIRST_OPERATOR + int(len(OPERATORS) * uniform()))
    for _ in range(2 + int((self.max_args - 1) * uniform())):
      if len(ids) >= self.max_length:
        return
      self._grow(depth + 1, uniform, ids)
    ids.append(_CLOSE_ID)


def value(ids: Integer[np.ndarray, 'n']) -> int:
  """The value of an expression.

  Args:
    ids: its tokens.

  Raises:
    ValueError: they are no expression.
  """
  lists: list[list[int]] = [[]]
  operators: list[int] = []
  for token in ids.tolist():
    if _FIRST_OPERATOR <= token < _CLOSE_ID:
      operators.append(token)
      lists.append([])
    elif token == _CLOSE_ID and operators and lists[-1]:
      arguments = lists.pop()
      lists[-1].append(_apply(operators.pop() - _FIRST_OPERATOR, arguments))
    elif _ID['0'] <= token < _FIRST_OPERATOR:
      lists[-1].append(token - _ID['0'])
    else:
      raise ValueError(f'a bracket closes nothing, or no token: {token=}')
  if operators or len(lists[0]) != 1:
    raise ValueError(
      f'an expression must be one digit or list, got {len(operators)} open '
      f'brackets and {len(lists[0])} values'
    )
  return lists[0][0]


def _apply(operator: int, arguments: list[int]) -> int:
  """The value of an operator, by its place in `OPERATORS`."""
  if operator == 2:
    arguments = sorted(arguments)
    middle = arguments[(len(arguments) - 1) // 2 : len(arguments) // 2 + 1]
    return sum(middle) // len(middle)
  return (min, max, None, lambda found: sum(found) % 10)[operator](arguments)


def encode(text: str) -> Int[np.ndarray, 'n']:
  """The tokens of an expression as released; parentheses are dropped.

  Raises:
    ValueError: something else stands in the text.
  """
  found = _TOKEN.findall(text)
  try:
    return np.array([_ID[symbol] for symbol in found], np.int64)
  except KeyError as error:
    raise ValueError(f'symbols must be {[*SYMBOLS]}, got {error}') from error


def read(path: str) -> list[labelled.Row]:
  """Reads a file as released: a header, then an expression and its value.

  Lines end as on any system; empty ones are skipped.

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: a line is malformed; the message names it.
  """
  rows: list[labelled.Row] = []
  with open(path, encoding='utf-8', newline='') as stream:
    lines = csv.reader(stream, delimiter='\t', quoting=csv.QUOTE_NONE)
    if next(lines, None) != _HEADER:
      raise ValueError(f'{path}:1: the header must be {_HEADER}')
    for fields in filter(None, lines):
      try:
        rows.append(_row(fields))
      except ValueError as error:
        raise ValueError(f'{path}:{lines.line_num}: {error}') from error
  if not rows:
    raise ValueError(f'{path}: the file must hold an expression')
  return rows


def _row(fields: Sequence[str]) -> labelled.Row:
  if len(fields) != 2:
    raise ValueError(
      f'a line must be an expression, a tab and its value, got {fields}'
    )
  ids = encode(fields[0])
  if not ids.size:
    raise ValueError(f'there must be an expression, got {fields[0]!r}')
  return ids.astype(np.uint8), _digit(fields[1])


def _digit(text: str) -> int:
  if text not in SYMBOLS[:10]:
    raise ValueError(f'the value must be a digit, got {text!r}')
  return int(text)


def write(path: str, rows: Iterable[labelled.Row]) -> int:
  """Writes a file in the released format, without parentheses.

  Returns:
    The number of expressions.
  """
  count = 0
  with open(path, 'w', encoding='utf-8', newline='') as stream:
    lines = csv.writer(stream, delimiter='\t', lineterminator='\n')
    lines.writerow(_HEADER)
    for ids, label in rows:
      text = ' '.join(SYMBOLS[i - labelled.SPECIAL] for i in ids.tolist())
      lines.writerow([text, label])
      count += 1
  return count


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class ListOps(labelled.Labelled):
  """ListOps as a data set: drawn here, or read from released files.

  Attributes:
    grammar: of the expressions; None with `files`.
    num_train: expressions drawn for training.
    num_eval: expressions drawn for `valid`, and for `test`.
    files: path of the TSV file of each split, one of them `train`; None draws.
    crop: tokens that are kept, without the symbol in front; None: all that the
      grammar makes.
    num_threads: threads that make training examples; 0 makes them in step.

  Raises:
    ValueError: an option is out of range or contradicts another.
  """

  grammar: Grammar | None = dataclasses.field(default_factory=Grammar)
  num_train: int = 96_000
  num_eval: int = 2_000
  files: Mapping[str, str] | None = None
  crop: int | None = None
  num_threads: int = 2
  num_classes = 10

  def __post_init__(self) -> None:
    if (self.grammar is None) == (self.files is None):
      raise ValueError(
        f'give a grammar or files, got {self.grammar=} {self.files=}'
      )
    if self.files is not None:
      dataset.check_splits(self.files)
    if self.crop is None and self.grammar is None:
      raise ValueError('crop must say how long the expressions of files are')
    if min(self.num_train, self.num_eval, self.crop or 1) < 1:
      raise ValueError(
        'sizes must be at least 1, got '
        f'{self.num_train=} {self.num_eval=} {self.crop=}'
      )
    if self.num_threads < 0:
      raise ValueError(f'num_threads must be >= 0, got {self.num_threads=}')

  @property
  def max_length(self) -> int:
    """Tokens of an example, with the symbol in front."""
    return 1 + (self.crop or self.grammar.max_length - 1)

  @property
  def vocab_size(self) -> int:
    """Number of token ids."""
    return labelled.SPECIAL + len(SYMBOLS)

  @property
  def splits(self) -> tuple[str, ...]:
    """Names of the splits other than `train`."""
    if self.files is None:
      return _SPLITS
    return tuple(name for name in self.files if name != 'train')

  def rows(self, split: str) -> Sequence[labelled.Row]:
    """See `Labelled`."""
    known = ('train', *self.splits)
    if split not in known:
      raise ValueError(f'split must be one of {[*known]}, got {split=}')
    if split not in self._opened:
      self._opened[split] = self._open(split)
    return self._opened[split]

  @functools.cached_property
  def _opened(self) -> dict[str, Any]:
    return {}  # Filled by `rows`.

  def _open(self, split: str) -> Sequence[labelled.Row]:
    if self.files is not None:
      return read(str(paths.local(self.files[split])))
    # Drawn when they are read: the published splits take half a minute.
    if split != 'train':
      return indexed.Lazy(self.num_eval, lambda i: self._held_out[split][i])
    return indexed.Lazy(
      self.num_train, lambda i: self._draw('train', i, self._judged)
    )

  def _draw(self, split: str, index: int, taken: Set[bytes]) -> labelled.Row:
    """An expression of a split that is not one of those taken."""
    rng = np.random.default_rng((_STREAMS[split], index))
    for _ in range(_MOST_REPEATS):
      ids = self.grammar.draw(rng).astype(np.uint8)
      if ids.tobytes() not in taken:
        return ids, value(ids)
    raise ValueError(
      f'the grammar has too few expressions for {self.num_eval} in each of '
      f'{_SPLITS} and others to train on: {self.grammar}'
    )

  @functools.cached_property
  def _held_out(self) -> dict[str, list[labelled.Row]]:
    """The drawn expressions of the evaluation splits, all of them different."""
    taken: set[bytes] = set()
    drawn: dict[str, list[labelled.Row]] = {name: [] for name in _SPLITS}
    for split, index in itertools.product(_SPLITS, range(self.num_eval)):
      row = self._draw(split, index, taken)
      taken.add(row[0].tobytes())
      drawn[split].append(row)
    return drawn

  @functools.cached_property
  def _judged(self) -> frozenset[bytes]:
    """What no training expression may be."""
    rows = itertools.chain.from_iterable(self._held_out.values())
    return frozenset(ids.tobytes() for ids, _ in rows)
