"""Studies: a problem and its trials, as arrays, dicts and lines of JSON."""

import dataclasses
import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from hpo import plain, spaces
from rl import ranges

__all__ = [
  'COMPLETED',
  'GOALS',
  'INFEASIBLE',
  'PENDING',
  'STATUSES',
  'Problem',
  'Study',
  'Trial',
  'read',
  'write',
]

GOALS = ('MAXIMIZE', 'MINIMIZE')
STATUSES = ('COMPLETED', 'PENDING', 'INFEASIBLE')
COMPLETED, PENDING, INFEASIBLE = range(3)


@dataclasses.dataclass(frozen=True)
class Problem:
  """A problem of optimisation.

  Attributes:
    space: the parameters.
    goal: 'MAXIMIZE' or 'MINIMIZE'.
    name: of the study; free text.
    metric: name of the objective; free text.
    algorithm: name of the algorithm that chooses, or chose, the trials.
  """

  space: spaces.Space
  goal: str = 'MAXIMIZE'
  name: str = ''
  metric: str = ''
  algorithm: str = ''

  def __post_init__(self) -> None:
    if self.goal not in GOALS:
      raise ValueError(f'goal must be one of {GOALS}, got {self.goal!r}')
    for field in ('name', 'metric', 'algorithm'):
      if not isinstance(getattr(self, field), str):
        raise ValueError(
          f'{field} must be a text, got {field}={getattr(self, field)!r}'
        )

  @property
  def sign(self) -> int:
    """1 to maximise, -1 to minimise: sign * value is to be maximised."""
    return 1 if self.goal == 'MAXIMIZE' else -1

  def to_json(self) -> dict[str, Any]:
    """The problem as an object of JSON."""
    fields = (field.name for field in dataclasses.fields(self))
    described = {name: getattr(self, name) for name in fields}
    return {**described, 'space': self.space.to_json()}

  @classmethod
  def from_json(cls, described: Any) -> 'Problem':
    """The inverse of `to_json`.

    Raises:
      ValueError: it is malformed.
    """
    options = _options('a problem', described, needs='space')
    options['space'] = spaces.Space.from_json(options['space'])
    try:
      return cls(**options)
    except TypeError as error:
      raise ValueError(f'a problem has an unknown key: {error}') from error


class Trial(NamedTuple):
  """A point and its result.

  Attributes:
    parameters: values by name.
    value: of the objective; None unless the trial is completed.
    status: 'COMPLETED', 'PENDING' (its value is still to come) or 'INFEASIBLE'
      (it has none).
  """

  parameters: Mapping[str, spaces.Value]
  value: float | int | None = None
  status: str = 'COMPLETED'


@dataclasses.dataclass(frozen=True, eq=False)
class Study:
  """A problem and its trials in order.

  Attributes:
    problem: the problem that the trials belong to.
    codes: float64 [t, d]; see `spaces`.
    values: float64 [t], in the units and with the sign of the user; NaN unless
      the trial is completed.
    statuses: int8 [t]: COMPLETED, PENDING or INFEASIBLE.

  Raises:
    ValueError: shapes disagree, a status is unknown, or a completed trial has
      no finite value.
  """

  problem: Problem
  codes: Float[np.ndarray, 't d']
  values: Float[np.ndarray, ' t']
  statuses: Int[np.ndarray, ' t']

  def __post_init__(self) -> None:
    count = len(self.values)
    width = len(self.problem.space)
    if self.codes.shape != (count, width) or self.statuses.shape != (count,):
      raise ValueError(
        'a study needs codes [t, d], values [t] and statuses [t], got '
        f'{self.codes.shape=} {self.values.shape=} {self.statuses.shape=} '
        f'for {width} parameters'
      )
    if not np.isin(self.statuses, range(len(STATUSES))).all():
      raise ValueError(
        f'statuses must lie in 0..{len(STATUSES) - 1}, got {self.statuses}'
      )
    wrong = np.isfinite(self.values) != (self.statuses == COMPLETED)
    if wrong.any():
      number = int(np.argmax(wrong))
      raise ValueError(
        'completed trials and no others have a finite value, got trial '
        f'{number} with value={self.values[number]} '
        f'status={STATUSES[self.statuses[number]]}'
      )

  def __len__(self) -> int:
    return len(self.values)

  @classmethod
  def of(cls, problem: Problem, trials: Iterable[Trial]) -> 'Study':
    """Makes a study of trials.

    Raises:
      ValueError: a trial is not legal; names its number.
    """
    trials = list(trials)
    codes = np.zeros((len(trials), len(problem.space)))
    values = np.full(len(trials), math.nan)
    statuses = np.zeros(len(trials), np.int8)
    for number, trial in enumerate(trials):
      try:
        codes[number] = problem.space.codes(trial.parameters)
        statuses[number], values[number] = _result(trial)
      except ValueError as error:
        raise ValueError(f'trial {number}: {error}') from error
    return cls(problem, codes, values, statuses)

  @property
  def gains(self) -> Float[np.ndarray, ' t']:
    """Values with the sign that is to be maximised; NaN where there is none."""
    return self.problem.sign * self.values

  @property
  def trials(self) -> list[Trial]:
    """The trials as dicts."""
    return [
      Trial(
        self.problem.space.point(codes),
        None if math.isnan(value) else float(value),
        STATUSES[status],
      )
      for codes, value, status in zip(
        self.codes, self.values, self.statuses, strict=True
      )
    ]

  def take(self, rows: Any) -> 'Study':
    """The study of some trials: a slice, or numbers in their new order."""
    return dataclasses.replace(
      self,
      codes=self.codes[rows],
      values=self.values[rows],
      statuses=self.statuses[rows],
    )

  def to_json(self) -> dict[str, Any]:
    """The study as an object of JSON; the inverse of `from_json`."""
    trials = [_plain(trial) for trial in self.trials]
    return {**self.problem.to_json(), 'trials': trials}

  @classmethod
  def from_json(cls, described: Any) -> 'Study':
    """Reads a study.

    Raises:
      ValueError: it is malformed.
    """
    options = _options('a study', described, needs='space')
    trials = options.pop('trials', [])
    problem = Problem.from_json(options)
    if not isinstance(trials, list | tuple):
      raise ValueError(f'trials must be a list, got {trials!r}')
    return cls.of(problem, [_trial(described) for described in trials])

  def to_bytes(self) -> bytes:
    """The study as a record: the problem as JSON, then the arrays."""
    head = json.dumps({**self.problem.to_json(), 'trials': len(self)})
    arrays = (
      np.asarray(self.codes, '<f8'),
      np.asarray(self.values, '<f8'),
      np.asarray(self.statuses, '<i1'),
    )
    return b'\n'.join(
      [head.encode(), b''.join(array.tobytes() for array in arrays)]
    )

  @classmethod
  def from_bytes(cls, record: bytes) -> 'Study':
    """The inverse of `to_bytes`.

    Raises:
      ValueError: it is malformed.
    """
    head, _, body = record.partition(b'\n')
    options = _options('a record', json.loads(head), needs='trials')
    count = options.pop('trials')
    problem = Problem.from_json(options)
    width = len(problem.space)
    ranges.check_counts(least=0, trials=count)
    expected = count * (8 * width + 9)
    if len(body) != expected:
      raise ValueError(
        f'{count} trials of {width} parameters take {expected} bytes, '
        f'got {len(body)}'
      )
    numbers = np.frombuffer(body, '<f8', count * (width + 1))
    return cls(
      problem,
      numbers[: count * width].reshape(count, width),
      numbers[count * width :],
      np.frombuffer(body, '<i1', count, 8 * numbers.size),
    )


def write(path: str | os.PathLike[str], studies: Iterable[Study]) -> None:
  """Writes studies, one line of JSON each."""
  with open(path, 'w', encoding='utf-8') as stream:
    for study in studies:
      stream.write(json.dumps(study.to_json()) + '\n')


def read(path: str | os.PathLike[str]) -> Iterator[Study]:
  """Reads studies one by one.

  Raises:
    ValueError: a line is malformed; names file and line.
  """
  with open(path, 'rb') as stream:
    for number, line in enumerate(stream, 1):
      try:
        yield Study.from_json(json.loads(line))
      except ValueError as error:
        raise ValueError(f'{path}:{number}: {error}') from error


def _options(what: str, described: Any, *, needs: str) -> dict[str, Any]:
  """The keys of an object of JSON.

  Raises:
    ValueError: it is no object, or lacks a key.
  """
  if not isinstance(described, Mapping):
    raise ValueError(f'{what} must be an object, got {described!r}')
  if needs not in described:
    raise ValueError(
      f'{what} needs the key {needs!r}, got the keys {sorted(described)}'
    )
  return dict(described)


def _trial(described: Any) -> Trial:
  options = _options('a trial', described, needs='parameters')
  try:
    return Trial(**options)
  except TypeError as error:
    raise ValueError(f'a trial has an unknown key: {error}') from error


def _plain(trial: Trial) -> dict[str, Any]:
  found = trial._asdict()
  return {key: x for key, x in found.items() if x not in (None, 'COMPLETED')}


def _result(trial: Trial) -> tuple[int, float]:
  if trial.status not in STATUSES:
    raise ValueError(f'status must be one of {STATUSES}, got {trial.status!r}')
  has_value = trial.value is not None
  if has_value != (trial.status == 'COMPLETED'):
    raise ValueError(
      'completed trials and no others have a value, '
      f'got {trial.value=} {trial.status=}'
    )
  value = plain.number('value', trial.value) if has_value else math.nan
  return STATUSES.index(trial.status), float(value)
