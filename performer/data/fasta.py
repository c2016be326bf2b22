"""A streaming FASTA reader that names the file and line it cannot parse.

Reads plain text and gzip (told apart by the first two bytes, not the name), one
line at a time. A record is a line `>header` followed by one or more lines of
residues; blank lines, white space at line ends and a byte-order mark at the
start of the file are skipped. Lines end with LF, CR LF or CR.
"""

import codecs
import contextlib
import dataclasses
import gzip
import io
import os
import zlib
from collections.abc import Iterable, Iterator

from performer.data import vocabulary
from runtime.data import files

__all__ = ['Record', 'read', 'write']

# The longest known protein has 45,354 residues; a longer "line" than this means
# a binary or newline-free file, which must not be read into memory whole.
_MAX_LINE_BYTES = 1 << 20


@dataclasses.dataclass(frozen=True, slots=True)
class Record:
  """One protein.

  Attributes:
    header: the header line without `>`.
    accession: the identifier; of a UniProt header `db|accession|name` the
      middle part, otherwise the first word.
    sequence: residues, letters in the case of the file.
    line: number of the header line in the (uncompressed) file, from 1.
  """

  header: str
  accession: str
  sequence: str
  line: int


def read(path: str, *, stops: str = 'error') -> Iterator[Record]:
  """Yields the records of a FASTA file, holding one of them at a time.

  Args:
    path: plain or gzip-compressed file.
    stops: what becomes of a `*` at the end of a line, which translated genes
      have: 'error', or 'drop'.

  Yields:
    Records in file order.

  Raises:
    FileNotFoundError: no such file.
    ValueError: the path is no file; the file is empty, damaged, does not begin
      with `>`, or has an empty header, an empty sequence or a symbol that is no
      letter. The message holds file, line and rule.
  """
  with _open(path) as stream:
    header, line, parts = '', 0, []
    for number, text in _lines(stream, path):
      if text.startswith(b'>'):
        if header:
          yield _record(path, header, line, parts)
        header, line, parts = _header(path, text, number), number, []
      elif not header:
        raise ValueError(
          f'{path}:{number}: a FASTA file must begin with a ">" line, got'
          f' {text[:40]!r}'
        )
      else:
        parts.append(_residues(path, text, number, stops))
    if not header:
      raise ValueError(f'{path}:1: the file must hold a record, but is empty')
    yield _record(path, header, line, parts)


def _residues(path: str, text: bytes, number: int, stops: str) -> bytes:
  """Checks a line of residues; drops a stop at its end if that is wanted."""
  if stops == 'drop':
    text = text.removesuffix(b'*')
  symbol = vocabulary.illegal_symbol(text)
  if symbol is not None:
    hint = (
      "; stops='drop' drops it at the end of a line" if symbol == '*' else ''
    )
    raise ValueError(
      f'{path}:{number}: residues must be letters A-Z, got {symbol!r}{hint}'
    )
  return text


def write(path: str, proteins: Iterable[tuple[str, str]]) -> int:
  """Writes a gzip-compressed FASTA file, the same bytes for the same records.

  Args:
    path: file to write; replaced when it exists.
    proteins: (header without `>`, residues) of each record.

  Returns:
    The number of records.
  """
  count = 0
  with (
    open(path, 'wb') as raw,
    # Neither a file name nor a time in the stream: both would change its hash.
    gzip.GzipFile('', 'wb', 9, raw, mtime=0) as stream,
  ):
    for header, sequence in proteins:
      stream.write(f'>{header}\n{sequence}\n'.encode())
      count += 1
  return count


@contextlib.contextmanager
def _open(path: str) -> Iterator[io.BufferedIOBase]:
  """Opens a plain or gzip file for reading bytes."""
  if os.path.isdir(path):
    raise ValueError(f'{path}: a FASTA path must be a file, got a directory')
  if not os.path.exists(path):
    raise FileNotFoundError(f'{path}: no such FASTA file')
  opener = gzip.open if files.is_gzip(path) else open
  with opener(path, 'rb') as stream:
    yield stream


def _lines(stream: io.BufferedIOBase, path: str) -> Iterator[tuple[int, bytes]]:
  """Yields (number, stripped line) of the lines that are not blank."""
  number = 1
  while True:
    try:
      text = stream.readline(_MAX_LINE_BYTES)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
      raise ValueError(
        f'{path}:{number}: the gzip stream must be complete, got: {error}'
      ) from error
    if not text:
      return
    if len(text) == _MAX_LINE_BYTES:
      raise ValueError(
        f'{path}:{number}: a line must be shorter than {_MAX_LINE_BYTES} bytes'
      )
    if number == 1:
      text = text.removeprefix(codecs.BOM_UTF8)
    lines = text.removesuffix(b'\n').removesuffix(b'\r').split(b'\r')
    for line in lines:
      if line.strip():
        yield number, line.strip()
      number += 1


def _header(path: str, text: bytes, number: int) -> str:
  """Returns the header without `>`; it must not be empty."""
  header = text[1:].strip().decode('utf-8', errors='replace')
  if not header:
    raise ValueError(f'{path}:{number}: a ">" line must name its sequence')
  return header


def _record(path: str, header: str, line: int, parts: list[bytes]) -> Record:
  """Assembles one record; its sequence must not be empty."""
  sequence = b''.join(parts).decode('ascii')
  if not sequence:
    raise ValueError(
      f'{path}:{line}: a record must have residues, got none for {header[:60]!r}'
    )
  fields = header.split('|')
  accession = fields[1] if len(fields) >= 3 and fields[1] else header.split()[0]
  return Record(header, accession, sequence, line)
