"""Tables as Markdown for readers and CSV for programs."""

import csv
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

__all__ = ['table', 'write_csv', 'write_table']

Row = Mapping[str, Any]

_MISSING = '–'


def _cell(value: Any) -> str:
  """Formats a value for a reader: four digits, no broken table."""
  if value is None:
    return _MISSING
  if isinstance(value, (bool, np.bool_)):
    return 'yes' if value else 'no'
  if isinstance(value, (float, np.floating)):
    return f'{value:.4g}'
  return str(value).replace('|', '\\|').replace('\n', ' ')


def _columns(rows: Sequence[Row], columns: Sequence[str] | None) -> list[str]:
  """Returns the columns of a table; raises ValueError for unknown ones."""
  known = list(dict.fromkeys(name for row in rows for name in row))
  if columns is None:
    return known
  unknown = [name for name in columns if name not in known]
  if rows and unknown:
    raise ValueError(f'no row has these columns, got {unknown=} {known=}')
  return list(columns)


def table(rows: Sequence[Row], columns: Sequence[str] | None = None) -> str:
  """Returns a Markdown table.

  Args:
    rows: values by column; a missing one is shown as a dash.
    columns: which to show, in this order; all where it is None.

  Returns:
    Markdown with numbers aligned to the right and four significant digits; a
    sentence where nothing can be shown.

  Raises:
    ValueError: if no row has one of the columns.
  """
  names = _columns(rows, columns)
  numbers = [
    any(
      isinstance(row.get(n), (int, float, np.number))
      and not isinstance(row.get(n), bool)
      for row in rows
    )
    for n in names
  ]
  if not names:
    return 'There is no result yet.\n'
  body = [[_cell(row.get(name)) for name in names] for row in rows]
  grid = [[_cell(name) for name in names], *body]
  widths = [max(3, *(len(line[i]) for line in grid)) for i in range(len(names))]
  rule = [
    '-' * (width - 1) + ':' if number else '-' * width
    for width, number in zip(widths, numbers, strict=True)
  ]
  lines = []
  for line in [grid[0], rule, *body]:
    cells = [
      cell.rjust(width) if number else cell.ljust(width)
      for cell, width, number in zip(line, widths, numbers, strict=True)
    ]
    lines.append(f'| {" | ".join(cells)} |\n')
  return ''.join(lines)


def write_csv(
  rows: Sequence[Row],
  path: str | os.PathLike[str],
  columns: Sequence[str] | None = None,
) -> pathlib.Path:
  """Writes a table as CSV at full precision; a missing value is empty.

  Args:
    rows: values by column.
    path: file to write; folders are made.
    columns: as for `table`.

  Returns:
    The path.

  Raises:
    ValueError: if no row has one of the columns.
  """
  names = _columns(rows, columns)
  path = pathlib.Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  with path.open('w', newline='', encoding='utf-8') as file:
    writer = csv.DictWriter(
      file, names, extrasaction='ignore', lineterminator='\n'
    )
    writer.writeheader()
    writer.writerows(rows)
  return path


def write_table(
  rows: Sequence[Row],
  path: str | os.PathLike[str],
  columns: Sequence[str] | None = None,
) -> tuple[pathlib.Path, pathlib.Path]:
  """Writes a table as CSV and as Markdown.

  Args:
    rows: values by column.
    path: file name without a suffix; folders are made.
    columns: as for `table`.

  Returns:
    Paths of the `.csv` and the `.md` file.

  Raises:
    ValueError: if no row has one of the columns.
  """
  path = pathlib.Path(path)
  comma = write_csv(rows, path.with_name(f'{path.name}.csv'), columns)
  markdown = path.with_name(f'{path.name}.md')
  markdown.write_text(table(rows, columns), encoding='utf-8')
  return comma, markdown
