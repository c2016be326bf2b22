"""Forecasts over bins: densities, scores, and how well they are calibrated.

A forecast is a histogram over the Q bins of a scale: its density is constant
within a bin. `Forecasts` has those of n points; the metrics compare them with
the values that were then seen.

Reference: arXiv:2205.13320, Equation 4, Appendix E.2; Gneiting et al. 2007
(PIT, CRPS).
"""

import dataclasses

import numpy as np
from jaxtyping import Float, Int

from hpo.optformer import quantizing

__all__ = [
  'Forecasts',
  'coverage',
  'expected_calibration_error',
  'fit_temperature',
  'kolmogorov_smirnov',
]

_COARSE_BINS, _CONFIDENCES = 100, 10  # Of Appendix E.2.


@dataclasses.dataclass(frozen=True, eq=False)
class Forecasts:
  """Histograms of objective values.

  Attributes:
    probabilities: float64 [n, q], each row sums to 1.
    scale: of the values; see `quantizing.ObjectiveRange`.
    sign: 1 if the user maximises, -1 if the user minimises; all values here are
      those of the user.
  """

  probabilities: Float[np.ndarray, 'n q']
  scale: quantizing.ObjectiveRange
  sign: int = 1

  @property
  def bins(self) -> int:
    """Q."""
    return self.probabilities.shape[1]

  @property
  def mean(self) -> Float[np.ndarray, ' n']:
    """Means."""
    z = quantizing.centers(np.arange(self.bins), self.bins)
    return self.sign * self.scale.from_scaled(self.probabilities @ z)

  @property
  def stddev(self) -> Float[np.ndarray, ' n']:
    """Standard deviations."""
    z = quantizing.centers(np.arange(self.bins), self.bins)
    mean = self.probabilities @ z
    inside = 1 / (12 * self.bins**2)  # The variance within a bin.
    variance = ((z - mean[:, None]) ** 2 * self.probabilities).sum(axis=1)
    width = self.scale.bin_width(self.bins) * self.bins
    return np.sqrt(variance + inside) * width

  def quantile(self, level: float) -> Float[np.ndarray, ' n']:
    """Values that the objective stays below with a probability."""
    level = level if self.sign > 0 else 1 - level
    upper = np.cumsum(self.probabilities, axis=1)
    upper[:, -1] = 1.0
    found = (upper < level).sum(axis=1)
    rows = np.arange(len(found))
    mass = np.maximum(self.probabilities[rows, found], 1e-300)
    share = np.clip((level - upper[rows, found] + mass) / mass, 0, 1)
    z = (found + share) / self.bins
    return self.sign * self.scale.from_scaled(z)

  def log_probs(
    self, values: Float[np.ndarray, ' n']
  ) -> Float[np.ndarray, ' n']:
    """Log probabilities of the bins of values, at most 0."""
    rows = np.arange(len(values))
    with np.errstate(divide='ignore'):
      return np.log(self.probabilities[rows, self._bins(values)])

  def log_densities(
    self, values: Float[np.ndarray, ' n'], *, normalized: bool = False
  ) -> Float[np.ndarray, ' n']:
    """Log densities of values.

    Args:
      values: of the user.
      normalized: in units in which [0, 1] holds all bins, so that ln Q is the
        largest; otherwise in the units of the values.
    """
    width = 1 / self.bins if normalized else self.scale.bin_width(self.bins)
    return self.log_probs(values) - np.log(width)

  def pit(self, values: Float[np.ndarray, ' n']) -> Float[np.ndarray, ' n']:
    """Probabilities of smaller gains: uniform if forecasts are right."""
    place, share = self._places(values)
    rows = np.arange(len(values))
    upper = np.cumsum(self.probabilities, axis=1)[rows, place]
    return upper - (1 - share) * self.probabilities[rows, place]

  def crps(self, values: Float[np.ndarray, ' n']) -> Float[np.ndarray, ' n']:
    """Continuous ranked probability scores, in the units of the values.

    The integral over x of (F(x) - 1[x >= value])^2; F is linear within bins.
    """
    place, share = self._places(values)
    upper = np.cumsum(self.probabilities, axis=1)
    lower = upper - self.probabilities
    bins = np.arange(self.bins)
    # The part of each bin that lies below the value.
    below = np.clip((place + share)[:, None] - bins, 0, 1)
    middle = lower + below * self.probabilities
    area = below * _mean_square(lower, middle)
    area += (1 - below) * _mean_square(1 - middle, 1 - upper)
    return area.sum(axis=1) * self.scale.bin_width(self.bins)

  def _places(
    self, values: Float[np.ndarray, ' n']
  ) -> tuple[Int[np.ndarray, ' n'], Float[np.ndarray, ' n']]:
    """Bins of values, and the share of the bin that lies below."""
    place = self._bins(values)
    z = self.scale.to_scaled(self.sign * values)
    return place, np.clip(z * self.bins - place, 0, 1)

  def _bins(self, values: Float[np.ndarray, ' n']) -> Int[np.ndarray, ' n']:
    z = self.scale.to_scaled(self.sign * values)
    return quantizing.quantize(z, self.bins)

  def top(
    self, values: Float[np.ndarray, ' n']
  ) -> tuple[Float[np.ndarray, ' n'], Float[np.ndarray, ' n']]:
    """Confidence of the likeliest coarse bin, and whether the value is in it.

    The interval from `scale.low` to `scale.high` is cut into 100 bins; the room
    beside it belongs to the outermost ones (Appendix E.2).
    """
    z = quantizing.centers(np.arange(self.bins), self.bins)
    coarse = lambda z: np.clip(
      np.floor((z - self.scale.start) / self.scale.size * _COARSE_BINS),
      0,
      _COARSE_BINS - 1,
    ).astype(int)
    masses = np.zeros((len(values), _COARSE_BINS))
    np.add.at(masses.T, coarse(z), self.probabilities.T)
    # By the middle of its bin, as the mass of the bin.
    seen = coarse(z[self._bins(values)])
    return masses.max(axis=1), (masses.argmax(axis=1) == seen).astype(float)


def _mean_square(
  a: Float[np.ndarray, 'n q'], b: Float[np.ndarray, 'n q']
) -> Float[np.ndarray, 'n q']:
  """The mean of squares of a line from a to b."""
  return (a * a + a * b + b * b) / 3


def expected_calibration_error(
  confidences: Float[np.ndarray, ' n'], hits: Float[np.ndarray, ' n']
) -> float:
  """Mean distance of accuracy and confidence, over ten bins of confidence.

  Args:
    confidences: of `Forecasts.top`, over all studies.
    hits: whether they came true.

  Returns:
    A share: the paper prints it in percent.
  """
  place = np.minimum(confidences * _CONFIDENCES, _CONFIDENCES - 1).astype(int)
  gaps = np.bincount(place, hits - confidences, _CONFIDENCES)
  return float(np.abs(gaps).sum() / len(hits))


def kolmogorov_smirnov(pit: Float[np.ndarray, ' n']) -> float:
  """Largest distance of the distribution of PITs from the uniform one."""
  ordered, count = np.sort(pit), len(pit)
  above = np.arange(1, count + 1) / count - ordered
  below = ordered - np.arange(count) / count
  return float(max(above.max(), below.max()))


def coverage(pit: Float[np.ndarray, ' n'], level: float) -> float:
  """Share of values within the central interval of a probability."""
  return float((np.abs(pit - 0.5) <= level / 2).mean())


def fit_temperature(
  logits: Float[np.ndarray, 'n q'], bins: Int[np.ndarray, ' n']
) -> float:
  """The temperature with the largest likelihood, in [0.05, 20].

  The likelihood is concave in the inverse temperature, so bisection finds it.

  Args:
    logits: of validation studies.
    bins: that were seen.
  """
  logits = np.float64(logits)
  logits = logits - logits.max(axis=1, keepdims=True)
  seen = logits[np.arange(len(bins)), bins].mean()

  def slope(inverse: float) -> float:
    weights = np.exp(inverse * logits)
    expected = (weights * logits).sum(axis=1) / weights.sum(axis=1)
    return float(seen - expected.mean())

  low, high = 0.05, 20.0
  for _ in range(60):
    middle = np.sqrt(low * high)
    low, high = (middle, high) if slope(middle) > 0 else (low, middle)
  return float(1 / middle)
