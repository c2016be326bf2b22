"""BERT-style masking of sequences, in numpy; of proteins, unless told others.

Of the residues of a sequence (never begin, end or padding), 15 % become targets.
A target is replaced by the mask symbol, by a residue drawn uniformly from the
20 standard ones (which may be the residue itself), or kept.

| preset | mask | random | keep |
|---|---|---|---|
| `bert` | 80 % | 10 % | 10 % |
| `protein_lm` | 10 % | 80 % | 10 % |

The paper says "as BERT"; the code released with it swaps the first two numbers.
Results of the two presets are not comparable.

The number of targets is fixed per sequence rather than left to independent
coins: 0.15 n, rounded up or down at random so that its mean is exact, and at
least one (so sequences under 7 residues carry more than 15 %).

References: arXiv:2009.14794, Appendix A.1; arXiv:1810.04805, Section 3.1.
"""

import dataclasses
import types
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int

from performer.data import vocabulary

__all__ = [
  'PRESETS',
  'PROTEINS',
  'RATE',
  'Alphabet',
  'Preset',
  'mask_tokens',
  'preset',
]

RATE = 0.15


@dataclasses.dataclass(frozen=True)
class Preset:
  """Probabilities of the inputs that replace a target; the rest keeps it.

  Attributes:
    mask: probability of the mask symbol.
    random: probability of a random standard residue.
  """

  mask: float
  random: float


class Alphabet(NamedTuple):
  """The ids that masking is about.

  Attributes:
    maskable: ids below this may become targets.
    substitutes: random tokens are ids below this.
    mask: id of the mask symbol.
  """

  maskable: int
  substitutes: int
  mask: int


PROTEINS = Alphabet(
  vocabulary.NUM_RESIDUES, vocabulary.NUM_STANDARD, vocabulary.MASK
)
PRESETS = types.MappingProxyType(
  {'bert': Preset(0.8, 0.1), 'protein_lm': Preset(0.1, 0.8)}
)


def preset(name: str) -> Preset:
  """Returns the preset of that name.

  Raises:
    ValueError: the name is unknown.
  """
  if name not in PRESETS:
    raise ValueError(f'masking must be one of {sorted(PRESETS)}, got {name=}')
  return PRESETS[name]


def mask_tokens(
  tokens: Int[np.ndarray, 'n'],
  rng: np.random.Generator,
  how: Preset,
  alphabet: Alphabet = PROTEINS,
) -> tuple[Int[np.ndarray, 'n'], Bool[np.ndarray, 'n']]:
  """Hides about 15 % of the residues of one sequence, or of other tokens.

  Args:
    tokens: ids [n]; at least one of them maskable, a residue.
    rng: numpy generator; it alone decides the outcome.
    how: replacement probabilities.
    alphabet: the meaning of the ids.

  Returns:
    The ids to feed, like `tokens`, and the target positions, bool [n].

  Raises:
    ValueError: there is no residue to predict.
  """
  residues = np.flatnonzero(tokens < alphabet.maskable)
  if residues.size == 0:
    raise ValueError(f'masking needs at least one residue, got {tokens=}')
  count = max(1, int(RATE * residues.size + rng.random()))
  chosen = rng.choice(residues, count, replace=False, shuffle=False)
  inputs = tokens.copy()
  inputs[chosen] = _replace(tokens[chosen], rng, how, alphabet)
  targets = np.zeros(tokens.shape, bool)
  targets[chosen] = True
  return inputs, targets


def _replace(
  residues: Int[np.ndarray, 'k'],
  rng: np.random.Generator,
  how: Preset,
  alphabet: Alphabet,
) -> Int[np.ndarray, 'k']:
  """Draws the input token at the place of each target."""
  fate = rng.random(residues.size)
  substitutes = rng.integers(alphabet.substitutes, size=residues.size)
  return np.where(
    fate < how.mask,
    alphabet.mask,
    np.where(fate < how.mask + how.random, substitutes, residues),
  )
