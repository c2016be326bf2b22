"""Studies: the runs that a result needs, and their results."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

__all__ = ['Cell', 'Record', 'Results', 'Study', 'Trials', 'measure', 'vary']

Record = Mapping[str, Any]  # Numbers, or lists of them, by metric.


@dataclasses.dataclass(frozen=True)
class Trials:
  """The choice of one setting per arm, by short runs that are not reported.

  Attributes:
    field: of the settings, which are a dataclass.
    values: to choose from; a single one needs no trial.
    shorten: makes the settings of a short run.
    score: of a run; the value with the greatest mean over seeds is taken.
    seeds: of the short runs.
  """

  field: str
  values: tuple[Any, ...]
  shorten: Callable[[Any], Any]
  score: Callable[[Record], float]
  seeds: tuple[int, ...] = (1000,)

  def options(self, settings: Any) -> dict[Any, Any]:
    """Settings by value of the field."""
    return {
      value: dataclasses.replace(settings, **{self.field: value})
      for value in self.values
    }


@dataclasses.dataclass(frozen=True)
class Cell:
  """One run of a study.

  Attributes:
    run: the function that does it.
    settings: its argument.
    seed: None where nothing is random.
    at: the position; None where there is one.
    label: name of the run on the terminal.
  """

  run: Callable[..., Any]
  settings: Any
  seed: int | None
  at: Any
  label: str = dataclasses.field(compare=False)


@dataclasses.dataclass(frozen=True)
class Study:
  """Runs by arm, position and seed.

  Attributes:
    run: a module-level function that does one run. It is called with the
      settings and, by keyword, with what the study varies: `seed`, and `at` if
      there are positions. It returns a `Record`, which must fit JSON.
    arms: settings by label: numbers, dataclasses, modules, partials; see
      `describing.describe`. Data stand there as a path or as what loads them.
    seeds: default number of seeds; None where nothing is random.
    at: positions, such as lengths; empty if there is one.
    fixed: measurements beside the arms that depend on no seed, such as a
      baseline, by label: functions without arguments, as partials.
    trials: chooses a setting for each arm.
    together: `run` takes `seeds`, a tuple, in the place of `seed`, and returns a
      record for each. A record must not depend on the other seeds.

  Raises:
    ValueError: if there are no arms, or trials are combined with positions or
      with a study that has no seeds.
  """

  run: Callable[..., Any]
  arms: Mapping[str, Any]
  seeds: int | None = 3
  at: Sequence[Any] = ()
  fixed: Mapping[str, Callable[[], Record]] = dataclasses.field(
    default_factory=dict
  )
  trials: Trials | None = None
  together: bool = False

  def __post_init__(self) -> None:
    if not self.arms:
      raise ValueError('a study needs arms, got none')
    if self.seeds is None and (self.trials or self.together):
      raise ValueError('trials and `together` need seeds, got seeds=None')
    if self.trials and self.at:
      raise ValueError(f'trials choose for one position, got {self.at=}')

  def cells(
    self, settings: Mapping[str, Any], seeds: Sequence[int] | None
  ) -> dict[tuple[str, Any], list[Cell]]:
    """The runs by arm and position, one for each seed; and the fixed ones.

    Args:
      settings: by arm.
      seeds: None where nothing is random.
    """
    found: dict[tuple[str, Any], list[Cell]] = {}
    for arm, value in settings.items():
      for at in self.at or (None,):
        label = arm if at is None else f'{arm}, at {at}'
        found[arm, at] = [
          Cell(
            self.run, value, s, at, label if s is None else f'{label}, seed {s}'
          )
          for s in ([None] if seeds is None else seeds)
        ]
    for label, value in self.fixed.items():
      found[label, None] = [Cell(measure, value, None, None, label)]
    return found


def vary(
  settings: Any, field: str, values: Mapping[str, Any]
) -> dict[str, Any]:
  """Arms that differ in one field of their settings, by label."""
  return {
    label: dataclasses.replace(settings, **{field: value})
    for label, value in values.items()
  }


def measure(fixed: Callable[[], Record]) -> Record:
  """Does a measurement that depends on no seed."""
  return fixed()


@dataclasses.dataclass(frozen=True)
class Results:
  """The results of the runs of a study.

  Attributes:
    study: study of the runs.
    seeds: of the runs; None where nothing is random.
    records: by arm and position (None where there is one), one per seed.
    settings: by arm, after the choice of trials; and the fixed measurements.
    tried: by arm, the mean score of every value that trials compared.
    minutes: of all runs together, finished earlier or now.
    commits: of the runs, the newest last.
    date: of the newest run, as 2026-11-29.
  """

  study: Study
  seeds: tuple[int, ...] | None
  records: Mapping[tuple[str, Any], Sequence[Record]]
  settings: Mapping[str, Any]
  tried: Mapping[str, Mapping[Any, float]] = dataclasses.field(
    default_factory=dict
  )
  minutes: float = 0.0
  commits: tuple[str, ...] = ()
  date: str = ''

  @property
  def arms(self) -> tuple[str, ...]:
    """Labels, without the fixed measurements."""
    return tuple(self.study.arms)

  def curves(self, arm: str, metric: str, at: Any = None) -> list[np.ndarray]:
    """A metric of every seed, whose shapes may differ, float64.

    Raises:
      KeyError: naming what there is.
    """
    records = self.records[arm, at]
    missing = [r for r in records if metric not in r]
    if missing:
      raise KeyError(f'no {metric!r} of {arm!r}, only {sorted(missing[0])}')
    return [np.asarray(r[metric], np.float64) for r in records]

  def __call__(self, arm: str, metric: str, at: Any = None) -> np.ndarray:
    """A metric, [seeds, ...], float64."""
    return np.stack(self.curves(arm, metric, at))

  def last(self, arm: str, metric: str, at: Any = None) -> np.ndarray:
    """The last value of a curve, [seeds]."""
    return np.array([curve[-1] for curve in self.curves(arm, metric, at)])

  def places(self, arm: str, metric: str) -> list[Any]:
    """The positions whose records have a metric; None is the only one.

    Raises:
      KeyError: if none has it.
    """
    known = [
      at
      for at in (self.study.at or (None,))
      if metric in self.records[arm, at][0]
    ]
    if not known:
      raise KeyError(f'no {metric!r} of {arm!r}')
    return known

  def by_place(self, arm: str, metric: str) -> dict[Any, np.ndarray]:
    """A metric, [seeds, ...], by position, where the records have it."""
    return {at: self(arm, metric, at) for at in self.places(arm, metric)}

  def told(
    self,
    form: str,
    metric: str,
    *,
    arms: Sequence[str] | None = None,
    at: Any = None,
    mean: Callable[[np.ndarray], float] = np.mean,
  ) -> str:
    """Arms with their mean of a metric, for remarks: 'one 1.5, two 2.5'.

    Args:
      form: of a number, such as '.2g'.
      metric: in the records.
      arms: which; None: all.
      at: the position.
      mean: over seeds and, of curves, places.
    """
    return ', '.join(
      f'{arm} {mean(self(arm, metric, at)):{form}}'
      for arm in (self.arms if arms is None else arms)
    )
