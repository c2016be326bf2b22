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

__all__ = [
  'Bar',
  'Document',
  'Line',
  'Panel',
  'Row',
  'machine',
  'missed',
  'picture',
  'read',
  'value_row',
  'versions',
  'write',
]

RESULTS = pathlib.Path(__file__).parent / 'results'
_COLUMNS = ('case', 'ours', 'peer', 'ratio', 'bar')
_FIELDS = ('name', 'device', 'versions', 'commit', 'load', 'rows')
_DETAILS = ('unit', 'date', 'sizes', 'settings', 'notes', 'left_out')


@dataclasses.dataclass(frozen=True)
class Bar:
  """A limit that columns of a row must keep.

  Attributes:
    at_most: the largest value allowed.
    at_least: the smallest value allowed.
    of: the columns; without any `ratio`, or `ours` where `ratio` is None.
  """

  at_most: float | None = None
  at_least: float | None = None
  of: tuple[str, ...] = ()

  def __post_init__(self) -> None:
    if (self.at_most is None) == (self.at_least is None):
      raise ValueError(
        'a bar is either at_most or at_least, got '
        f'{self.at_most=} {self.at_least=}'
      )

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
  """One line of a record.

  Attributes:
    case: what was measured.
    ours: value of ours; None if there is none.
    peer: value of the peer.
    ratio: ours over peer.
    bar: the limit; None if there is none.
    extras: more values by name.
  """

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
    default = 'ours' if self.ratio is None else 'ratio'
    line = self.to_json()
    found = {name: line.get(name) for name in self.bar.of or (default,)}
    return {name: x for name, x in found.items() if x is not None}

  def met(self) -> bool | None:
    """Whether all values keep the bar; None without a bar or a value."""
    values = self.judged().values()
    return all(map(self.bar.keeps, values)) if values else None

  def to_json(self) -> dict[str, Any]:
    """The row as it stands in a file."""
    bar = None
    if self.bar is not None:
      fields = dataclasses.asdict(self.bar)
      bar = {k: x for k, x in fields.items() if x not in (None, ())}
    fields = (self.case, self.ours, self.peer, self.ratio, bar)
    return dict(zip(_COLUMNS, fields, strict=True)) | dict(self.extras)

  @classmethod
  def from_json(cls, line: Mapping[str, Any]) -> 'Row':
    """Reads what `to_json` makes.

    Raises:
      ValueError: if a column is missing or has another type.
    """
    absent = [name for name in _COLUMNS if name not in line]
    if absent or not isinstance(line.get('case'), str):
      raise ValueError(f'a row needs a case and {_COLUMNS}, got {dict(line)}')
    for name in ('ours', 'peer', 'ratio'):
      if not isinstance(line[name], int | float | None):
        raise ValueError(f'{name} must be a number or null, got {dict(line)}')
    bar = line['bar']
    if bar is not None:
      unknown = set(bar) - {'at_most', 'at_least', 'of'}
      if unknown:
        raise ValueError(f'a bar has no {sorted(unknown)}, got {dict(line)}')
      bar = Bar(**bar | {'of': tuple(bar.get('of', ()))})
    extras = {name: x for name, x in line.items() if name not in _COLUMNS}
    numbers = (line[name] for name in ('ours', 'peer', 'ratio'))
    return cls(line['case'], *numbers, bar, extras)


def value_row(
  case: str,
  value: float | Sequence[float | None] | None,
  *,
  at_most: float | None = None,
  at_least: float | None = None,
  both: bool = False,
) -> Row:
  """A row of one value, which stands in its column `ours`.

  Args:
    case: what the value is.
    value: one number, or one by wall clock and one by CPU time, which stands in
      the column `cpu`; None: not measured.
    at_most: bar.
    at_least: bar.
    both: whether CPU time must keep the bar too.
  """
  bar = None
  if at_most is not None or at_least is not None:
    bar = Bar(at_most, at_least, ('ours', 'cpu') if both else ())
  if isinstance(value, Sequence):
    wall, cpu = value
    return Row(case, wall, bar=bar, extras={'cpu': cpu})
  return Row(case, value, bar=bar)


@dataclasses.dataclass(frozen=True)
class Document:
  """A record of one subject.

  Attributes:
    name: of the subject.
    device: what computed.
    versions: by package; None for one that is not installed.
    commit: of the code when it started; None if unknown.
    load: of the machine, before and after.
    rows: the results.
    details: optional fields of the file.
  """

  name: str
  device: str
  versions: Mapping[str, str | None]
  commit: str | None
  load: Mapping[str, float]
  rows: Sequence[Row]
  details: Mapping[str, Any] = dataclasses.field(default_factory=dict)

  def __post_init__(self) -> None:
    unknown = sorted(set(self.details) - set(_DETAILS))
    if unknown:
      raise ValueError(f'details are {_DETAILS}, got {unknown=}')

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
  """Writes a record; folders are made.

  Raises:
    ValueError: if a number is not finite.
  """
  path = pathlib.Path(path)
  fields = {name: getattr(document, name) for name in _FIELDS}
  rows = [row.to_json() for row in document.rows]
  text = json.dumps(
    fields | dict(document.details) | {'rows': rows}, indent=1, allow_nan=False
  )
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(text + '\n')
  return path


def read(path: str | os.PathLike[str]) -> Document:
  """Reads a record.

  Raises:
    ValueError: if the file is no record; the message names file and rule.
  """
  found = json.loads(pathlib.Path(path).read_text())
  absent = [name for name in _FIELDS if name not in found]
  if absent:
    raise ValueError(f'{path}: a record needs {_FIELDS}, {absent} are missing')
  try:
    rows = [Row.from_json(line) for line in found['rows']]
    details = {k: x for k, x in found.items() if k not in _FIELDS}
    return Document(
      *(found[name] for name in _FIELDS[:-1]), rows=rows, details=details
    )
  except ValueError as error:
    raise ValueError(f'{path}: {error}') from error


def missed(document: Document, name: str) -> list[dict[str, Any]]:
  """A line for each value that does not keep its bar; `name` is the file's."""
  return [
    {'name': name, 'case': r.case, 'value': x, 'bar': str(r.bar)}
    for r in document.rows
    if r.met() is False
    for x in r.judged().values()
    if not r.bar.keeps(x)
  ]


# Okabe and Ito's palette: distinct with every kind of colour vision.
_COLORS = (
  *('#0072B2', '#56B4E9', '#D55E00', '#999999', '#009E73', '#CC79A7'),
  *('#E69F00', '#000000'),
)


@dataclasses.dataclass(frozen=True)
class Line:
  """Of a picture.

  Attributes:
    label: in the legend.
    x: positions.
    y: values, as many.
    style: of matplotlib.
    group: lines of a group share a colour in all panels; without a group those
      of a label do.
  """

  label: str
  x: Sequence[float]
  y: Sequence[float]
  style: str = '-'
  group: str = ''


@dataclasses.dataclass(frozen=True)
class Panel:
  """Lines with common axes; the horizontal one is logarithmic.

  Attributes:
    title: above the panel.
    x_label: below it.
    lines: what to draw.
    log_y: whether the vertical axis is logarithmic; else it begins at 0.
  """

  title: str
  x_label: str
  lines: Sequence[Line]
  log_y: bool = True


def picture(
  panels: Sequence[Panel],
  path: str | os.PathLike[str],
  *,
  title: str,
  columns: int = 3,
) -> pathlib.Path:
  """Draws panels in a grid, with one legend.

  Args:
    panels: row by row.
    path: PNG file; folders are made.
    title: of the whole.
    columns: panels of a row.

  Returns:
    The path.

  Raises:
    ImportError: without matplotlib.
  """
  from matplotlib import figure

  columns = min(columns, len(panels))
  rows = -(-len(panels) // columns)
  fig = figure.Figure(
    figsize=(4.2 * columns + 1.5, 3.4 * rows), layout='constrained'
  )
  lines = [line for panel in panels for line in panel.lines]
  groups = list(dict.fromkeys(line.group or line.label for line in lines))
  handles: dict[str, Any] = {}
  for index, panel in enumerate(panels):
    axis = fig.add_subplot(rows, columns, index + 1)
    for line in panel.lines:
      color = _COLORS[groups.index(line.group or line.label) % len(_COLORS)]
      (handles[line.label],) = axis.plot(
        line.x, line.y, line.style, color=color, marker='o', markersize=3
      )
    axis.set_title(panel.title, fontsize='medium')
    axis.set_xlabel(panel.x_label)
    axis.set_xscale('log', base=2)
    if panel.log_y:
      axis.set_yscale('log')
    else:
      axis.set_ylim(bottom=0)
    axis.grid(alpha=0.25)
    axis.spines[['top', 'right']].set_visible(False)
  fig.legend(
    handles.values(), handles.keys(), loc='outside right center', frameon=False
  )
  fig.suptitle(title, fontsize='medium')
  path = pathlib.Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  fig.savefig(path, dpi=120, metadata={'Software': None})
  return path
