"""How a study is written: the text of its problem and that of its trials.

There are two grammars: that of the paper, and that of its first release, on
which the public checkpoints were trained. A model knows one dialect; the
strings of the two never mix.

The `minimal` text of a problem leaves out names and ranges. It keeps types,
numbers of values, the goal and the algorithm.

Reference: arXiv:2205.13320, Section 4.1, Table 2 and Appendix A.2.
"""

import dataclasses
import json
import re
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int

from hpo import spaces, studies

__all__ = ['DIALECTS', 'Dialect', 'Neurips22', 'Paper', 'by_name']

_TYPES = {'FLOAT': 1, 'INT': 2, 'CATEGORICAL': 3, 'DISCRETE': 4}
_SCALES = {'LINEAR': 1, 'LOG': 2, 'REVERSE_LOG': 3}
_WORDS = {
  'FLOAT': 'DOUBLE',
  'INT': 'INTEGER',
  'CATEGORICAL': 'CATEGORICAL',
  'DISCRETE': 'DISCRETE',
}
Tokens = Int[np.ndarray, 't d']


@runtime_checkable
class Dialect(Protocol):
  """A way to write studies."""

  name: str

  def metadata(
    self,
    problem: studies.Problem,
    order: Sequence[int],
    *,
    minimal: bool = False,
  ) -> str:
    """The text of a problem.

    Args:
      problem: the goal is always written as MAXIMIZE: values are flipped
        before a model sees them.
      order: places of the free parameters, in the order of the text.
      minimal: leave out names and ranges.
    """
    ...

  def trials(self, parameters: Tokens, objectives: Sequence[int]) -> str:
    """The text of trials; the last one has no separator after it."""
    ...

  def parse_trials(self, text: str) -> tuple[Tokens, Int[np.ndarray, ' t']]:
    """The inverse of `trials`.

    Raises:
      ValueError: the text does not follow the grammar.
    """
    ...


@dataclasses.dataclass(frozen=True)
class Neurips22:
  """The dialect of the first release, with keys of one letter."""

  name: str = 'neurips22'

  def metadata(
    self,
    problem: studies.Problem,
    order: Sequence[int],
    *,
    minimal: bool = False,
  ) -> str:
    """See `Dialect`."""
    parameters = problem.space.parameters
    head = [
      f'N:{_quoted("" if minimal else problem.name)}',
      f'A:{_quoted(problem.algorithm)}',
      f'O:{_quoted("" if minimal else problem.metric)}',
      'G:<1>',
    ]
    fixed = [
      f'{p.name}:{_written(_only_value(p))}'
      for p in parameters
      if p.is_fixed and not minimal
    ]
    described = [self._parameter(parameters[i], minimal) for i in order]
    return '&'.join([','.join(head), ','.join(fixed), '*'.join(described)])

  def trials(self, parameters: Tokens, objectives: Sequence[int]) -> str:
    """See `Dialect`; a token is written as `<k>`."""
    return '|'.join(
      ''.join(f'<{k}>' for k in row) + f'*<{y}>'
      for row, y in zip(parameters.tolist(), objectives, strict=True)
    )

  def parse_trials(self, text: str) -> tuple[Tokens, Int[np.ndarray, ' t']]:
    """See `Dialect`."""
    return _parsed(text, r'((?:<\d+>)+)\*<(\d+)>')

  def _parameter(self, p: spaces.Parameter, minimal: bool) -> str:
    parts = [f'N:{_quoted("" if minimal else p.name)}']
    if not isinstance(p, spaces.Categorical):
      parts += [f'S:<{0 if minimal else _SCALES[p.scale]}>']
    parts += [f'P:<{_TYPES[p.kind]}>']
    if isinstance(p, spaces.Categorical | spaces.Discrete):
      parts += [f'L:<{len(p.values)}>']
      if not minimal:
        key = 'F' if isinstance(p, spaces.Discrete) else 'C'
        parts += [f'{key}:{_listed(p)}']
    elif not minimal:
      parts += [
        f'{key}:{_bound(p, x)}' for key, x in (('m', p.low), ('M', p.high))
      ]
    elif isinstance(p, spaces.Int):
      parts += [f'L:<{int(p.high - p.low + 1)}>']
    return ','.join(parts)


@dataclasses.dataclass(frozen=True)
class Paper:
  """The dialect that the paper prints, with keys that are words."""

  name: str = 'paper'

  def metadata(
    self,
    problem: studies.Problem,
    order: Sequence[int],
    *,
    minimal: bool = False,
  ) -> str:
    """See `Dialect`; fixed parameters are not written."""
    head = [
      f'<name>:{_quoted("" if minimal else problem.name)}',
      f'<metric>:{_quoted("" if minimal else problem.metric)}',
      '<goal>:<MAXIMIZE>',
      f'<algorithm>:{_quoted(problem.algorithm)}',
    ]
    parameters = problem.space.parameters
    described = [self._parameter(parameters[i], minimal) for i in order]
    return '&'.join([','.join(head), *described])

  def trials(self, parameters: Tokens, objectives: Sequence[int]) -> str:
    """See `Dialect`; everything is set apart by blanks."""
    return ' | '.join(
      ' '.join(map(str, row)) + f' * {y}'
      for row, y in zip(parameters.tolist(), objectives, strict=True)
    )

  def parse_trials(self, text: str) -> tuple[Tokens, Int[np.ndarray, ' t']]:
    """See `Dialect`."""
    return _parsed(text, r'\s*((?:\d+ )+)\* (\d+)\s*')

  def _parameter(self, p: spaces.Parameter, minimal: bool) -> str:
    parts = [f'<name>:{_quoted("" if minimal else p.name)}']
    parts += [f'<type>:<{_WORDS[p.kind]}>']
    if isinstance(p, spaces.Categorical | spaces.Discrete):
      blanks = '[' + ','.join(['""'] * len(p.values)) + ']'
      return ','.join(
        [*parts, f'<categories>:{blanks if minimal else _listed(p)}']
      )
    low, high = p.low, p.high
    if minimal and isinstance(p, spaces.Int):
      low, high = 0, p.high - p.low
    if not minimal or isinstance(p, spaces.Int):
      parts += [f'<min_value>:{_exact(low)},<max_value>:{_exact(high)}']
    if not minimal:
      parts += [f'<scale_type>:<{p.scale}>']
    return ','.join(parts)


DIALECTS: dict[str, Dialect] = {d.name: d for d in (Neurips22(), Paper())}


def by_name(name: str) -> Dialect:
  """The dialect of a name, such as that in a checkpoint.

  Raises:
    ValueError: there is none.
  """
  if name not in DIALECTS:
    raise ValueError(f'dialect must be one of {sorted(DIALECTS)}, got {name!r}')
  return DIALECTS[name]


def _quoted(text: str) -> str:
  return json.dumps(text, ensure_ascii=False)


def _number(x: float | int) -> str:
  """Three significant digits."""
  return f'{x:.3g}'


def _exact(x: float | int) -> str:
  """As `_number`, with the exponents of the paper: 1e-6 and not 1e-06."""
  return re.sub(r'e([+-])0*', lambda m: f'e{m[1].strip("+")}', _number(x))


def _written(value: spaces.Value) -> str:
  if isinstance(value, str):
    return _quoted(value)
  return f'<{value}>' if isinstance(value, int) else _number(value)


def _bound(p: spaces.Float | spaces.Int, bound: float | int) -> str:
  if p.scale != 'LINEAR':
    return _number(np.log(bound))
  return f'<{int(bound)}>' if isinstance(p, spaces.Int) else _number(bound)


def _listed(p: spaces.Discrete | spaces.Categorical) -> str:
  values = p.values
  try:
    texts = [_number(float(value)) for value in values]
  except ValueError:
    texts = [_quoted(value) for value in values]
  return '[' + ','.join(texts) + ']'


def _only_value(p: spaces.Parameter) -> spaces.Value:
  code = 0 if isinstance(p, spaces.Discrete | spaces.Categorical) else p.low
  return p.value(code)


def _parsed(text: str, pattern: str) -> tuple[Tokens, Int[np.ndarray, ' t']]:
  rows, objectives = [], []
  for number, trial in enumerate(text.split('|')):
    found = re.fullmatch(pattern, trial)
    if found is None:
      raise ValueError(f'trial {number} must match {pattern!r}, got {trial!r}')
    rows.append([int(k) for k in re.findall(r'\d+', found[1])])
    objectives.append(int(found[2]))
  if len({len(row) for row in rows}) > 1:
    raise ValueError(f'trials must have equally many parameters, got {text!r}')
  return np.array(rows, np.int32), np.array(objectives, np.int32)
