"""BLOSUM62: how readily one amino acid takes the place of another.

Scores in half bits, from blocks of aligned proteins with at least 62 % of equal
residues. The values are those of NCBI's file.

Reference: doi:10.1073/pnas.89.22.10915.
"""

import numpy as np
from jaxtyping import Int

from performer.data import vocabulary

__all__ = ['blosum62']

_ORDER = 'ARNDCQEGHILKMFPSTWYV'
# Rows up to the diagonal, in that order.
_ROWS = """
4
-1 5
-2 0 6
-2 -2 1 6
0 -3 -3 -3 9
-1 1 0 0 -3 5
-1 0 0 2 -4 2 5
0 -2 0 -1 -3 -2 -2 6
-2 0 1 -1 -3 0 0 -2 8
-1 -3 -3 -3 -1 -3 -3 -4 -3 4
-1 -2 -3 -4 -1 -2 -3 -4 -3 2 4
-1 2 0 -1 -3 1 1 -2 -1 -3 -2 5
-1 -1 -2 -3 -1 0 -2 -3 -2 1 2 -1 5
-2 -3 -3 -3 -2 -3 -3 -3 -1 0 0 -3 0 6
-1 -2 -2 -1 -3 -1 -1 -2 -2 -3 -3 -1 -2 -4 7
1 -1 1 0 -1 0 0 0 -1 -2 -2 0 -1 -2 -1 4
0 -1 0 -1 -1 -1 -1 -2 -2 -1 -1 -1 -1 -2 -1 1 5
-3 -3 -4 -4 -2 -2 -3 -2 -2 -3 -2 -3 -1 1 -4 -3 -2 11
-2 -2 -2 -3 -2 -1 -2 -3 2 -1 -1 -2 -1 3 -3 -2 -2 2 7
0 -3 -3 -3 -1 -2 -2 -3 -3 3 1 -2 1 -1 -2 -2 0 -3 -1 4
"""


def blosum62() -> Int[np.ndarray, '20 20']:
  """The scores in the order of `performer.data.vocabulary`, int64, symmetric."""
  scores = np.zeros((20, 20), np.int64)
  places = [vocabulary.SYMBOLS.index(letter) for letter in _ORDER]
  for row, line in zip(places, _ROWS.split('\n')[1:-1], strict=True):
    found = list(map(int, line.split()))
    scores[row, places[: len(found)]] = found
    scores[places[: len(found)], row] = found
  return scores
