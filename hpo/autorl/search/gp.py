"""Bayesian optimisation: expected improvement of a Gaussian process.

The process has a Matern-5/2 kernel with a length for each parameter, and learns the
noise of the scores. With its mean m and deviation s, the best mean f* at a finished
trial, and u = (m - f*) / s, the next point maximises

  EI = (m - f*) Phi(u) + s phi(u)

The mean comes from finished trials. The deviation also knows where trials still
run, so that points asked for at once differ. An infeasible trial counts as the worst
score. The first points are those of Sobol's sequence.

Reference: Jones, Schonlau, Welch (1998), "Efficient global optimization of expensive
black-box functions", Equation 15; Desautels, Krause, Burdick (2014), Section 3, for
points that run at once.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy import stats
from jaxtyping import Array, Float, Key

from hpo.autorl import asking
from hpo.autorl.search import simple
from hpo.optformer.behaviours import climbing, gp_ucb
from hpo.optformer.behaviours import cube as cube_lib
from hpo.optformer.behaviours import gaussian_process as gp
from rl import ranges

__all__ = ['GP', 'expected_improvement']

_ROWS = 16  # Trials are filled up to a multiple: one program serves many.


def expected_improvement(
  mean: Float[Array, ' n'],
  deviation: Float[Array, ' n'],
  best: Float[Array, ''],
) -> Float[Array, ' n']:
  """EI of normal forecasts over a score, which is maximised.

  Args:
    mean: of the forecasts.
    deviation: of the forecasts; where it is 0, EI is what the mean is better.
    best: score so far.
  """
  u = (mean - best) / jnp.maximum(deviation, jnp.finfo(deviation.dtype).tiny)
  return (mean - best) * stats.norm.cdf(u) + deviation * stats.norm.pdf(u)


@dataclasses.dataclass(frozen=True)
class GP:
  """See the module; an `asking.Method`.

  Attributes:
    initial: points of Sobol's sequence; one batch may bring some more.
    fit_steps: of Adam.
    candidates: points that are compared, half of them near to the best trials;
      then there are `rounds` rounds of `offspring` in ever smaller steps.
    rounds: see `candidates`.
    offspring: see `candidates`; a multiple of 4.

  Raises:
    ValueError: a number is out of range.
  """

  initial: int = 5
  fit_steps: int = 100
  candidates: int = 512
  rounds: int = 6
  offspring: int = 64

  def __post_init__(self) -> None:
    ranges.check_counts(initial=self.initial)
    ranges.check_counts(least=2 * climbing.BEST, candidates=self.candidates)
    ranges.check_counts(least=0, fit_steps=self.fit_steps, rounds=self.rounds)
    if self.offspring < 1 or self.offspring % climbing.BEST:
      raise ValueError(
        f'offspring must divide by {climbing.BEST}, got {self.offspring=}'
      )

  def propose(
    self, history: asking.History, count: int
  ) -> list[asking.Proposal]:
    """See `asking.Method`."""
    records = history.records
    is_scored = any(record.score is not None for record in records)
    if len(records) < self.initial or not is_scored:
      return simple.Sobol().propose(history, count)
    space = history.space
    places, values, states = self._rows(history, count)
    seeds = history.rng.integers(2**32, size=count)
    found = []
    for row, seed in enumerate(seeds, len(history.records)):
      unit = _next_point(
        self,
        jax.random.key(int(seed)),
        cube_lib.Cube.of(space),
        places,
        values,
        states,
      )
      unit = space.to_unit(space.from_unit(np.asarray(unit)[None]))[0]
      places[row], states[row] = unit, _RUNNING
      found.append(unit)
    return simple.at_codes(space, space.from_unit(np.stack(found)))

  def _rows(
    self, history: asking.History, count: int
  ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Places, scores and states of trials, with room for `count` more."""
    study, number = history.study, len(history.records)
    room = -(-(number + count) // _ROWS) * _ROWS
    places = np.zeros((room, len(history.space)), np.float32)
    places[:number] = history.space.to_unit(study.codes)
    values = np.zeros(room, np.float32)
    gains = study.gains
    # The largest is about 1, exactly scaled: float32 would overflow.
    gains = np.ldexp(gains, -np.frexp(np.nanmax(np.abs(gains)))[1])
    values[:number] = np.nan_to_num(gains, nan=np.nanmin(gains))
    states = np.full(room, _UNKNOWN)
    for row, record in enumerate(history.records):
      states[row] = _RUNNING if record.told is None else _FINISHED
    return places, values, states


_UNKNOWN, _RUNNING, _FINISHED = range(3)


@functools.partial(jax.jit, static_argnums=0)
def _next_point(
  method: GP,
  key: Key[Array, ''],
  cube: cube_lib.Cube,
  places: Float[Array, 't d'],
  values: Float[Array, ' t'],
  states: Array,
) -> Float[Array, ' d']:
  finished, known = states == _FINISHED, states > _UNKNOWN
  gaps = cube.squared_gaps(places[:, None], places)
  data = gp.Data(gaps, gp_ucb.warped(values, finished), finished)
  hyper = gp.fit(data, steps=method.fit_steps, rate=0.1)
  mean_of = gp.factor(hyper, data)
  spread_of = gp.factor(hyper, gp.Data(gaps, jnp.zeros(len(values)), known))

  def forecast(at: Float[Array, 'n d']) -> tuple[Array, Array]:
    cross = cube.squared_gaps(at[:, None], places)
    mean, _ = gp.predict(mean_of, hyper, cross, finished)
    return mean, gp.predict(spread_of, hyper, cross, known)[1]

  fitted = jnp.where(finished, forecast(places)[0], -jnp.inf)
  order = jnp.argsort(-fitted)
  ranks = jnp.arange(method.candidates // 2)
  near = places[order[ranks % jnp.minimum(climbing.BEST, finished.sum())]]

  def score(at: Float[Array, 'n d']) -> Float[Array, ' n']:
    return expected_improvement(*forecast(at), fitted.max())

  options = {'rounds': method.rounds, 'offspring': method.offspring}
  return climbing.climb(key, cube, near, score, **options)
