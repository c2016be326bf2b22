"""The 29-symbol protein vocabulary.

| ids | symbols |
|---|---|
| 0-19 | the standard amino acids `ACDEFGHIKLMNPQRSTVWY` |
| 20-24 | the anomalous letters `BOUXZ` |
| 25, 26, 27, 28 | `<` begin, `>` end, `_` padding, `*` mask |

Lower case reads as upper case. `J` (leucine or isoleucine), the one letter
outside the table, maps to `X`. Everything else is an error, `*` and `-`
included: a translation stop or an alignment gap is not a residue, and `*` would
be mistaken for the mask symbol.

Reference: arXiv:2009.14794, Appendix C (data) and its released protein models
(symbols and ids).
"""

import numpy as np
from jaxtyping import Int, Integer

__all__ = [
  'BOS',
  'EOS',
  'MASK',
  'NUM_RESIDUES',
  'NUM_STANDARD',
  'PAD',
  'SIZE',
  'SYMBOLS',
  'decode',
  'encode',
  'illegal_symbol',
]

SYMBOLS = 'ACDEFGHIKLMNPQRSTVWYBOUXZ<>_*'
SIZE = len(SYMBOLS)
NUM_STANDARD = 20
NUM_RESIDUES = 25
BOS, EOS, PAD, MASK = range(NUM_RESIDUES, SIZE)

_LETTERS = b'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz'
_ILLEGAL = 255


def _byte_table() -> np.ndarray:
  """Returns the id of every byte, uint8 [256]; `_ILLEGAL` for non-letters."""
  table = np.full(256, _ILLEGAL, np.uint8)
  for byte in _LETTERS:
    symbol = chr(byte).upper()
    index = SYMBOLS.find(symbol)
    table[byte] = index if index >= 0 else SYMBOLS.index('X')
  return table


_ID_OF_BYTE = _byte_table()
_BYTE_OF_ID = np.frombuffer(SYMBOLS.encode('ascii'), np.uint8)


def illegal_symbol(sequence: bytes) -> str | None:
  """Returns the first symbol that is not a letter, or None.

  Args:
    sequence: residues as bytes, any length.
  """
  others = sequence.translate(None, _LETTERS)
  return others[:1].decode('latin-1') if others else None


def encode(sequence: str) -> Int[np.ndarray, 'n']:
  """Maps residues to ids.

  Args:
    sequence: letters, upper or lower case.

  Returns:
    int32 [n], each in 0..24.

  Raises:
    ValueError: a symbol is not one of the letters A-Z.
  """
  data = sequence.encode('utf-8')
  symbol = illegal_symbol(data)
  if symbol is not None:
    raise ValueError(f'residues must be letters A-Z, got {symbol=}')
  return _ID_OF_BYTE[np.frombuffer(data, np.uint8)].astype(np.int32)


def decode(ids: Integer[np.ndarray, 'n']) -> str:
  """Maps ids back to symbols, special ones included.

  Args:
    ids: integers [n] in 0..28.

  Returns:
    A string of n symbols.

  Raises:
    ValueError: an id lies outside the vocabulary.
  """
  ids = np.asarray(ids)
  if ids.size and not (ids.min() >= 0 and ids.max() < SIZE):
    raise ValueError(
      f'ids must lie in 0..{SIZE - 1}, got {ids.min()=} {ids.max()=}'
    )
  return _BYTE_OF_ID[ids].tobytes().decode('ascii')
