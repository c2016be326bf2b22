"""Claims about numbers by label: verdict, sentence, deciding seeds.

A table maps labels to one value per seed, or to a single value that is known
without error, as the row of the ledger holds them. A claim holds or fails only
if a confidence interval says so; too few seeds, or too noisy ones, leave it
open. `exact` says that nothing is random, so that single values are compared as
they are.
"""

import contextlib
import dataclasses
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from papers import spreads
from runtime.record.ledger import Verdict

__all__ = [
  'All',
  'Check',
  'Claim',
  'Derived',
  'Difference',
  'Judged',
  'MissingLabelError',
  'Table',
  'above',
  'below',
  'close',
  'computed',
  'conjunction',
  'grows',
  'slope',
  'told',
]

Table = Mapping[str, Sequence[float]]


class MissingLabelError(ValueError):
  """A table lacks a label that a claim names."""


class Judged(NamedTuple):
  """The verdict of a table, and the difference with its interval."""

  verdict: Verdict
  sentence: str


class Claim(Protocol):
  """Something that a table can confirm."""

  def judge(self, table: Table, *, exact: bool = False) -> Judged:
    """Compares the numbers; raises ValueError for a label that is not there."""

  def seeds_needed(self, table: Table, *, power: float = 0.8) -> int | None:
    """Number of seeds that would decide, if means and spreads are true.

    Returns:
      None where the claim is decided, or seeds do not decide it.
    """


@dataclasses.dataclass(frozen=True)
class Derived:
  """A quantity that is computed from others.

  Attributes:
    text: description of the quantity.
    values: of a table: one per seed, or a single one.
  """

  text: str
  values: Callable[[Table], npt.ArrayLike]


def computed(
  text: str, function: Callable[..., npt.ArrayLike], *labels: str
) -> Derived:
  """A quantity that a function computes from the values of labels, [seeds]."""
  return Derived(
    text,
    lambda table: function(*(np.asarray(table[x], np.float64) for x in labels)),
  )


Operand = str | float | Derived  # A label, a constant, or derived.


@contextlib.contextmanager
def told(text: str) -> Iterator[None]:
  """Names the claim that needs a label that a table lacks.

  Raises:
    MissingLabelError: for a KeyError within.
  """
  try:
    yield
  except KeyError as error:
    raise MissingLabelError(f'no {error} for: {text}') from error


def _values(operand: Operand, table: Table) -> np.ndarray:
  if isinstance(operand, str) and operand not in table:
    raise MissingLabelError(
      f'no {operand!r} in the table, only {sorted(table)}'
    )
  if isinstance(operand, Derived):
    with told(operand.text):
      values = operand.values(table)
  else:
    values = table[operand] if isinstance(operand, str) else operand
  return np.atleast_1d(np.asarray(values, np.float64))


def _text(operand: Operand) -> str:
  if isinstance(operand, Derived):
    return operand.text
  return operand if isinstance(operand, str) else f'{operand:.4g}'


@dataclasses.dataclass(frozen=True)
class Difference:
  """The difference of two means lies between two bounds.

  Attributes:
    value: label of what is compared, a number, or derived.
    than: subtracted label.
    least: lower bound.
    most: upper bound.
    paired: values of one seed share data and draws.
    log: compare natural logarithms; bounds are logarithms of ratios.
    confidence: of the interval.
    resampled: the interval is that of the bootstrap (percentiles of the means
      of resampled values), for values far from normal; else Student's.

  Raises:
    ValueError: the lower bound is not below the upper one, or a bound is NaN.
  """

  value: Operand
  than: Operand
  least: float = -math.inf
  most: float = math.inf
  paired: bool = False
  log: bool = False
  confidence: float = 0.95
  resampled: bool = False

  def __post_init__(self) -> None:
    if not self.least < self.most:  # Nor NaN.
      raise ValueError(
        f'least must be below most, got {self.least=} {self.most=}'
      )

  def _pair(self, table: Table) -> list[np.ndarray]:
    pair = [_values(x, table) for x in (self.value, self.than)]
    return [np.log(x) for x in pair] if self.log else pair

  def _spread(self, table: Table) -> spreads.Spread:
    return spreads.Spread.of(*self._pair(table), paired=self.paired)

  def _interval(
    self, table: Table, spread: spreads.Spread, exact: bool
  ) -> tuple[float, float]:
    if self.resampled and spread.parts:
      return spreads.resampled(*self._pair(table), self.paired, self.confidence)
    return spread.interval(self.confidence, exact)

  def judge(self, table: Table, *, exact: bool = False) -> Judged:
    """See `Claim`."""
    spread = self._spread(table)
    low, high = self._interval(table, spread, exact)
    verdict: Verdict = 'inconclusive'
    if self.least < low and high < self.most:
      verdict = 'holds'
    elif exact or high < self.least or low > self.most:
      verdict = 'fails'
    return Judged(verdict, self._sentence(spread, (low, high), exact, verdict))

  def _sentence(
    self,
    spread: spreads.Spread,
    found: tuple[float, float],
    exact: bool,
    verdict: Verdict,
  ) -> str:
    """As 'A minus B: +0.1 [+0.05, +0.15], must be above +0: holds'."""
    shift, number, what = 0.0, '{:+.4g}'.format, _text(self.value)
    if self.log:
      number = lambda x: f'{math.exp(x):.4g}'
      what += f' over {_text(self.than)}'
    elif isinstance(self.than, (int, float)):
      shift, number = self.than, '{:.4g}'.format
    else:
      what += f' minus {_text(self.than)}'
    bounds = {'above': self.least, 'below': self.most}
    must = ' and '.join(
      f'{word} {number(bound + shift)}'
      for word, bound in bounds.items()
      if math.isfinite(bound)
    )
    low, high = (number(x + shift) for x in found)
    known = '' if exact else f' [{low}, {high}]'
    how = ' paired' if self.paired else ''
    how += ' by bootstrap' if self.resampled else ''
    mean = number(spread.mean + shift)
    return f'{what}: {mean}{known}{how}, must be {must}: {verdict}'

  def seeds_needed(self, table: Table, *, power: float = 0.8) -> int | None:
    """See `Claim`."""
    if self.judge(table).verdict != 'inconclusive':
      return None
    spread = self._spread(table)
    gaps = (spread.mean - self.least, self.most - spread.mean)
    if min(gaps) < 0:  # It fails, whatever the other bound says.
      gaps = (-min(gaps),)
    return spread.seeds(gaps, self.confidence, power)


def above(
  value: Operand, than: Operand, *, margin: float = 0.0, **how: bool
) -> Difference:
  """`value` exceeds `than` by more than `margin`; below 0: it may lose by that.

  Args:
    value: as for `Difference`.
    than: label or number to compare with.
    margin: least difference.
    **how: `paired`, `log` and `resampled`.
  """
  return Difference(value, than, least=margin, **how)


def below(
  value: Operand, than: Operand, *, margin: float = 0.0, **how: bool
) -> Difference:
  """`value` lies below `than` by more than `margin`; arguments as `above`."""
  return Difference(value, than, most=-margin, **how)


def close(
  value: Operand, to: Operand, *, within: float, paired: bool = False
) -> Difference:
  """`value` and `to` differ by less than `within`.

  Two one-sided t-tests (Schuirmann 1987) at 5 %: the 90 % interval of the
  difference must lie inside.

  Args:
    value: as for `Difference`, also `paired`.
    to: label or number to compare with.
    within: greatest difference of means that counts as agreement.
    paired: of one seed.

  Raises:
    ValueError: if `within` is not positive.
  """
  if not within > 0:
    raise ValueError(f'within must be positive, got {within=}')
  return Difference(
    value, to, least=-within, most=within, paired=paired, confidence=0.9
  )


def grows(
  labels: Sequence[str], *, paired: bool = True, falls: bool = False
) -> 'All':
  """Each is above the one before it.

  Args:
    labels: in their order.
    paired: of one seed.
    falls: each is below the one before it instead.
  """
  compare = below if falls else above
  parts = tuple(
    compare(later, earlier, paired=paired)
    for earlier, later in itertools.pairwise(labels)
  )
  verb = 'falls' if falls else 'rises'
  return All(parts, f'each step from {labels[0]} to {labels[-1]} {verb}')


def slope(
  labels: Mapping[float, str], *, within: tuple[float, float]
) -> Difference:
  """The exponent of a power law lies between two numbers.

  Args:
    labels: by position, such as a length; at least two.
    within: the two numbers; the exponent is fitted for every seed.

  Raises:
    ValueError: fewer than two positions, or bounds in a wrong order.
  """
  low, high = within
  if len(labels) < 2:
    raise ValueError(f'a slope needs two positions, got {labels=}')

  def exponents(table: Table) -> np.ndarray:
    values = [_values(label, table) for label in labels.values()]
    return np.polyfit(np.log([*labels]), np.log(values), 1)[0]

  first, *_, last = labels.values()
  return Difference(
    Derived(f'exponent from {first} to {last}', exponents),
    0.0,
    least=low,
    most=high,
  )


@dataclasses.dataclass(frozen=True)
class Check:
  """A statement about numbers without spread.

  Attributes:
    text: the statement.
    holds: whether it is true of a table.
  """

  text: str
  holds: Callable[[Table], bool]

  def judge(self, table: Table, *, exact: bool = False) -> Judged:
    """See `Claim`."""
    del exact
    with told(self.text):
      verdict: Verdict = 'holds' if self.holds(table) else 'fails'
    return Judged(verdict, f'{self.text}: {verdict}')

  def seeds_needed(self, table: Table, *, power: float = 0.8) -> None:
    """See `Claim`; seeds do not decide it."""


def conjunction(verdicts: Iterable[Verdict]) -> Verdict:
  """The verdict of a claim whose parts must all hold."""
  found = set(verdicts)
  if 'fails' in found:
    return 'fails'
  return 'inconclusive' if 'inconclusive' in found else 'holds'


@dataclasses.dataclass(frozen=True)
class All:
  """The conjunction of claims.

  Attributes:
    parts: all of which must hold.
    text: says in short what they mean together; only the parts that do not hold
      are told beside it. Empty: all parts are told.

  Raises:
    ValueError: for no part.
  """

  parts: tuple[Claim, ...]
  text: str = ''

  def __post_init__(self) -> None:
    if not self.parts:
      raise ValueError('a conjunction needs a part')

  def judge(self, table: Table, *, exact: bool = False) -> Judged:
    """See `Claim`."""
    found = [part.judge(table, exact=exact) for part in self.parts]
    verdict = conjunction(judged.verdict for judged in found)
    told = [
      judged.sentence
      for judged in found
      if not self.text or judged.verdict != 'holds'
    ]
    whole = [f'{self.text}: {verdict}'] if self.text else []
    return Judged(verdict, '; '.join(whole + told))

  def seeds_needed(self, table: Table, *, power: float = 0.8) -> int | None:
    """See `Claim`: the seeds of the most demanding part."""
    if self.judge(table).verdict != 'inconclusive':
      return None
    open_parts = [
      part for part in self.parts if part.judge(table).verdict == 'inconclusive'
    ]
    needed = [part.seeds_needed(table, power=power) for part in open_parts]
    return None if None in needed else max(needed)
