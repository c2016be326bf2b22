"""The findings of `diagnosis.diagnose`, as numbers and as a table."""

import dataclasses
import math

from performer.attention import favor as favor_lib

__all__ = ['Diagnosis', 'KernelErrors']


@dataclasses.dataclass(frozen=True)
class KernelErrors:
  """Relative errors of one mechanism; 1 is 100 %.

  Attributes:
    favor: the mechanism.
    predicted: of a typical entry and of the entry at 95 %, root mean square
      over draws of W, in closed form for independent rows.
    measured: the same two from draws of W.
    output: of attention outputs against exact attention, in the Euclidean norm
      over the sampled rows, root mean square over draws.
    bad_rows: fraction of rows whose denominator is not positive.
    features_needed: r at which the predicted error of a typical entry is the
      target; infinite where the bias of the kernel alone exceeds it.
  """

  favor: favor_lib.Favor
  predicted: tuple[float, float]
  measured: tuple[float, float]
  output: float
  bad_rows: float
  features_needed: float


@dataclasses.dataclass(frozen=True)
class Diagnosis:
  """The findings of `diagnose`; `str` of them is a table.

  Attributes:
    pairs: number of pairs looked at.
    mean: of |x + y|^2 over these pairs, with x = q d**-0.25, y = k d**-0.25.
    percentiles: percent -> |x + y|^2; 5, 50, 95, 99, 100.
    errors: one per mechanism.
    target: relative error asked for.
    most_features: r above which a mechanism is called impractical.
  """

  pairs: int
  mean: float
  percentiles: dict[int, float]
  errors: tuple[KernelErrors, ...]
  target: float
  most_features: int

  @property
  def recommended(self) -> KernelErrors | None:
    """The mechanism that reaches the target with the fewest features.

    Those with bad denominators are left out. None: no practical r exists, and
    exact attention, or smaller norms, are what helps.
    """
    able = [
      e
      for e in self.errors
      if e.features_needed <= self.most_features and e.bad_rows == 0
    ]
    return min(able, key=lambda e: e.features_needed, default=None)

  def __str__(self) -> str:
    points = ', '.join(f'{p} % {x:.3g}' for p, x in self.percentiles.items())
    head = (
      f'|x+y|^2 over {self.pairs} pairs: mean {self.mean:.3g}; {points}\n'
      'relative errors of entries (typical / at 95 %), and of outputs'
    )
    titles = ('kernel', 'r', 'predicted', 'measured', 'outputs', 'bad rows')
    table = [(*titles, f'r for {self.target:.0%}')]
    for e in self.errors:
      needed = e.features_needed
      table.append(
        (
          e.favor.kernel,
          str(e.favor.features),
          ' / '.join(map(_percent, e.predicted)),
          ' / '.join(map(_percent, e.measured)),
          _percent(e.output),
          _percent(e.bad_rows),
          'never' if math.isinf(needed) else f'{needed:.3g}',
        )
      )
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = [
      '  '.join(
        cell.ljust(width) for cell, width in zip(row, widths, strict=True)
      ).rstrip()
      for row in table
    ]
    return '\n'.join([head, *lines, self._advice()])

  def _advice(self) -> str:
    best = self.recommended
    if best is None:
      return (
        f'no kernel reaches {self.target:.0%} with r <= {self.most_features}: '
        'attend exactly, or make queries and keys smaller'
      )
    return (
      f'recommended: {best.favor.kernel} with r = '
      f'{math.ceil(best.features_needed)}'
    )


def _percent(x: float) -> str:
  return f'{x:.2g}x' if x >= 10 else f'{100 * x:.3g} %'
