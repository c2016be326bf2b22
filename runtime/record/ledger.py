"""The reproduction ledger: our numbers beside the published ones.

A row is one table cell or figure of a paper at one scale, written as JSON and
CSV, with a picture of the same name if there is one. The page `docs/results.md`
is generated from all rows and never written by hand. A row that does not
reproduce stays, marked and explained.
"""

import dataclasses
import json
import math
import os
import pathlib
import re
import statistics
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from runtime.config import types as types_lib
from runtime.record import tables

__all__ = [
  'CONTACT_SHEET',
  'NOT_FOUND',
  'Published',
  'Row',
  'Verdict',
  'counts',
  'link_of',
  'mark',
  'read',
  'read_all',
  'render',
  'write',
  'write_page',
]

NOT_FOUND = 'not found'
CONTACT_SHEET = 'contact_sheet.png'
Verdict = Literal['holds', 'fails', 'inconclusive']
_COUNTED = {'holds': 'hold', 'fails': 'fail', 'inconclusive': 'open'}
_MARKS = {'holds': '✓ holds', 'fails': '✗ fails', 'inconclusive': '? open'}
_OPTIONAL = ('explanation', 'headline', 'date')
_NAME = re.compile(r'[a-z0-9][a-z0-9._-]*')
_COMMIT = re.compile(r'[0-9a-f]{7,40}(-dirty)?')


@dataclasses.dataclass(frozen=True)
class Published:
  """A figure of a paper.

  Attributes:
    value: the number, several by label, or text where it is read off a plot.
    source: where it stands, such as `arXiv:2009.14794, Table 2`.
  """

  value: float | str | Mapping[str, float]
  source: str


@dataclasses.dataclass(frozen=True)
class Row:
  """One result of the ledger.

  Attributes:
    id: name of the row, unique in its paper; also the name of its files.
    paper: name of the paper's folder.
    claim: the claim of the paper, in a sentence.
    scale: `tiny` for a laptop, `paper` for the published setting.
    hardware: what the run used.
    seeds: seeds of the runs.
    ours: by label, one value per seed in their order, or a single value
      that does not depend on the seed.
    published: the published figure, or `not found`.
    trend: the relation that must hold between the numbers.
    verdict: whether the trend holds; computed from confidence intervals.
    command: command line that reproduces the row.
    commit: of the code, with `-dirty` if files were changed.
    minutes: time of all runs of the row together.
    explanation: why the row fails or is open, and other remarks.
    findings: one sentence for each part of the trend: the difference, its
      interval and the verdict. A row that fails needs them or an explanation.
    settings: of every arm, resolved to the last default.
    headline: the label in `ours` that stands in the table; empty: the first.
    date: of the newest run, as 2026-11-29.
  """

  id: str
  paper: str
  claim: str
  scale: Literal['tiny', 'paper']
  hardware: str
  seeds: tuple[int, ...]
  ours: Mapping[str, tuple[float, ...]]
  published: Published | Literal['not found']
  trend: str
  verdict: Verdict
  command: str
  commit: str
  minutes: float
  explanation: str = ''
  findings: tuple[str, ...] = ()
  settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  headline: str = ''
  date: str = ''

  def __post_init__(self) -> None:
    _check_types(self)
    _check_values(self)


def _check_types(row: Row) -> None:
  """Raises ValueError for a field of a wrong type or an empty text."""
  for name, hint in types_lib.annotations(Row).items():
    if name == 'return':
      continue
    value = getattr(row, name)
    if not types_lib.accepts(value, hint):
      raise ValueError(
        f'{row.id}: {name} must be {types_lib.describe(hint)}, got {value!r}'
      )
    if value == '' and name not in _OPTIONAL:
      raise ValueError(f'{row.id}: {name} must not be empty')


def _check_values(row: Row) -> None:
  """Raises ValueError for values that do not fit together."""
  for name in ('id', 'paper'):
    if not _NAME.fullmatch(getattr(row, name)):
      raise ValueError(
        f'{name} must be a file name of a-z 0-9 . _ -, got {getattr(row, name)!r}'
      )
  if not _COMMIT.fullmatch(row.commit):
    raise ValueError(f'{row.id}: not a commit, got {row.commit=}')
  if not row.seeds or len(set(row.seeds)) != len(row.seeds):
    raise ValueError(f'{row.id}: seeds must differ, got {row.seeds=}')
  if not row.ours:
    raise ValueError(f'{row.id}: ours must have at least one label')
  for label, values in row.ours.items():
    if len(values) not in {1, len(row.seeds)}:
      raise ValueError(
        f'{row.id}: ours needs one value, or one per seed, got '
        f'{label=} {len(values)=} {len(row.seeds)=}'
      )
    if not all(map(math.isfinite, values)):
      raise ValueError(f'{row.id}: not finite: {label=} {values=}')
  if not (math.isfinite(row.minutes) and row.minutes >= 0):
    raise ValueError(f'{row.id}: not a duration, got {row.minutes=}')
  if row.headline and row.headline not in row.ours:
    raise ValueError(f'{row.id}: not a label of ours, got {row.headline=}')
  if row.verdict == 'fails' and not (row.explanation or row.findings):
    raise ValueError(f'{row.id}: a row that fails needs an explanation')


def _from_json(data: Any) -> Row:
  """Makes a row of parsed JSON; raises ValueError for wrong keys."""
  if not isinstance(data, dict):
    raise ValueError(f'a row is an object, got {type(data).__name__}')
  fields = {f.name: f for f in dataclasses.fields(Row)}
  unknown = sorted(data.keys() - fields.keys())
  needed = {
    name
    for name, f in fields.items()
    if f.default is f.default_factory is dataclasses.MISSING
  }
  missing = sorted(needed - data.keys())
  if unknown or missing:
    raise ValueError(f'wrong keys, got {unknown=} {missing=}')
  data = dict(data)
  for name in ('seeds', 'findings'):
    if isinstance(data.get(name), list):
      data[name] = tuple(data[name])
  if isinstance(data['ours'], dict):
    data['ours'] = {
      label: tuple(values) if isinstance(values, list) else values
      for label, values in data['ours'].items()
    }
  if isinstance(data['published'], dict):
    if data['published'].keys() != {'value', 'source'}:
      raise ValueError(
        f'published has value and source, got {sorted(data["published"])}'
      )
    data['published'] = Published(**data['published'])
  return Row(**data)


def read(path: str | os.PathLike[str]) -> Row:
  """Reads a row.

  Args:
    path: its JSON file, `<paper>/<id>.json`.

  Returns:
    The row.

  Raises:
    ValueError: naming the file, if it is not a valid row or lies elsewhere.
  """
  path = pathlib.Path(path)
  try:
    row = _from_json(json.loads(path.read_text(encoding='utf-8')))
  except ValueError as error:
    raise ValueError(f'{path}: {error}') from error
  if (row.paper, row.id) != (path.parent.name, path.stem):
    raise ValueError(f'{path}: holds the row {row.paper}/{row.id}')
  return row


def read_all(root: str | os.PathLike[str] = 'docs/results') -> list[Row]:
  """Reads every row, ordered by paper and id; raises ValueError as `read`."""
  return [read(path) for path in sorted(pathlib.Path(root).glob('*/*.json'))]


def write(
  row: Row, root: str | os.PathLike[str] = 'docs/results'
) -> tuple[pathlib.Path, pathlib.Path]:
  """Writes `<paper>/<id>.json`, and its values as CSV; replaces older ones.

  Args:
    row: the result.
    root: folder of the ledger.

  Returns:
    Paths of the JSON and the CSV file. A picture belongs beside them, as
    `<paper>/<id>.png`.
  """
  folder = pathlib.Path(root) / row.paper
  folder.mkdir(parents=True, exist_ok=True)
  path = folder / f'{row.id}.json'
  text = json.dumps(dataclasses.asdict(row), indent=2, ensure_ascii=False)
  path.write_text(f'{text}\n', encoding='utf-8')
  lines = [
    {'label': label, 'seed': seed, 'value': value}
    for label, values in row.ours.items()
    for seed, value in zip(
      row.seeds if len(values) == len(row.seeds) else [None],
      values,
      strict=True,
    )
  ]
  return path, tables.write_csv(lines, folder / f'{row.id}.csv')


def _number(value: float) -> str:
  return f'{value:.4g}'


def _mean(values: Sequence[float]) -> str:
  """Mean and standard deviation."""
  spread = f' ± {statistics.stdev(values):.2g}' if len(values) > 1 else ''
  return f'{_number(statistics.fmean(values))}{spread}'


def _headline(row: Row) -> str:
  """The one figure of ours that the table shows."""
  label = row.headline or next(iter(row.ours))
  return f'{label}: {_mean(row.ours[label])}'


def _published(row: Row) -> tuple[str, str]:
  """The published figure in short, and whole with its source."""
  if isinstance(row.published, str):
    return NOT_FOUND, NOT_FOUND
  value, source = row.published.value, row.published.source
  if isinstance(value, Mapping):
    parts = [f'{label}: {_number(v)}' for label, v in value.items()]
    label = row.headline if row.headline in value else next(iter(value))
    return _number(value[label]), f'{"; ".join(parts)} ({source})'
  text = value if isinstance(value, str) else _number(value)
  return text, f'{text} ({source})'


def _shared_settings(row: Row) -> str:
  """The plain settings in which no arm differs from another."""
  arms = [arm for arm in row.settings.values() if isinstance(arm, Mapping)]
  arms = [arm for arm in arms if arm.get('type') == arms[0].get('type')]
  return ', '.join(
    f'{name} {value}'
    for name, value in (arms[0] if arms else {}).items()
    if name != 'type' and isinstance(value, (bool, int, float, str))
    if all(arm.get(name) == value for arm in arms)
  )


def _details(row: Row, root: pathlib.Path) -> list[str]:
  """Lines about one row below the table."""
  seeds = ', '.join(map(str, row.seeds))
  numbers = [{'label': k, 'ours': _mean(v)} for k, v in row.ours.items()]
  lines = [
    f'### {row.paper} {row.id}',
    '',
    row.claim,
    '',
    f'- Must hold: {row.trend}',
    f'- Verdict: **{row.verdict}**',
  ]
  lines += [f'  - {finding}' for finding in row.findings]
  if row.explanation:
    lines.append(f'- Explanation: {row.explanation}')
  shared = _shared_settings(row)
  if shared:
    lines.append(f'- Settings of all arms: {shared}')
  lines += [
    f'- Published: {_published(row)[1]}',
    f'- Scale: {row.scale}; {row.hardware}; {_number(row.minutes)} minutes; '
    f'seeds {seeds}',
    f'- Reproduce: `{row.command}` (commit {row.commit})',
    '',
    tables.table(numbers),
  ]
  picture = root / row.paper / f'{row.id}.png'
  if picture.is_file():
    link = picture.relative_to(root.parent).as_posix()
    lines += [f'![{row.id}: {row.claim}]({link})', '']
  return lines


def render(root: str | os.PathLike[str] = 'docs/results') -> str:
  """Returns the page of all rows.

  Args:
    root: folder of the ledger; pictures are linked from its parent.

  Returns:
    Markdown: a table of papers, the contact sheet if there is one, then for
    each paper a table, and every row with its numbers and picture.

  Raises:
    ValueError: if a row is not valid.
  """
  folder = pathlib.Path(root)
  papers: dict[str, list[Row]] = {}
  for row in read_all(folder):
    papers.setdefault(row.paper, []).append(row)
  lines = [
    '# Results',
    '',
    'Generated by `python -m papers page`; do not edit. Ours: mean ± standard '
    'deviation over seeds. Verdicts are computed from confidence intervals.',
    '',
    *_front(papers),
  ]
  sheet = folder / CONTACT_SHEET
  if sheet.is_file():
    link = sheet.relative_to(folder.parent).as_posix()
    lines += [f'![All pictures of the rows below, small]({link})', '']
  for paper, rows in papers.items():
    overview = [
      {
        'row': f'[{row.id}](#{_anchor(row)})',
        'scale': row.scale,
        'ours': _headline(row),
        'published': _published(row)[0],
        'verdict': mark(row.verdict),
      }
      for row in rows
    ]
    lines += [f'## {paper}', '', tables.table(overview)]
    for row in rows:
      lines += _details(row, folder)
  return '\n'.join(lines).rstrip() + '\n'


def _front(papers: Mapping[str, Sequence[Row]]) -> list[str]:
  """How many rows of each paper hold, fail and are open."""
  groups = {link_of(paper, page=''): rows for paper, rows in papers.items()}
  groups['all'] = [row for rows in papers.values() for row in rows]
  lines = [{'paper': paper, **counts(rows)} for paper, rows in groups.items()]
  return [tables.table(lines)]


def counts(rows: Sequence[Row]) -> dict[str, int]:
  """How many rows there are, and how many of them hold, fail and are open."""
  verdicts = {
    text: sum(row.verdict == verdict for row in rows)
    for verdict, text in _COUNTED.items()
  }
  return {'rows': len(rows), **verdicts}


def link_of(paper: str, *, page: str) -> str:
  """A link to the section of a paper.

  Args:
    paper: name of its folder.
    page: path to the page of all rows; empty: this page.
  """
  return f'[{paper}]({page}#{_slug(paper)})'


def mark(verdict: Verdict) -> str:
  """A verdict in two words."""
  return _MARKS[verdict]


def _anchor(row: Row) -> str:
  """The link target that Markdown viewers give to the heading of a row."""
  return _slug(f'{row.paper} {row.id}')


def _slug(heading: str) -> str:
  return heading.replace('.', '').replace(' ', '-')


def write_page(root: str | os.PathLike[str] = 'docs/results') -> pathlib.Path:
  """Writes the page beside the folder, `docs/results.md`; returns its path."""
  path = pathlib.Path(root).with_suffix('.md')
  path.write_text(render(root), encoding='utf-8')
  return path
