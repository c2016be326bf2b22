"""Forecasts of the next value from random trials of functions not seen in training.

As in the paper, the range of a forecast is that of the history and of the value that
it is judged by (Appendix B.2), and all forecasts are cut to this range. Densities are
those of the range as [0, 1].
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from hpo import studies
from hpo.optformer import forecasts, gaussian, predicting, quantizing
from papers import claims, figures, rows, study
from papers.optformer import methods, tasks
from runtime.record import ledger

_LENGTHS = (5, 10, 20, 35)
_COARSE = 20  # Bins of the histogram.
# The range in [0, 1]; a little less than 0.6, so that the largest value lies in the
# last bin of the range and not in the one behind it.
_PLACE = (0.2, 0.6 - 1e-8)

Forecast = Callable[
  ['Setting', studies.Study, studies.Study, quantizing.ObjectiveRange],
  forecasts.Forecasts,
]


def by_model(
  setting: 'Setting',
  history: studies.Study,
  point: studies.Study,
  scale: quantizing.ObjectiveRange,
  *,
  views: int = 1,
) -> forecasts.Forecasts:
  """OptFormer; its random trials are those of random search."""
  found = predicting.predict(
    methods.OptFormer(
      temperature=setting.temperature, model=setting.model
    ).loaded(),
    history.problem,
    history.trials,
    [trial.parameters for trial in point.trials],
    scale=scale,
    views=views,
  )
  return _cut(found)


def by_gaussian_process(
  setting: 'Setting',
  history: studies.Study,
  point: studies.Study,
  scale: quantizing.ObjectiveRange,
) -> forecasts.Forecasts:
  """A Gaussian process with a warped output."""
  del setting
  return gaussian.forecast(history, point.codes, scale)


def by_histogram(
  setting: 'Setting',
  history: studies.Study,
  point: studies.Study,
  scale: quantizing.ObjectiveRange,
) -> forecasts.Forecasts:
  """How often earlier values fell into 20 bins, and one more in each."""
  del setting
  shares = (scale.to_scaled(history.gains) - scale.start) / scale.size
  counts = np.histogram(shares, _COARSE, (0, 1))[0] + 1
  places = quantizing.centers(
    np.arange(quantizing.NUM_BINS), quantizing.NUM_BINS
  )
  row = (places - scale.start) / scale.size * _COARSE
  inside = (row >= 0) & (row < _COARSE)
  masses = np.where(inside, counts[np.clip(np.int64(row), 0, _COARSE - 1)], 0)
  masses = np.tile(masses / masses.sum(), (len(point), 1))
  return forecasts.Forecasts(masses, scale, history.problem.sign)


def _cut(found: forecasts.Forecasts) -> forecasts.Forecasts:
  """A forecast without the room beside the range."""
  scale, bins = found.scale, found.bins
  places = quantizing.centers(np.arange(bins), bins)
  inside = (places > scale.start) & (places < scale.start + scale.size)
  masses = np.where(inside, found.probabilities + 1e-12, 0)
  masses /= masses.sum(axis=1, keepdims=True)
  return dataclasses.replace(found, probabilities=masses)


@dataclasses.dataclass(frozen=True)
class Setting:
  """One way to forecast."""

  forecast: Forecast  # The way.
  temperature: float | None = None  # Of the model; None: as fitted.
  points: int = 4  # Forecasts of each history, of the trials after it.
  source: tasks.Source = tasks.Bbob()  # Of the functions.
  model: Any = methods.Model()  # Has `load`.


def run(setting: Setting, *, seed: int, at: int) -> study.Record:
  """Judges forecasts of the function of a seed, after `at` trials.

  Returns:
    Of each forecast: log density and CRPS in units of the range, PIT, the
    confidence of the likeliest of 100 bins, and whether it came true.
  """
  whole = _random_study(setting, seed, at + setting.points)
  history, found = whole.take(slice(at)), []
  for number in range(at, len(whole)):
    target = whole.take(slice(number, number + 1))
    gains = np.append(history.gains, target.gains)
    scale = quantizing.ObjectiveRange.of(gains, *_PLACE)
    forecast = setting.forecast(setting, history, target, scale)
    confidence, hit = forecast.top(target.values)
    width = scale.high - scale.low
    # The density of the range as [0, 1].
    density = forecast.log_densities(target.values) + np.log(width)
    found.append(
      {
        'density': density[0],
        'crps': forecast.crps(target.values)[0] / width,
        'pit': forecast.pit(target.values)[0],
        'confidence': confidence[0],
        'hit': hit[0],
      }
    )
  return {name: [one[name] for one in found] for name in found[0]}


def _random_study(setting: Setting, seed: int, count: int) -> studies.Study:
  """Random trials; their beginning does not depend on the count."""
  task = setting.source.task(seed)
  rng = np.random.default_rng((seed, 2))
  codes = np.stack([task.problem.space.sample(rng, 1)[0] for _ in range(count)])
  values = [task.observe(number, row) for number, row in enumerate(codes)]
  problem = dataclasses.replace(
    task.problem, algorithm='designer_random_search'
  )
  return studies.Study(
    problem, codes, np.array(values), np.zeros(count, np.int8)
  )


MODEL, PLAIN, GP = 'OptFormer', 'OptFormer, temperature 1', 'Gaussian process'
HISTOGRAM = 'histogram'
VIEWS = 'OptFormer, eight views'
STUDY = study.Study(
  run,
  {
    MODEL: Setting(by_model),
    VIEWS: Setting(functools.partial(by_model, views=8)),
    PLAIN: Setting(by_model, temperature=1.0),
    GP: Setting(by_gaussian_process),
    HISTOGRAM: Setting(by_histogram),
  },
  seeds=100,
  at=_LENGTHS,
)


def _densities(results: study.Results) -> dict[str, np.ndarray]:
  """Mean log density of each function, by arm and length of the history."""
  return {
    f'{arm} after {at}': densities.mean(axis=1)
    for arm in results.arms
    for at, densities in results.by_place(arm, 'density').items()
  }


def _pooled(results: study.Results) -> dict[str, np.ndarray]:
  """Mean CRPS of each function, and calibration over all forecasts."""
  found = {}
  for arm in results.arms:
    found |= {
      f'{arm}: log density': _all(results, arm, 'density').mean(axis=1),
      f'{arm}: CRPS': _all(results, arm, 'crps').mean(axis=1),
    } | {
      f'{arm}: {name}': np.array(value)
      for name, value in calibration(*_judged(results, arm)).items()
    }
  return found


def _all(results: study.Results, arm: str, metric: str) -> np.ndarray:
  """A metric of all forecasts, [functions, forecasts]."""
  found = results.by_place(arm, metric)
  return np.concatenate([*found.values()], axis=1)


def _judged(results: study.Results, arm: str) -> list[np.ndarray]:
  """The arguments of `calibration`."""
  return [_all(results, arm, x) for x in ('confidence', 'hit', 'pit')]


def calibration(
  confidence: np.ndarray, hit: np.ndarray, pit: np.ndarray
) -> dict[str, float]:
  """Numbers of forecasts, [functions, forecasts] each: one of all together."""
  pit = pit.ravel()
  return {
    'ECE %': 100
    * forecasts.expected_calibration_error(confidence.ravel(), hit.ravel()),
    'PIT distance': forecasts.kolmogorov_smirnov(pit),
    '50 % interval': forecasts.coverage(pit, 0.5),
    '90 % interval': forecasts.coverage(pit, 0.9),
  }


def _drawn(results: study.Results, arm: str) -> dict[str, np.ndarray]:
  """The numbers of `calibration` of 500 resamples of the functions.

  They are the same resamples for all arms.
  """
  columns = _judged(results, arm)
  rng, count = np.random.default_rng(0), len(columns[0])
  samples = rng.integers(count, size=(500, count))
  found = [calibration(*(c[rows] for c in columns)) for rows in samples]
  return {name: np.array([one[name] for one in found]) for name in found[0]}


def _interval(values: np.ndarray) -> np.ndarray:
  return np.quantile(values, (0.025, 0.975))


def _spreads(results: study.Results) -> str:
  """Bootstrap intervals over functions of the numbers of `calibration`."""
  told = lambda drawn: ', '.join(
    '{} [{:.3g}, {:.3g}]'.format(name, *_interval(values))
    for name, values in drawn.items()
  )
  return '; '.join(
    f'{arm}: {told(_drawn(results, arm))}' for arm in results.arms
  )


def _gaps(results: study.Results) -> dict[str, np.ndarray]:
  """Intervals of the model's numbers minus those of the Gaussian process."""
  ours, others = _drawn(results, MODEL), _drawn(results, GP)
  return {
    _gap(name): _interval(ours[name] - others[name])
    for name in ('ECE %', 'PIT distance')
  }


_gap = f'{MODEL} minus {GP}: {{}}'.format


@dataclasses.dataclass(frozen=True)
class Smaller:
  """A number of `calibration` is smaller for the model than for the process."""

  name: str  # Of the number; its interval in `_gaps` decides.

  def judge(self, table: claims.Table, *, exact: bool = False) -> claims.Judged:
    """See `claims.Claim`."""
    del exact
    with claims.told(_gap(self.name)):
      low, high = table[_gap(self.name)]
    verdict = 'holds' if high < 0 else 'inconclusive'
    verdict = 'fails' if low > 0 else verdict
    return claims.Judged(
      verdict,
      f'{_gap(self.name)}: [{low:+.3g}, {high:+.3g}] paired by bootstrap, must '
      f'be below 0: {verdict}',
    )

  def seeds_needed(self, table: claims.Table, *, power: float = 0.8) -> None:
    """See `claims.Claim`; unknown, since the number is no mean."""


def _panel(results: study.Results) -> list[figures.Panel]:
  panels: list[figures.Panel] = []
  for name, label in (('density', 'log density'), ('crps', 'CRPS')):
    means = {
      arm: {at: x.mean() for at, x in results.by_place(arm, name).items()}
      for arm in results.arms
    }
    panels.append(figures.by_place(means, xlabel='trials before', ylabel=label))
  panels.append(_pits(results))
  return panels


def _pits(results: study.Results) -> figures.Panel:
  """How often PITs are below each level: the diagonal, if forecasts are right."""
  levels = np.linspace(0, 1, 101)
  lines = []
  for arm in results.arms:
    shares = (_all(results, arm, 'pit')[..., None] <= levels).mean(axis=(0, 1))
    lines.append(figures.Line(arm, levels, shares))
  lines.append(figures.Line('', [0, 1], [0, 1], style=':', color=7))
  return figures.Lines(
    lines=lines, xlabel='level', ylabel='share of PITs below'
  )


_EXPLAIN = (
  'Seeds are noisy functions of the held-out families, with 2 to 4 parameters of all '
  'types and uniform trials. Each history forecasts the four trials after it. The '
  'range of a forecast is that of the history and the value, with density 1 if '
  'nothing is known; the Gaussian process warps its output.'
)
_PUBLISHED = ledger.Published(
  {
    'OptFormer, log density': 6.16,
    'GP, log density': 4.03,
    'OptFormer, ECE %': 1.89,
    'GP, ECE %': 2.39,
  },
  'arXiv:2205.13320, Table 4, HPO-B (the unit of its densities is not stated)',
)

_above = functools.partial(claims.above, paired=True, resampled=True)
_row = functools.partial(rows.Row, study=STUDY, ours=_densities, figure=_panel)
ROWS = (
  _row(
    id='prediction',
    claim='OptFormer forecasts values of functions that it never saw, the better the '
    'more trials it has read.',
    trend='denser than the histogram of past values; denser after 35 trials than '
    'after 5; after 5 and 10 trials at least as dense as a Gaussian process',
    claims=(
      *(
        _above(f'{MODEL} after {at}', f'{HISTOGRAM} after {at}')
        for at in _LENGTHS
      ),
      _above(f'{MODEL} after 35', f'{MODEL} after 5'),
      *(
        _above(f'{MODEL} after {at}', f'{GP} after {at}', margin=-0.05)
        for at in (5, 10)
      ),
    ),
    published=_PUBLISHED,
    explain=_EXPLAIN,
    headline=f'{MODEL} after 35',
  ),
  _row(
    id='prediction-views',
    claim='The mean of the forecasts of eight views of a study, with parameters in '
    'other orders and directions, is better than the forecast of one.',
    trend='denser than one view after 5, 10, 20 and 35 trials',
    claims=[
      _above(f'{VIEWS} after {at}', f'{MODEL} after {at}') for at in _LENGTHS
    ],
    explain=f'{_EXPLAIN} Not in the paper. The number of views was chosen on '
    'functions of the families of training.',
    headline=f'{VIEWS} after 35',
  ),
  _row(
    id='calibration',
    claim='The forecasts of OptFormer are calibrated, better than those of a '
    'Gaussian process.',
    ours=_pooled,
    trend='smaller calibration error and smaller distance of PITs from uniform, over '
    'resampled functions',
    claims=(Smaller('ECE %'), Smaller('PIT distance')),
    unlisted=_gaps,
    published=_PUBLISHED,
    explain=lambda results: (
      f'{_EXPLAIN} 95 % intervals over resampled functions: '
      f'{_spreads(results)}.'
    ),
    headline=f'{MODEL}: ECE %',
  ),
)
