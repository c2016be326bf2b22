"""Search spaces, shared by every tuner: parameters, scales, the unit cube.

A point of a space is a dict from names to values. Tuners see it as an array:

- `codes`: float64 [d], the value of a `Float` or `Int`, and the index of the
  value of a `Discrete` or `Categorical`.
- `unit`: float64 [d] in [0, 1], where a uniform draw is a uniform choice. A
  `Float` lies where its scale puts it; any other parameter owns one cell of
  equal width (on its scale) for each value.

All arithmetic is float64 NumPy on the host, so that values survive a round
trip.
"""

import dataclasses
import json
import numbers
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float as FloatArray

from hpo import plain, scales

__all__ = [
  'Categorical',
  'Discrete',
  'Float',
  'Int',
  'Parameter',
  'Space',
  'Value',
]

Value = float | int | str
_Number = float | int
# A value may lie this far beyond a bound, relative to the bound: files and
# other libraries round values. It then counts as the bound.
_SLACK = 1e-9
# Discrete values are found up to the rounding of float32.
_ROUNDING = 2.0**-23
# Whole numbers up to this size are exact in float64.
_MOST_EXACT = 2**53


@dataclasses.dataclass(frozen=True)
class _Ranged:
  """A parameter with bounds and a scale.

  Attributes:
    name: of the parameter.
    low: smallest value.
    high: largest value.
    scale: 'LINEAR'; 'LOG': equal ratios are equally far apart; 'REVERSE_LOG':
      as 'LOG', with the fine steps at the upper bound.
  """

  name: str
  low: numbers.Real
  high: numbers.Real
  scale: str = 'LINEAR'

  def __post_init__(self) -> None:
    _check_name(self.name)
    for bound in ('low', 'high'):
      number = plain.number(f'{bound} of {self.name!r}', getattr(self, bound))
      object.__setattr__(self, bound, self._bound(number))
    if self.low > self.high:
      raise ValueError(
        f'parameter {self.name!r} must have low <= high, '
        f'got low={self.low} high={self.high}'
      )
    scales.check_bounds(self.name, self.low, self.high, self.scale)

  def _bound(self, number: _Number) -> _Number:
    """A bound in the type of the parameter's values."""
    return number

  @property
  def is_fixed(self) -> bool:
    """Whether there is only one value."""
    return self.low == self.high

  def to_scaled(
    self, x: FloatArray[np.ndarray, '*n']
  ) -> FloatArray[np.ndarray, '*n']:
    """Values to [0, 1]: 0 is `low`, 1 is `high`, on the parameter's scale."""
    return scales.to_scaled(
      np.asarray(x, np.float64), self.low, self.high, self.scale
    )

  def from_scaled(
    self, z: FloatArray[np.ndarray, '*n']
  ) -> FloatArray[np.ndarray, '*n']:
    """The inverse of `to_scaled`, not rounded, within the bounds."""
    x = scales.from_scaled(
      np.asarray(z, np.float64), self.low, self.high, self.scale
    )
    return np.clip(x, self.low, self.high)


@dataclasses.dataclass(frozen=True)
class Float(_Ranged):
  """A real number in a closed interval; see `_Ranged` for the attributes."""

  kind: ClassVar[str] = 'FLOAT'

  def _bound(self, number: _Number) -> float:
    return float(number)

  def code(self, value: Any) -> float:
    """The number itself.

    Raises:
      ValueError: it is no number, not finite, or out of range.
    """
    number = float(plain.number(f'value of {self.name!r}', value))
    slack = _SLACK * max(abs(self.low), abs(self.high))
    # Next to the small bound of many decades, the slack of the other is large.
    below = _SLACK * self.low if self.scale == 'LOG' else slack
    if not self.low - below <= number <= self.high + slack:
      raise _out_of_range(self, value)
    return min(max(number, self.low), self.high)

  def value(self, code: _Number) -> float:
    """The value of a code."""
    return float(code)

  def to_unit(
    self, codes: FloatArray[np.ndarray, '*n']
  ) -> FloatArray[np.ndarray, '*n']:
    """Codes to [0, 1]."""
    return self.to_scaled(codes)

  def from_unit(
    self, unit: FloatArray[np.ndarray, '*n']
  ) -> FloatArray[np.ndarray, '*n']:
    """[0, 1] to codes."""
    return self.from_scaled(unit)


@dataclasses.dataclass(frozen=True)
class Int(_Ranged):
  """A whole number in a closed range; see `_Ranged` for the attributes."""

  kind: ClassVar[str] = 'INT'

  def _bound(self, number: _Number) -> int:
    if number != int(number) or abs(number) > _MOST_EXACT:
      raise ValueError(
        f'bounds of the whole number {self.name!r} must be whole and within '
        f'-2**53..2**53, got {number}'
      )
    return int(number)

  def code(self, value: Any) -> float:
    """The number itself.

    Raises:
      ValueError: it is no whole number, or out of range.
    """
    number = plain.number(f'value of {self.name!r}', value)
    if number != int(number):
      raise ValueError(f'value of {self.name!r} must be whole, got {value!r}')
    if not self.low <= number <= self.high:
      raise _out_of_range(self, value)
    return float(number)

  def value(self, code: _Number) -> int:
    """The value of a code."""
    return int(code)

  def to_unit(
    self, codes: FloatArray[np.ndarray, '*n']
  ) -> FloatArray[np.ndarray, '*n']:
    """Codes to the middle of their cells in [0, 1]."""
    return scales.to_scaled(np.asarray(codes, np.float64), *self._cells)

  def from_unit(
    self, unit: FloatArray[np.ndarray, '*n']
  ) -> FloatArray[np.ndarray, '*n']:
    """[0, 1] to codes."""
    x = scales.from_scaled(np.asarray(unit, np.float64), *self._cells)
    return np.clip(np.round(x), self.low, self.high)

  @property
  def _cells(self) -> tuple[float, float, str]:
    return self.low - 0.5, self.high + 0.5, self.scale


@dataclasses.dataclass(frozen=True)
class _Listed:
  """A parameter whose values are listed; its code is the index."""

  name: str
  values: Sequence[Any]

  def __post_init__(self) -> None:
    _check_name(self.name)
    if isinstance(self.values, str) or not isinstance(self.values, Iterable):
      raise ValueError(
        f'values of {self.name!r} must be a list, got {self.values!r}'
      )
    values = tuple(self._checked(value) for value in self.values)
    object.__setattr__(self, 'values', values)
    if not self.values or len(set(self.values)) != len(self.values):
      raise ValueError(
        f'parameter {self.name!r} needs values, each listed once, '
        f'got {self.values}'
      )

  def _checked(self, value: Any) -> Value:
    """A value that may be listed, in the type of the parameter's values."""
    raise NotImplementedError

  @property
  def is_fixed(self) -> bool:
    """Whether there is only one value."""
    return len(self.values) == 1

  def value(self, code: _Number) -> Value:
    """The value at an index."""
    return self.values[int(code)]

  def to_unit(
    self, codes: FloatArray[np.ndarray, '*n']
  ) -> FloatArray[np.ndarray, '*n']:
    """Indices to the middle of their cells in [0, 1]."""
    return (np.asarray(codes, np.float64) + 0.5) / len(self.values)

  def from_unit(
    self, unit: FloatArray[np.ndarray, '*n']
  ) -> FloatArray[np.ndarray, '*n']:
    """[0, 1] to indices."""
    count = len(self.values)
    return np.clip(np.floor(np.asarray(unit, np.float64) * count), 0, count - 1)


@dataclasses.dataclass(frozen=True)
class Discrete(_Listed):
  """One of some numbers, in ascending order.

  Attributes:
    name: of the parameter.
    values: the numbers, ascending.
    scale: how the numbers are spaced. It informs models that read a description
      of the space; cells of the unit cube are equally wide whatever it is.
  """

  scale: str = 'LINEAR'
  kind: ClassVar[str] = 'DISCRETE'

  def __post_init__(self) -> None:
    super().__post_init__()
    if list(self.values) != sorted(self.values):
      raise ValueError(
        f'values of {self.name!r} must ascend, got {self.values}'
      )
    scales.check(self.name, self.scale)

  def _checked(self, value: Any) -> _Number:
    return plain.number(f'value of {self.name!r}', value)

  def code(self, value: Any) -> float:
    """The index of a number, found up to the precision of float32.

    Raises:
      ValueError: it is not listed.
    """
    number = plain.number(f'value of {self.name!r}', value)
    listed = np.asarray(self.values, np.float64)
    index = int(np.argmin(np.abs(listed - number)))
    if abs(listed[index] - number) > _ROUNDING * abs(listed[index]):
      raise ValueError(
        f'value of {self.name!r} must be one of {self.values}, got {value!r}'
      )
    return float(index)


@dataclasses.dataclass(frozen=True)
class Categorical(_Listed):
  """One of some texts, whose order means nothing.

  Attributes:
    name: of the parameter.
    values: the texts.
  """

  kind: ClassVar[str] = 'CATEGORICAL'

  def _checked(self, value: Any) -> str:
    if not isinstance(value, str):
      raise ValueError(f'values of {self.name!r} must be texts, got {value!r}')
    return str(value)

  def code(self, value: Any) -> float:
    """The index of a text.

    Raises:
      ValueError: it is not listed.
    """
    if value not in self.values:
      raise ValueError(
        f'value of {self.name!r} must be one of {self.values}, got {value!r}'
      )
    return float(self.values.index(value))


Parameter = Float | Int | Discrete | Categorical
_KINDS = {kind.kind: kind for kind in (Float, Int, Discrete, Categorical)}


@dataclasses.dataclass(frozen=True)
class Space:
  """Parameters in a fixed order, each with its own name.

  Attributes:
    parameters: at least one.

  Raises:
    ValueError: there is none, two have one name, or one is something else.
  """

  parameters: Sequence[Parameter]

  def __post_init__(self) -> None:
    object.__setattr__(self, 'parameters', tuple(self.parameters))
    names = {p.name for p in self.parameters if isinstance(p, Parameter)}
    if not names or len(names) != len(self):
      raise ValueError(
        f'a space needs parameters with different names, got {self.parameters}'
      )

  def __len__(self) -> int:
    return len(self.parameters)

  @property
  def names(self) -> tuple[str, ...]:
    """Names in order."""
    return tuple(p.name for p in self.parameters)

  @property
  def free(self) -> tuple[int, ...]:
    """Places of the parameters that have more than one value."""
    return tuple(i for i, p in enumerate(self.parameters) if not p.is_fixed)

  def codes(self, point: Mapping[str, Any]) -> FloatArray[np.ndarray, 'd']:
    """The codes of a point.

    Args:
      point: a value for every parameter.

    Raises:
      ValueError: a parameter is missing or unknown, or its value is not legal.
    """
    if not isinstance(point, Mapping):
      raise ValueError(f'a point must map names to values, got {point!r}')
    missing = sorted(set(self.names) - set(point))
    unknown = sorted(set(point) - set(self.names), key=str)
    if missing or unknown:
      raise ValueError(
        f'a point needs the parameters {list(self.names)}, '
        f'got {missing=} {unknown=}'
      )
    return np.array([p.code(point[p.name]) for p in self.parameters])

  def point(self, codes: FloatArray[np.ndarray, 'd']) -> dict[str, Value]:
    """The point of some codes."""
    return {
      p.name: p.value(c) for p, c in zip(self.parameters, codes, strict=True)
    }

  def to_unit(
    self, codes: FloatArray[np.ndarray, '*n d']
  ) -> FloatArray[np.ndarray, '*n d']:
    """Codes to the unit cube."""
    codes = np.asarray(codes, np.float64)
    columns = (p.to_unit(codes[..., i]) for i, p in enumerate(self.parameters))
    return np.stack(list(columns), axis=-1)

  def from_unit(
    self, unit: FloatArray[np.ndarray, '*n d']
  ) -> FloatArray[np.ndarray, '*n d']:
    """The unit cube to codes: the inverse of `to_unit`.

    Raises:
      ValueError: an entry is NaN or outside of [0, 1].
    """
    unit = np.asarray(unit, np.float64)
    if not ((unit >= 0) & (unit <= 1)).all():
      raise ValueError(f'unit must lie in [0, 1], got {unit}')
    columns = (p.from_unit(unit[..., i]) for i, p in enumerate(self.parameters))
    return np.stack(list(columns), axis=-1)

  def sample(
    self, rng: np.random.Generator, count: int
  ) -> FloatArray[np.ndarray, 'n d']:
    """Codes of points drawn uniformly from the unit cube."""
    return self.from_unit(rng.uniform(size=(count, len(self))))

  def to_json(self) -> list[dict[str, Any]]:
    """The parameters as objects of JSON."""
    return [{'type': p.kind, **dataclasses.asdict(p)} for p in self.parameters]

  @classmethod
  def from_json(cls, parameters: Any) -> 'Space':
    """The inverse of `to_json`.

    Args:
      parameters: the objects, or a text that holds their list.

    Raises:
      ValueError: it does not describe a space; names the parameter.
    """
    if isinstance(parameters, str):
      parameters = json.loads(parameters)
    if isinstance(parameters, Mapping) or not isinstance(parameters, Iterable):
      raise ValueError(
        f'a space must be a list of parameters, got {parameters!r}'
      )
    return cls(tuple(_parameter(described) for described in parameters))


def _parameter(described: Any) -> Parameter:
  if not isinstance(described, Mapping):
    raise ValueError(f'a parameter must be an object, got {described!r}')
  options = dict(described)
  kind = options.pop('type', None)
  if not isinstance(kind, str) or kind not in _KINDS:
    raise ValueError(
      f'the type of a parameter must be one of {sorted(_KINDS)}, '
      f'got {kind!r} in {dict(described)}'
    )
  try:
    return _KINDS[kind](**options)
  except TypeError as error:
    raise ValueError(f'{kind} cannot be made of {options}: {error}') from error


def _check_name(name: str) -> None:
  if not isinstance(name, str) or not name:
    raise ValueError(f'a parameter needs a name, got {name!r}')


def _out_of_range(parameter: Float | Int, value: Value) -> ValueError:
  return ValueError(
    f'value of {parameter.name!r} must lie in '
    f'[{parameter.low}, {parameter.high}], got {value!r}'
  )
