"""Measures several ways to compute one thing, side by side in one process.

A subject declares cases (what is computed) and forms (who computes it). For a
case the harness builds each form, drops a form whose result is wrong or whose
package is missing, and times the others in turns: turn i of one form stands
beside turn i of every other, so that a busy machine slows all of them alike.
Times are medians; a ratio is the median over common turns.
"""

import dataclasses
import statistics
from collections.abc import (
  Callable,
  Hashable,
  Iterable,
  Iterator,
  Mapping,
  Sequence,
)
from typing import Any

from benchmarks import programs, record
from runtime.record import pictures


@dataclasses.dataclass(frozen=True)
class Form:
  """One way to compute the cases of a subject."""

  key: Hashable  # A name, or an object whose `str` is the name.
  make: Callable[[Any], programs.Program]  # Of a case; or `MissingError`.
  # Given case and program: what is wrong with the result; None if it is right.
  check: Callable[[Any, programs.Program], str | None] = lambda case, built: (
    None
  )
  ours: bool = False  # Whether the library computes it.
  peer: bool = False  # Whether it runs only when peers are asked for.


@dataclasses.dataclass(frozen=True)
class Measured:
  """One form at one case; without samples it was only compiled."""

  case: Hashable
  form: Hashable  # The key of the form.
  samples: Sequence[programs.Sample] = ()
  program: programs.Program = programs.Program(lambda: None)
  ours: bool = False

  @property
  def bytes(self) -> int | None:
    """Memory besides inputs and outputs; None if unknown."""
    return self.program.temporary_bytes

  def median(self, clock: programs.Clock) -> float:
    """Median seconds of a unit of work."""
    return statistics.median(getattr(s, clock) for s in self.samples)


class Results:
  """Measurements by case and form, and what was left out and why."""

  def __init__(self, measured: Iterable[Measured] = ()) -> None:
    self._by_key: dict[tuple, Measured] = {}
    self.left_out: list[dict[str, str]] = []
    self.add(measured)

  def __iter__(self) -> Iterator[Measured]:
    return iter(self._by_key.values())

  def add(self, measured: Iterable[Measured]) -> None:
    """Adds measurements; a later one replaces that of its case and form."""
    self._by_key |= {(m.case, m.form): m for m in measured}

  def get(self, case: Hashable, form: Hashable) -> Measured | None:
    """The measurement, or None."""
    return self._by_key.get((case, form))

  def median(
    self, case: Hashable, form: Hashable, clock: programs.Clock
  ) -> float | None:
    """Median seconds of a unit of work; None if it was not timed."""
    found = self.get(case, form)
    return found.median(clock) if found and found.samples else None

  def of(self, form: Hashable) -> dict[Any, Measured]:
    """The measurements of a form, by case."""
    return {m.case: m for m in self if m.form == form}

  def ratio(
    self, case: Hashable, one: Hashable, two: Hashable
  ) -> programs.Clocks:
    """Time of one form over that of another; median over common turns."""
    first, second = self.get(case, one), self.get(case, two)
    if not (first and second and first.samples and second.samples):
      return programs.Clocks()
    pairs = list(zip(first.samples, second.samples, strict=False))
    medians = (
      statistics.median(getattr(a, c) / getattr(b, c) for a, b in pairs)
      for c in programs.CLOCKS
    )
    return programs.Clocks(*medians)

  def memory_ratio(
    self, case: Hashable, one: Hashable, two: Hashable
  ) -> float | None:
    """Temporary memory of one form over that of another."""
    sizes = [m and m.bytes for m in (self.get(case, one), self.get(case, two))]
    return sizes[0] / sizes[1] if all(sizes) else None

  def leave_out(self, form: Form, case: Any, why: str, reason: str) -> None:
    """Notes and says why a form is not measured; the same reason once."""
    row = {'form': str(form.key), 'why': why, 'reason': reason}
    if any(row.items() <= found.items() for found in self.left_out):
      return
    self.left_out.append(row | {'case': str(case)})
    print(f'{why}: {form.key}: {case}: {reason}', flush=True)


@dataclasses.dataclass(frozen=True)
class Subject:
  """The declaration of one benchmark; functions get the sizes first."""

  name: str  # Of the subject and of its file in `results/`.
  sizes: Any  # Frozen dataclass: what the recorded results were measured with.
  quick: Any  # The same at sizes that take seconds.
  cases: Callable[[Any], Sequence[Any]]
  forms: Callable[[Any, Any], Sequence[Form]] = lambda sizes, case: ()
  # Whether a row sets the first measurement beside the second.
  beside: Callable[[Measured, Measured], bool] = lambda one, two: (
    one.ours and not two.ours
  )
  # Rows that are computed from several measurements, bars above all.
  summary: Callable[[Any, Results], Iterable[record.Row]] = (
    lambda sizes, results: ()
  )
  settings: programs.Settings = programs.Settings()
  clock: programs.Clock = 'wall'  # Of `ours`, `peer` and `ratio` of a row.
  unit: str = 'ms'  # Of the times.
  scale: float = 1e3  # Units in a second.
  packages: tuple[str, ...] = ()  # Their versions are recorded.
  # Whether the forms of a case are run, or only compiled.
  timed: Callable[[Any, Any], bool] = lambda sizes, case: True
  # Says why a form does not fit a case; None if it does.
  skip: Callable[[Any, Results, Any, Form], str | None] = (
    lambda sizes, results, case, form: None
  )
  # Completes the results when all cases are measured.
  finish: Callable[[Results], None] = lambda results: None
  # Measures a case whose forms cannot be called in turn.
  take: Callable[[Any, programs.Settings], Iterable[Measured]] | None = None
  # Sets what must be set before JAX computes for the first time.
  prepare: Callable[[], None] = lambda: None
  # The panels of a picture.
  panels: Callable[[Any, Results], Sequence[pictures.LogPanel]] | None = None


def measure(
  case: Any,
  built: Mapping[Form, programs.Program],
  settings: programs.Settings,
  *,
  timed: bool = True,
  seeds: Sequence[int] = (0,),
) -> list[Measured]:
  """Times programs in turns.

  Args:
    case: the case that forms compute.
    built: programs by form.
    settings: settings of the measurement.
    timed: whether to run them; else memory and compilation are all.
    seeds: of the inputs; samples of all seeds follow each other.
  """
  samples: dict[Form, list[programs.Sample]] = {form: [] for form in built}
  for seed in seeds if timed else ():
    calls = {form: program.bound(seed) for form, program in built.items()}
    for form, turns in programs.alternate(calls, settings).items():
      samples[form] += [s.per(built[form].units) for s in turns]
  return [
    Measured(case, form.key, samples[form], program, form.ours)
    for form, program in built.items()
  ]


def chosen(cases: Sequence[Any], filters: Sequence[str]) -> list[Any]:
  """The cases whose name contains one of the filters; all without filters.

  Raises:
    ValueError: if there is no such case.
  """
  found = [c for c in cases if not filters or any(f in str(c) for f in filters)]
  if not found:
    known = [str(case) for case in cases]
    raise ValueError(f'no case contains any of {filters=}; cases are {known}')
  return found


def run(
  subject: Subject,
  sizes: Any,
  settings: programs.Settings,
  cases: Sequence[Any],
  *,
  peers: bool = False,
  seeds: Sequence[int] = (0,),
) -> Results:
  """Measures cases of a subject.

  Args:
    subject: the declaration.
    sizes: of the cases.
    settings: settings of the measurement.
    cases: cases to measure, as `subject.cases` makes them.
    peers: whether forms that need the environment of the peers run too.
    seeds: of the inputs.
  """
  results = Results()
  for case in cases:
    print(f'== {case}', flush=True)
    if subject.take is not None:
      results.add(subject.take(case, settings))
      continue
    forms = [f for f in subject.forms(sizes, case) if peers or not f.peer]
    built = _build(subject, sizes, case, forms, results)
    timed = subject.timed(sizes, case)
    results.add(measure(case, built, settings, timed=timed, seeds=seeds))
  subject.finish(results)
  return results


def _build(
  subject: Subject,
  sizes: Any,
  case: Any,
  forms: Sequence[Form],
  results: Results,
) -> dict[Form, programs.Program]:
  """Builds the forms that fit, are installed and agree with the reference."""
  built = {}
  for form in forms:
    why = 'skipped'
    try:
      reason = subject.skip(sizes, results, case, form)
      if reason is None:
        program, why = form.make(case), 'refused'
        reason = form.check(case, program)
    except programs.MissingError as error:
      why, reason = 'missing', str(error)
    if reason is None:
      built[form] = program
    else:
      results.leave_out(form, case, why, reason)
  return built


def rows(
  subject: Subject, sizes: Any, results: Results
) -> dict[str, list[record.Row]]:
  """The rows of a record by kind: pairs, forms, summary.

  Times are by the clock of the subject and in its unit. `memory_ratio` and the
  ratio by the other clock are ours over peer too; a pair that was only compiled
  is compared by its memory, in MiB.
  """
  everything = list(results)
  pairs = [
    _pair(subject, results, one, two)
    for one in everything
    for two in everything
    if one.case == two.case and one is not two and subject.beside(one, two)
  ]
  return {
    'pairs': pairs,
    'forms': [_single(subject, one) for one in everything],
    'summary': list(subject.summary(sizes, results)),
  }


def _pair(
  subject: Subject, results: Results, one: Measured, two: Measured
) -> record.Row:
  case = f'{one.case}, {one.form} against {two.form}'
  memory = results.memory_ratio(one.case, one.form, two.form)
  if not (one.samples and two.samples):
    sizes = [m.bytes and m.bytes / 2**20 for m in (one, two)]
    return record.Row(f'{case}: temporary MiB', *sizes, memory)
  ratios = results.ratio(one.case, one.form, two.form)._asdict()
  times = [subject.scale * m.median(subject.clock) for m in (one, two)]
  ratio = ratios.pop(subject.clock)
  extras = {f'{clock}_ratio': value for clock, value in ratios.items()}
  extras |= {} if memory is None else {'memory_ratio': memory}
  return record.Row(case, *times, ratio, extras=extras)


def _single(subject: Subject, one: Measured) -> record.Row:
  extras: dict[str, Any] = {}
  value = None
  if one.samples:
    times = {c: subject.scale * one.median(c) for c in programs.CLOCKS}
    value = times.pop(subject.clock)
    extras |= times | {'turns': len(one.samples)}
  for name in ('temporary_bytes', 'compile_s'):
    if getattr(one.program, name) is not None:
      extras[name] = getattr(one.program, name)
  values = (value, None) if one.ours else (None, value)
  extras |= one.program.extras
  return record.Row(f'{one.case}, {one.form}', *values, extras=extras)
