"""The one form in which results of benchmarks are recorded.

A file in `results/` is one JSON object:

- `name`, `device`, `versions` (package to version), `commit` and `load` (of the
  machine, before and after) say what was measured where; `commit` is null in
  files that were written before it was recorded.
- `rows` is a list of `{case, ours, peer, ratio, bar}` and more numbers by name.
  `ratio` is ours over peer: below 1 ours is ahead. What does not apply is null.
- `bar` is null, or `{"at_most": x}` or `{"at_least": x}`: the limit that the
  row's `ratio` must keep, or its `ours` where `ratio` is null. `{"of": [...]}`
  beside the limit names other columns of the row, which must all keep it.
- `unit`, `date`, `sizes`, `settings`, `notes` and `left_out` (forms that were
  not measured, and why) may stand beside these.
"""

import dataclasses
import datetime
import json
import os
import pathlib
import platform
from collections.abc import Mapping, Sequence
from importlib import metadata
from typing import Any

import jax

from runtime.record import provenance

RESULTS = pathlib.Path(__file__).parent / 'results'
_COLUMNS = ('case', 'ours', 'peer', 'ratio', 'bar')
_FIELDS = ('name', 'device', 'versions', 'commit', 'load', 'rows')
_DETAILS = ('unit', 'date', 'sizes', 'settings', 'notes', 'left_out')


@dataclasses.dataclass(frozen=True)
class Bar:
  """A limit that columns of a row must keep; see the module."""

  at_most: float | None = None
  at_least: float | None = None
  of: tuple[str, ...] = ()

  def __post_init__(self) -> None:
    if (self.at_most is None) == (self.at_least is None):
      raise ValueError(f'a bar is either at_most or at_least, got {self!r}')

  def __str__(self) -> str:
    if self.at_least is None:
      return f'at most {self.at_most:g}'
    return f'at least {self.at_least:g}'

  def keeps(self, value: float) -> bool:
    """Whether a value keeps the limit; NaN does not."""
    if self.at_least is None:
      return value <= self.at_most
    return value >= self.at_least


@dataclasses.dataclass(frozen=True)
class Row:
  """One line of a record; see the module."""

  case: str
  ours: float | None = None
  peer: float | None = None
  ratio: float | None = None
  bar: Bar | None = None
  extras: Mapping[str, Any] = dataclasses.field(default_factory=dict)

  def judged(self) -> dict[str, float]:
    """The measured values that the bar is about, by column."""
    if self.bar is None:
      return {}
    line = self.to_json()
    columns = self.bar.of or ('ours' if self.ratio is None else 'ratio',)
    return {name: line[name] for name in columns if line.get(name) is not None}

  def met(self) -> bool | None:
    """Whether all values keep the bar; None without a bar or a value."""
    values = self.judged().values()
    return all(map(self.bar.keeps, values)) if values else None

  def to_json(self) -> dict[str, Any]:
    """The row as it stands in a file."""
    line = {name: getattr(self, name) for name in _COLUMNS} | dict(self.extras)
    if self.bar is not None:
      bar = dataclasses.asdict(self.bar).items()
      line['bar'] = {name: x for name, x in bar if x not in (None, ())}
    return line

  @classmethod
  def from_json(cls, line: Mapping[str, Any]) -> 'Row':
    """Reads what `to_json` makes; a ValueError names the line and the rule."""
    kinds = {name: (int, float, type(None)) for name in _COLUMNS[1:4]}
    kinds |= {'case': (str,), 'bar': (dict, type(None))}
    for name, kind in kinds.items():
      if name not in line or not isinstance(line[name], kind):
        raise ValueError(f'a row needs {name} of {kind}, got {dict(line)}')
    fields = {name: line[name] for name in _COLUMNS}
    if fields['bar'] is not None:
      bar = fields['bar'] | {'of': tuple(fields['bar'].get('of', ()))}
      if unknown := set(bar) - {'at_most', 'at_least', 'of'}:
        raise ValueError(f'a bar has no {sorted(unknown)}, got {dict(line)}')
      fields['bar'] = Bar(**bar)
    extras = {name: x for name, x in line.items() if name not in _COLUMNS}
    return cls(**fields, extras=extras)


def value_row(
  case: str,
  value: float | Sequence[float | None] | None,
  *,
  both: bool = False,
  **limit: float,
) -> Row:
  """A row of one value, which stands in its column `ours`.

  Args:
    case: name of the value.
    value: one number, or one by wall clock and one by CPU time, which stands in
      the column `cpu`; None: not measured.
    both: whether CPU time must keep the bar too.
    **limit: `at_most` or `at_least`; without either there is no bar.
  """
  bar = Bar(**limit, of=('ours', 'cpu') if both else ()) if limit else None
  if isinstance(value, Sequence):
    return Row(case, value[0], bar=bar, extras={'cpu': value[1]})
  return Row(case, value, bar=bar)


@dataclasses.dataclass(frozen=True)
class Document:
  """A record of one subject; see the module."""

  name: str
  device: str
  versions: Mapping[str, str | None]
  commit: str | None
  load: Mapping[str, float]
  rows: Sequence[Row]
  details: Mapping[str, Any] = dataclasses.field(default_factory=dict)

  def __post_init__(self) -> None:
    if unknown := set(self.details) - set(_DETAILS):
      raise ValueError(f'a record has no {sorted(unknown)}, only {_DETAILS}')

  def count(self, met: bool | None) -> int:
    """Number of bars that are met, missed or, for None, not measured."""
    return sum(r.bar is not None and r.met() is met for r in self.rows)


def machine() -> str:
  """The processor, the device and the number of cores of this process."""
  kind = jax.devices()[0].device_kind
  return f'{platform.machine()} {kind}, {len(os.sched_getaffinity(0))} cores'


def versions(packages: Sequence[str]) -> dict[str, str | None]:
  """Versions of Python and of packages; None for one not installed."""
  found: dict[str, str | None] = {'python': platform.python_version()}
  for name in packages:
    try:
      found[name] = metadata.version(name)
    except metadata.PackageNotFoundError:
      found[name] = None
  return found


def commit() -> str | None:
  """Revision of this checkout, marked if files were changed."""
  revision, dirty = provenance.commit()
  return revision and revision[:12] + ('-dirty' if dirty else '')


def today() -> str:
  """The date for the detail `date`."""
  return datetime.datetime.now(tz=datetime.UTC).date().isoformat()


def write(document: Document, path: str | os.PathLike[str]) -> pathlib.Path:
  """Writes a record; a number that is not finite is a ValueError."""
  path = pathlib.Path(path)
  found = {name: getattr(document, name) for name in _FIELDS}
  found |= document.details | {'rows': [row.to_json() for row in document.rows]}
  text = json.dumps(found, indent=1, allow_nan=False)
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(text + '\n')
  return path


def read(path: str | os.PathLike[str]) -> Document:
  """Reads a record; a ValueError names the file and the rule."""
  found = json.loads(pathlib.Path(path).read_text())
  if absent := set(_FIELDS) - set(found):
    raise ValueError(f'{path}: a record needs {sorted(absent)}')
  fields = {name: found.pop(name) for name in _FIELDS}
  try:
    rows = [Row.from_json(line) for line in fields.pop('rows')]
    return Document(**fields, rows=rows, details=found)
  except ValueError as error:
    raise ValueError(f'{path}: {error}') from error


def missed(document: Document, name: str) -> list[dict[str, Any]]:
  """A line for each value that does not keep its bar; `name` is the file's."""
  return [
    {'name': name, 'case': r.case, 'value': x, 'bar': str(r.bar)}
    for r in document.rows
    for x in r.judged().values()
    if not r.bar.keeps(x)
  ]
