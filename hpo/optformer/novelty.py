"""Which points a study has, and which are new.

The model cannot tell points apart that have the same tokens, so a candidate is
new if its tokens are. A uniform draw is new if its values are.
"""

import math

import numpy as np
from jaxtyping import Bool, Float, Int

from hpo import spaces
from hpo.optformer import quantizing

__all__ = ['Seen']

_DRAWS = 1000


class Seen:
  """Points that are not to be suggested again.

  Args:
    space: of the points.
    order: places of the free parameters, in the order of tokens.
    bins: Q.
  """

  def __init__(
    self, space: spaces.Space, order: tuple[int, ...], bins: int
  ) -> None:
    self._space = space
    self._order = list(order)
    self._bins = bins
    self._codes: set[tuple[float, ...]] = set()
    self._tokens: set[tuple[int, ...]] = set()

  def add(self, codes: Float[np.ndarray, 'n d']) -> None:
    """Adds points."""
    self._codes.update(map(tuple, codes.tolist()))
    self._tokens.update(map(tuple, self.tokens(codes).tolist()))

  def tokens(self, codes: Float[np.ndarray, 'n d']) -> Int[np.ndarray, 'n k']:
    """Tokens of the free parameters of points, in their order."""
    free = tuple(self._space.parameters[i] for i in self._order)
    return quantizing.parameter_tokens(free, codes[:, self._order], self._bins)

  def is_new(self, codes: Float[np.ndarray, 'n d']) -> Bool[np.ndarray, ' n']:
    """Whether the tokens of points are new."""
    rows = map(tuple, self.tokens(codes).tolist())
    return np.array([row not in self._tokens for row in rows], bool)

  def draw(self, rng: np.random.Generator) -> Float[np.ndarray, ' d']:
    """A uniform draw whose values are new, if the space has any."""
    drawn = self._space.sample(rng, _DRAWS)
    for row in drawn.tolist():
      if tuple(row) not in self._codes:
        return np.array(row)
    for row in self._all().tolist():
      if tuple(row) not in self._codes:
        return np.array(row)
    return drawn[0]

  def _all(self) -> Float[np.ndarray, 'n d']:
    """All points of a space that has few; none of other spaces."""
    sizes = [_size(parameter) for parameter in self._space.parameters]
    # Otherwise half of all draws are new, and a thousand cannot all fail.
    if math.prod(sizes) > 2 * len(self._codes):
      return np.zeros((0, len(sizes)))
    places = np.stack(list(np.ndindex(*sizes))).astype(np.float64)
    return places + np.array([_first(p) for p in self._space.parameters])


def _size(parameter: spaces.Parameter) -> int | float:
  """The number of values."""
  if isinstance(parameter, spaces.Discrete | spaces.Categorical):
    return len(parameter.values)
  if isinstance(parameter, spaces.Int):
    return parameter.high - parameter.low + 1
  return 1 if parameter.is_fixed else math.inf


def _first(parameter: spaces.Parameter) -> float:
  """The smallest code."""
  is_listed = isinstance(parameter, spaces.Discrete | spaces.Categorical)
  return 0.0 if is_listed else float(parameter.low)
