"""Measures several ways to compute one thing, side by side in one process.

A subject declares cases (what is computed) and forms (who computes it). For a
case the harness builds each form, drops a form whose result is wrong or whose
package is missing, and times the others in turns: turn i of one form stands
beside turn i of every other, so that a busy machine slows all of them alike.
Times are medians; a ratio is the median over common turns.
"""

import dataclasses
import functools
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

__all__ = [
  'Form',
  'Measured',
  'Results',
  'Subject',
  'chosen',
  'measure',
  'rows',
  'run',
]


@dataclasses.dataclass(frozen=True)
class Form:
  """One way to compute the cases of a subject.

  Attributes:
    key: names the form: a string, or an object whose `str` is the name.
    make: builds the form for a case; raises `MissingError` if a package that
      it needs is not there.
    check: given the case and the program, says what is wrong with its result;
      None if it is right.
    ours: whether the library computes it.
    peer: whether it runs only when peers are asked for.
  """

  key: Hashable
  make: Callable[[Any], programs.Program]
  check: Callable[[Any, programs.Program], str | None] = lambda case, program: (
    None
  )
  ours: bool = False
  peer: bool = False


@dataclasses.dataclass(frozen=True)
class Measured:
  """One form at one case.

  Attributes:
    case: the case.
    form: key of the form.
    samples: its turns; empty if it was only compiled.
    temporary_bytes: as of `Program`.
    compile_s: as of `Program`.
    extras: as of `Program`.
    ours: as of `Form`.
  """

  case: Hashable
  form: Hashable
  samples: Sequence[programs.Sample] = ()
  temporary_bytes: int | None = None
  compile_s: float | None = None
  extras: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  ours: bool = False

  def median(self, clock: programs.Clock) -> float:
    """Median seconds of a unit of work."""
    return statistics.median(getattr(s, clock) for s in self.samples)


class Results:
  """What was measured, by case and form, and what was left out.

  Args:
    measured: in the order in which it was measured.

  Attributes:
    left_out: why some forms were not measured.
  """

  def __init__(self, measured: Iterable[Measured] = ()) -> None:
    self._by_key = {(m.case, m.form): m for m in measured}
    self.left_out: list[dict[str, str]] = []

  def __iter__(self) -> Iterator[Measured]:
    return iter(self._by_key.values())

  def add(self, measured: Iterable[Measured]) -> None:
    """Adds measurements; a later one replaces that of its case and form."""
    self._by_key |= {(m.case, m.form): m for m in measured}

  def get(self, case: Hashable, form: Hashable) -> Measured | None:
    """The measurement, or None."""
    return self._by_key.get((case, form))

  def ratio(
    self, case: Hashable, one: Hashable, two: Hashable
  ) -> programs.Clocks:
    """Time of one form over that of another; median over common turns."""
    first, second = self.get(case, one), self.get(case, two)
    if not (first and second and first.samples and second.samples):
      return programs.Clocks()
    pairs = list(zip(first.samples, second.samples, strict=False))
    return programs.Clocks(
      *(
        statistics.median(getattr(a, c) / getattr(b, c) for a, b in pairs)
        for c in programs.CLOCKS
      )
    )

  def memory_ratio(
    self, case: Hashable, one: Hashable, two: Hashable
  ) -> float | None:
    """Temporary memory of one form over that of another."""
    first, second = self.get(case, one), self.get(case, two)
    if not (first and second and first.temporary_bytes):
      return None
    if not second.temporary_bytes:
      return None
    return first.temporary_bytes / second.temporary_bytes

  def leave_out(self, form: Form, case: Any, why: str, reason: str) -> None:
    """Notes and says why a form is not measured; the same reason once."""
    for found in self.left_out:
      if (found['form'], found['reason']) == (str(form.key), reason):
        return
    row = {'form': str(form.key), 'case': str(case), 'why': why}
    self.left_out.append(row | {'reason': reason})
    print(f'{why}: {form.key}: {case}: {reason}', flush=True)


def _nothing() -> None:
  pass


@dataclasses.dataclass(frozen=True)
class Subject:
  """What a file of this package declares.

  Attributes:
    name: of the subject and of its file in `results/`.
    sizes: frozen dataclass; what the recorded results were measured with.
    quick: the same at sizes that take seconds.
    cases: makes the cases of given sizes.
    forms: makes the forms that a case has, given sizes and case.
    beside: whether a row sets the first measurement beside the second.
    summary: rows that are computed from several measurements, bars above all.
    settings: how to measure.
    clock: whose times `ours`, `peer` and `ratio` of a row are.
    unit: of these times.
    scale: units in a second, 1e3 for milliseconds.
    packages: whose versions are recorded.
    timed: whether the forms of a case are run, or only compiled.
    skip: says why a form does not fit a case; None if it does.
    finish: completes the results when all cases are measured.
    take: measures a case whose forms cannot be called in turn.
    prepare: what must be set before JAX computes for the first time.
    panels: makes the panels of a picture.
  """

  name: str
  sizes: Any
  quick: Any
  cases: Callable[[Any], Sequence[Any]]
  forms: Callable[[Any, Any], Sequence[Form]] = lambda sizes, case: ()
  beside: Callable[[Measured, Measured], bool] = lambda one, two: (
    one.ours and not two.ours
  )
  summary: Callable[[Any, Results], Iterable[record.Row]] = (
    lambda sizes, results: ()
  )
  settings: programs.Settings = programs.Settings(rounds=15, seconds=6.0)
  clock: programs.Clock = 'wall'
  unit: str = 'ms'
  scale: float = 1e3
  packages: tuple[str, ...] = ()
  timed: Callable[[Any], bool] = lambda case: True
  skip: Callable[[Any, Results, Any, Form], str | None] = (
    lambda sizes, results, case, form: None
  )
  finish: Callable[[Results], None] = lambda results: None
  take: Callable[[Any, programs.Settings], Iterable[Measured]] | None = None
  prepare: Callable[[], None] = _nothing
  panels: Callable[[Results], Sequence[record.Panel]] | None = None


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
    case: what they compute.
    built: programs by form.
    settings: how to measure.
    timed: whether to run them; else memory and compilation are all.
    seeds: of the inputs; samples of all seeds follow each other.

  Returns:
    A measurement of each program.
  """
  samples: dict[Form, list[programs.Sample]] = {form: [] for form in built}
  for seed in seeds if timed else ():
    calls = {
      form: functools.partial(_finish, program.call, program.inputs(seed))
      for form, program in built.items()
    }
    for form, turns in programs.alternate(calls, settings).items():
      units = built[form].units
      samples[form] += [
        programs.Sample(s.wall / units, s.cpu / units) for s in turns
      ]
  return [
    Measured(
      case,
      form.key,
      samples[form],
      program.temporary_bytes,
      program.compile_s,
      program.extras,
      form.ours,
    )
    for form, program in built.items()
  ]


def _finish(call: Callable[..., Any], arguments: tuple) -> None:
  programs.wait(call(*arguments))


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
    settings: how to measure.
    cases: what to measure, as `subject.cases` makes them.
    peers: whether forms that need the environment of the peers run too.
    seeds: of the inputs.

  Returns:
    What was measured, and what was left out and why.
  """
  results = Results()
  for case in cases:
    print(f'== {case}', flush=True)
    if subject.take is not None:
      results.add(subject.take(case, settings))
      continue
    forms = [f for f in subject.forms(sizes, case) if peers or not f.peer]
    built = _build(subject, sizes, case, forms, results)
    timed = subject.timed(case)
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
  """Builds the forms that fit, are there and compute what they should."""
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
  """The rows of a record by what they are: pairs, forms, summary.

  Args:
    subject: the declaration.
    sizes: of the cases.
    results: what was measured.

  Returns:
    Times by the clock of the subject and in its unit. `memory_ratio` and the
    ratio by the other clock are ours over peer too; a pair that was only
    compiled is compared by its memory, in MiB.
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
    sizes = [
      m.temporary_bytes and m.temporary_bytes / 2**20 for m in (one, two)
    ]
    return record.Row(f'{case}: temporary MiB', *sizes, memory)
  ratios = results.ratio(one.case, one.form, two.form)._asdict()
  ratio = ratios.pop(subject.clock)
  extras = {f'{clock}_ratio': value for clock, value in ratios.items()}
  times = [subject.scale * m.median(subject.clock) for m in (one, two)]
  if memory is not None:
    extras['memory_ratio'] = memory
  return record.Row(case, *times, ratio, extras=extras)


def _single(subject: Subject, one: Measured) -> record.Row:
  extras: dict[str, Any] = {}
  value = None
  if one.samples:
    times = {c: subject.scale * one.median(c) for c in programs.CLOCKS}
    value = times.pop(subject.clock)
    extras |= times | {'turns': len(one.samples)}
  for name in ('temporary_bytes', 'compile_s'):
    if getattr(one, name) is not None:
      extras[name] = getattr(one, name)
  extras |= one.extras
  ours, theirs = (value, None) if one.ours else (None, value)
  return record.Row(f'{one.case}, {one.form}', ours, theirs, extras=extras)
