"""How far subtraction has led astray, in words."""

import warnings

import jax
import numpy as np
from jaxtyping import PyTree

__all__ = ['THRESHOLD', 'message', 'warn']

# Of `reversal.Recovered`. Rounding alone gives 1e-6 to 1e-4; gradients that
# were wrong by more than 1e-2 gave 0.02 and more.
THRESHOLD = 1e-2


def message(drift: PyTree, threshold: float = THRESHOLD) -> str | None:
  """The warning about a drift; None if the drift is small.

  Args:
    drift: of `subtraction.Pulled`, one number per layer.
    threshold: from which on it is large.

  Returns:
    A sentence that names the worst layer, counted from 0.
  """
  leaves = [np.atleast_1d(np.asarray(x)) for x in jax.tree.leaves(drift)]
  values = np.concatenate(leaves)
  # A drift that is no number is the largest of all.
  values = np.where(np.isnan(values), np.inf, values)
  layer = int(values.argmax())
  if values[layer] <= threshold:
    return None
  return (
    "use strategy='checkpoint': subtraction has lost the states of layer "
    f'{layer}, so gradients may be wrong. What queries read from a recovered '
    f'state is off by {values[layer]:.1e} (limit {threshold:.0e})'
  )


def warn(drift: PyTree, threshold: float = THRESHOLD) -> None:
  """Warns if a drift is large; see `message`."""
  text = message(drift, threshold)
  if text is not None:
    warnings.warn(text, RuntimeWarning, stacklevel=2)
