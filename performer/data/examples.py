"""From encoded residues to one training example.

Every example is a dict of arrays of one static length l:

| key | dtype, shape | masked language model | causal language model |
|---|---|---|---|
| `tokens` | int32 [l] | residues, some hidden | begin symbol, then residues |
| `targets` | int32 [l] | the residues | the residues |
| `weights` | float32 [l] | 1 where hidden | 1 on every target |
| `mask` | bool [l] | True on tokens that are not padding | likewise |

Sequences longer than l keep their first l tokens, shorter ones are padded on
the right.

Reference: arXiv:2009.14794, Appendices A.1 and C.
"""

import numpy as np
from jaxtyping import Integer

from performer.data import masking, vocabulary
from runtime.data import indexed

__all__ = ['causal', 'masked']


def masked(
  ids: Integer[np.ndarray, 'n'],
  length: int,
  rng: np.random.Generator,
  how: masking.Preset,
) -> indexed.Arrays:
  """Builds a masked-language-model example.

  Args:
    ids: encoded sequence or window [n].
    length: tokens per example, l.
    rng: decides positions and replacements.
    how: replacement probabilities.

  Returns:
    The dict described above.

  Raises:
    ValueError: the kept part of the sequence has no residue.
  """
  kept = ids[:length].astype(np.int32)
  inputs, hidden = masking.mask_tokens(kept, rng, how)
  return {
    'tokens': _pad(inputs, length, vocabulary.PAD),
    'targets': _pad(kept, length, vocabulary.PAD),
    'weights': _pad(hidden.astype(np.float32), length, 0),
    'mask': np.arange(length) < kept.size,
  }


def causal(ids: Integer[np.ndarray, 'n'], length: int) -> indexed.Arrays:
  """Builds a next-token example: inputs are the targets shifted right.

  Args:
    ids: encoded sequence or window [n].
    length: tokens per example, l.

  Returns:
    The dict described above.
  """
  kept = ids[:length].astype(np.int32)
  begin = np.array([vocabulary.BOS], np.int32)
  present = np.arange(length) < kept.size
  return {
    'tokens': _pad(np.concatenate([begin, kept[:-1]]), length, vocabulary.PAD),
    'targets': _pad(kept, length, vocabulary.PAD),
    'weights': present.astype(np.float32),
    'mask': present,
  }


def _pad(values: np.ndarray, length: int, fill: int) -> np.ndarray:
  """Extends values [n] to [length] on the right."""
  padded = np.full(length, fill, values.dtype)
  padded[: values.size] = values
  return padded
