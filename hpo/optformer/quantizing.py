"""Numbers to one of Q bins and back.

A scaled number z in [0, 1] falls into bin min(floor(Q z), Q - 1); a bin stands
for its middle, (k + 0.5) / Q. Listed values need no bins: their token is their
index.

Reference: arXiv:2205.13320, Equations 1, 11 and 15.
"""

import dataclasses
import math

import numpy as np
from jaxtyping import Float, Int

from hpo import spaces

__all__ = [
  'NUM_BINS',
  'ObjectiveRange',
  'centers',
  'legal_counts',
  'parameter_codes',
  'parameter_tokens',
  'quantize',
]

NUM_BINS = 1000  # Q of the paper.
# Numbers this near to the edge of a bin, in bins, lie on it. An affine map in
# float64 errs by some 1e-12 bins, and 0.2 must not become 199.
_EDGE = 1e-7


def quantize(
  z: Float[np.ndarray, '*n'], bins: int = NUM_BINS
) -> Int[np.ndarray, '*n']:
  """Scaled numbers to bins.

  Args:
    z: in [0, 1]; float64.
    bins: Q.

  Returns:
    int32 in 0..Q-1.

  Raises:
    ValueError: a number is NaN or outside of [0, 1].
  """
  places = np.asarray(z, np.float64) * bins
  if not ((places > -_EDGE) & (places < bins + _EDGE)).all():
    raise ValueError(f'scaled numbers must lie in [0, 1], got {z}')
  nearest = np.round(places)
  places = np.where(np.abs(places - nearest) < _EDGE, nearest, places)
  return np.minimum(np.floor(places), bins - 1).astype(np.int32)


def centers(
  tokens: Int[np.ndarray, '*n'], bins: int = NUM_BINS
) -> Float[np.ndarray, '*n']:
  """Bins to scaled numbers: the middle of each bin.

  Raises:
    ValueError: a token is outside of 0..Q-1.
  """
  tokens = np.asarray(tokens)
  if not ((tokens >= 0) & (tokens < bins)).all():
    raise ValueError(f'tokens must lie in 0..{bins - 1}, got {tokens}')
  return (tokens + 0.5) / bins


def legal_counts(
  parameters: tuple[spaces.Parameter, ...], bins: int = NUM_BINS
) -> Int[np.ndarray, 'd']:
  """How many tokens, from 0 on, are legal for each parameter.

  Raises:
    ValueError: a parameter lists more values than there are bins.
  """
  counts = []
  for parameter in parameters:
    listed = isinstance(parameter, spaces.Discrete | spaces.Categorical)
    count = len(parameter.values) if listed else bins
    if count > bins:
      raise ValueError(
        f'a parameter may list at most {bins} values, '
        f'got {count} for {parameter.name!r}'
      )
    counts.append(count)
  return np.array(counts, np.int32)


def parameter_tokens(
  parameters: tuple[spaces.Parameter, ...],
  codes: Float[np.ndarray, 't d'],
  bins: int = NUM_BINS,
) -> Int[np.ndarray, 't d']:
  """Codes of points to tokens.

  Args:
    parameters: in the order of the columns.
    codes: see `hpo.spaces`.
    bins: Q.

  Returns:
    int32, each below its `legal_counts`.

  Raises:
    ValueError: a code is NaN or out of range; names the parameter.
  """
  tokens = np.zeros(codes.shape, np.int32)
  counts = legal_counts(parameters, bins)
  for i, parameter in enumerate(parameters):
    column = codes[:, i]
    try:
      if isinstance(parameter, spaces.Float | spaces.Int):
        tokens[:, i] = quantize(parameter.to_scaled(column), bins)
        continue
      if not ((column >= 0) & (column < counts[i])).all():
        raise ValueError(
          f'indices must lie in 0..{counts[i] - 1}, got {column}'
        )
      tokens[:, i] = column
    except ValueError as error:
      raise ValueError(f'parameter {parameter.name!r}: {error}') from error
  return tokens


def parameter_codes(
  parameters: tuple[spaces.Parameter, ...],
  tokens: Int[np.ndarray, 't d'],
  bins: int = NUM_BINS,
) -> Float[np.ndarray, 't d']:
  """Tokens to codes of points; whole numbers are rounded.

  Raises:
    ValueError: a token is not legal; names the parameter.
  """
  codes = np.zeros(tokens.shape)
  counts = legal_counts(parameters, bins)
  for i, parameter in enumerate(parameters):
    column = tokens[:, i]
    if not ((column >= 0) & (column < counts[i])).all():
      raise ValueError(
        f'tokens of {parameter.name!r} must lie in 0..{counts[i] - 1}, '
        f'got {column}'
      )
    if isinstance(parameter, spaces.Float | spaces.Int):
      codes[:, i] = parameter.from_scaled(centers(column, bins))
      if isinstance(parameter, spaces.Int):
        codes[:, i] = np.round(codes[:, i])
    else:
      codes[:, i] = column
  return codes


@dataclasses.dataclass(frozen=True)
class ObjectiveRange:
  """The map of objective values, which are maximised, to [0, 1].

  The interval [low, high] becomes [start, start + size].

  Attributes:
    low: a finite value; the smallest of a history.
    high: a finite value above; the largest of a history.
    start: in [0, 1]; 0.2 leaves room for worse values (Appendix D.4).
    size: above 0, at most 1 - start.
  """

  low: float
  high: float
  start: float = 0.2
  size: float = 0.6

  def __post_init__(self) -> None:
    if not -math.inf < self.low < self.high < math.inf:
      raise ValueError(
        'a range needs finite numbers low < high, '
        f'got low={self.low} high={self.high}'
      )
    if not (self.start >= 0 and 0 < self.size <= 1 - self.start + _EDGE):
      raise ValueError(
        'start and size must lie in [0, 1] together, '
        f'got start={self.start} size={self.size}'
      )

  @classmethod
  def of(
    cls, gains: Float[np.ndarray, ' t'], start: float = 0.2, size: float = 0.6
  ) -> 'ObjectiveRange':
    """The range of a history.

    Args:
      gains: values to be maximised; NaN where there is none.
      start: see the class.
      size: see the class.

    Returns:
      From the smallest to the largest value. If all values are v, from v - 1 to
      v + 1, or from v - |v| / 10^6 to v + |v| / 10^6 if that is wider, since
      v + 1 may round to v; never beyond the largest float. Without any value,
      [-1, 1].
    """
    known = gains[np.isfinite(gains)]
    low, high = (known.min(), known.max()) if known.size else (0.0, 0.0)
    if low == high:
      around = max(1.0, abs(low) * 1e-6)
      most = np.finfo(np.float64).max
      low = max(low, around - most) - around
      high = min(high, most - around) + around
    return cls(float(low), float(high), start, size)

  def to_scaled(
    self, gains: Float[np.ndarray, '*n']
  ) -> Float[np.ndarray, '*n']:
    """Values to [0, 1]."""
    unit = self._unit
    low, high = self.low / unit, self.high / unit
    share = (np.asarray(gains, np.float64) / unit - low) / (high - low)
    return share * self.size + self.start

  def from_scaled(self, z: Float[np.ndarray, '*n']) -> Float[np.ndarray, '*n']:
    """The inverse of `to_scaled`."""
    share = (np.asarray(z, np.float64) - self.start) / self.size
    unit = self._unit
    low, high = self.low / unit, self.high / unit
    return unit * (low + share * (high - low))

  def bin_width(self, bins: int = NUM_BINS) -> float:
    """Width of one bin in the units of the objective."""
    return (self.high / bins - self.low / bins) / self.size

  @property
  def _unit(self) -> float:
    """2 where the difference of the bounds overflows, which halves avoid."""
    return 1.0 if math.isfinite(self.high - self.low) else 2.0
