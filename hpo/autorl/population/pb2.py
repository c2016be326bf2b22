"""Population-based bandits: PBT whose new settings come from a Gaussian process.

The process forecasts how much a round improves a score, from the time, the score
before the round and the settings. Members are replaced as in PBT, and each new
member takes the settings with the largest optimistic forecast

  mean(x) + sqrt(beta) deviation(x),   beta = max(0, 0.2 ln(0.4 n))

for n observations. The mean comes from finished rounds. The deviation also knows
the settings of all members that are about to run, so that new ones differ.

Old observations are left out where the newer ones are more likely without them. A
copy starts from its parent's score, so that the jump to it is no improvement.
Categories are chosen by EXP3.S for each parameter (PB2-Mix), and the process then
chooses the other settings given these.

References: Parker-Holder, Nguyen, Roberts (2020), arXiv:2002.02518, Section 3 and
Appendix; Parker-Holder, Nguyen, Desai, Roberts (2021), arXiv:2106.15883.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import flax
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from hpo import spaces
from hpo.autorl import inner as inner_lib
from hpo.autorl import traced
from hpo.autorl.population import (
  categories,
  drifting,
  exploit,
  pbt,
  protocol,
)
from hpo.optformer.behaviours import climbing
from hpo.optformer.behaviours import cube as cube_lib
from hpo.optformer.behaviours import gaussian_process as gp
from rl import ranges

__all__ = ['PB2', 'Observations', 'PB2State', 'beta']


@flax.struct.dataclass
class Observations:
  """Improvements of single rounds, in a ring of r rows.

  Attributes:
    places: settings in the unit cube, float32 [r, d].
    before: scores before the round, float32 [r].
    times: numbers of the rounds, float32 [r].
    gains: scores after minus before, float32 [r].
    known: which rows are observations, bool [r].
  """

  places: Any
  before: Any
  times: Any
  gains: Any
  known: Any


@flax.struct.dataclass
class PB2State:
  """The state of the method.

  Attributes:
    codes: settings of the next round, float32 [n, d].
    before: scores that its members start from, float32 [n]; NaN at first.
    rounds: finished, int32.
    seen: the observations.
    fit: of the process, which goes on from round to round.
    logits: of the categories of each parameter that has some, by name.
  """

  codes: Any
  before: Any
  rounds: Any
  seen: Observations
  fit: Any
  logits: Any


def beta(count: Int[Array, ''] | int) -> Float[Array, '']:
  """The weight of exploration after some observations; 0 up to two of them."""
  return 0.2 * jnp.log(jnp.maximum(0.4 * count, 1.0))


@dataclasses.dataclass(frozen=True)
class PB2:
  """See the module; a `protocol.Method`.

  Attributes:
    space: of the settings.
    share: of the members that are replaced.
    window: newest observations that the process learns from in any case;
      published: 200.
    memory: observations that are remembered, the newest, of which it may learn
      from more; a whole number of rounds fits in. The published number is that
      of all.
    fit_steps: of Adam after each round, for the process.
    candidates: settings that are compared, half of them near to the present
      ones; then there are `rounds` rounds of `offspring` in ever smaller steps.
    rounds: see `candidates`.
    offspring: see `candidates`.
    mixing: of EXP3.S.
    sharing: of EXP3.S.

  Raises:
    ValueError: a number is out of range.
  """

  space: spaces.Space
  share: float = 0.2
  window: int = 200
  memory: int = 300
  fit_steps: int = 10
  candidates: int = 256
  rounds: int = 6
  offspring: int = 32
  mixing: float = 0.2
  sharing: float = 0.05

  def __post_init__(self) -> None:
    pbt.check_share(self.share)
    ranges.check_counts(window=self.window, candidates=self.candidates)
    ranges.check_counts(least=self.window, memory=self.memory)
    ranges.check_counts(least=0, fit_steps=self.fit_steps, rounds=self.rounds)
    ranges.check_positive(mixing=self.mixing)
    ranges.check_shares(mixing=self.mixing, sharing=self.sharing)
    if self.offspring % climbing.BEST or self.candidates < 2 * climbing.BEST:
      raise ValueError(
        f'offspring must divide by {climbing.BEST} and candidates be at least '
        f'{2 * climbing.BEST}, got {self.offspring=} {self.candidates=}'
      )

  def init(self, key: Key[Array, ''], size: int, rounds: int) -> PB2State:
    """See `protocol.Method`."""
    width = len(self.space)
    rows = min(max(1, self.memory // size), rounds) * size
    zeros = jnp.zeros(rows)
    seen = Observations(
      jnp.zeros((rows, width)), zeros, zeros, zeros, jnp.zeros(rows, bool)
    )
    logits = {
      p.name: jnp.zeros(len(p.values))
      for p in self.space.parameters
      if _is_category(p)
    }
    return PB2State(
      traced.sample(self.space, key, (size,)),
      jnp.full(size, jnp.nan, jnp.float32),
      jnp.int32(0),
      seen,
      drifting.start(),
      logits,
    )

  def step(
    self, state: PB2State, scores: Float[Array, ' n'], key: Key[Array, '']
  ) -> protocol.Step:
    """See `protocol.Method`."""
    keys = jax.random.split(key, 3)
    scores = inner_lib.sound(scores)
    seen = self._noted(state, scores)
    logits = self._rewarded(state, scores)
    parents = exploit.truncation(keys[0], scores, self.share)
    before = scores[parents]
    codes = self._drawn_categories(keys[1], state.codes[parents], logits)
    is_copy = (parents != jnp.arange(len(parents)))[:, None]
    codes = jnp.where(is_copy, codes, state.codes)
    rounds = state.rounds + 1
    state = PB2State(codes, before, rounds, seen, state.fit, logits)
    found = _Forecast.of(self, state)
    codes = self._explored(keys[2], state, found, is_copy[:, 0])
    return protocol.Step(state.replace(codes=codes, fit=found.fit), parents)

  def _noted(self, state: PB2State, scores: Array) -> Observations:
    """The observations with those of the last round."""
    seen, size = state.seen, len(scores)
    first = state.rounds * size % len(seen.gains)
    gains = scores - state.before
    known = jnp.isfinite(gains)
    put = lambda old, new: jax.lax.dynamic_update_slice_in_dim(
      old, new.astype(old.dtype), first, 0
    )
    return Observations(
      put(seen.places, traced.to_unit(self.space, state.codes)),
      put(seen.before, jnp.where(known, state.before, 0)),
      put(seen.times, jnp.full(size, state.rounds)),
      put(seen.gains, jnp.where(known, gains, 0)),
      put(seen.known, known),
    )

  def _rewarded(self, state: PB2State, scores: Array) -> dict[str, Array]:
    """Logits of categories; rewards are improvements, scaled to [0, 1]."""
    gains = scores - state.before
    known = jnp.isfinite(gains)
    low = jnp.where(known, gains, jnp.inf).min()
    high = jnp.where(known, gains, -jnp.inf).max()
    rewards = jnp.where(known, _scaled(gains, low, high), 0)
    return {
      name: categories.updated(
        logits,
        jnp.int32(state.codes[:, self.space.names.index(name)]),
        rewards,
        known,
        mixing=self.mixing,
        sharing=self.sharing,
      )
      for name, logits in state.logits.items()
    }

  def _drawn_categories(
    self, key: Key[Array, ''], codes: Array, logits: Mapping[str, Array]
  ) -> Float[Array, 'n d']:
    for name, one in logits.items():
      i = self.space.names.index(name)
      drawn = jax.random.choice(
        jax.random.fold_in(key, i),
        len(one),
        (len(codes),),
        p=categories.chances(one, self.mixing),
      )
      codes = codes.at[:, i].set(drawn)
    return codes

  def _explored(
    self,
    key: Key[Array, ''],
    state: PB2State,
    found: '_Forecast',
    is_copy: Array,
  ) -> Float[Array, 'n d']:
    """New settings of copies, one after the other."""

    def choose(number: Array, carry: tuple) -> tuple:
      places, known = carry
      index = order[number]
      chosen = self._chosen(
        jax.random.fold_in(key, index), found, places, known, index
      )
      return places.at[index].set(chosen), known.at[index].set(True)

    order = jnp.argsort(~is_copy, stable=True)
    start = (traced.to_unit(self.space, state.codes), ~is_copy)
    places, _ = jax.lax.fori_loop(0, is_copy.sum(), choose, start)
    codes = traced.from_unit(self.space, places)
    return jnp.where(is_copy[:, None], codes, state.codes)

  def _chosen(
    self,
    key: Key[Array, ''],
    found: '_Forecast',
    places: Float[Array, 'n d'],
    known: Array,
    index: Array,
  ) -> Float[Array, ' d']:
    """The place with the largest optimistic forecast for a member."""
    own, cube = places[index], self._cube
    spread = found.deviation(places, known)
    kept = jnp.array([_is_category(p) for p in self.space.parameters])
    held = lambda x: jnp.where(kept, own, x)

    def score(x: Float[Array, 'm d']) -> Float[Array, ' m']:
      return found.optimistic(held(x), index, spread)

    near = places[jnp.arange(self.candidates // 2) % len(places)]
    options = {'rounds': self.rounds, 'offspring': self.offspring}
    return held(climbing.climb(key, cube, near, score, **options))

  @property
  def _cube(self) -> cube_lib.Cube:
    # Cells of whole and listed numbers are found when places become codes.
    width = len(self.space)
    return cube_lib.Cube(jnp.zeros(width, jnp.int32), jnp.ones(width, bool))


@flax.struct.dataclass
class _Forecast:
  """The process, fitted to the finished rounds.

  Attributes:
    fit: of the hyperparameters.
    inputs: of the observations.
    known: which rows it learns from.
    mean: their factor.
    before: scaled scores that members start from, [n].
    time: of the next round.
  """

  fit: Any
  inputs: Any
  known: Any
  mean: Any
  before: Any
  time: Any

  @classmethod
  def of(cls, method: PB2, state: PB2State) -> '_Forecast':
    seen, before = state.seen, state.before
    known = seen.known
    at_rows = jnp.where(known, seen.before, jnp.nan)
    both = jnp.concatenate([at_rows, before])
    low, high = jnp.nanmin(both), jnp.nanmax(both)
    scaled = jnp.where(known, _scaled(seen.before, low, high), 0)
    places = jnp.concatenate([scaled[:, None], seen.places], axis=1)
    inputs = drifting.Inputs(places, seen.times)
    if len(known) > method.window:
      values = _standardised(seen.gains, known)
      known = drifting.window(
        state.fit.hyper, inputs, values, known, method.window
      )
    values = _standardised(seen.gains, known)
    fit = drifting.fit(state.fit, inputs, values, known, steps=method.fit_steps)
    factor = drifting.factor(fit.hyper, inputs, values, known)
    time = jnp.float32(state.rounds)
    return cls(
      fit,
      inputs,
      known,
      factor,
      jnp.nan_to_num(_scaled(before, low, high)),
      time,
    )

  def _at(self, places: Array, before: Array) -> drifting.Inputs:
    before = jnp.broadcast_to(before, len(places))
    places = jnp.concatenate([before[:, None], places], axis=1)
    return drifting.Inputs(places, jnp.full(len(places), self.time))

  def deviation(
    self, places: Float[Array, 'n d'], known: Array
  ) -> tuple[gp.Factor, drifting.Inputs, Array]:
    """What deviations need: the observations, and the members about to run."""
    running = self._at(places, self.before)
    join = lambda x, y: jnp.concatenate([x, y])
    inputs = jax.tree.map(join, self.inputs, running)
    known = join(self.known, known)
    zeros = jnp.zeros(len(known))
    return drifting.factor(self.fit.hyper, inputs, zeros, known), inputs, known

  def optimistic(
    self, places: Float[Array, 'm d'], index: Array, spread: tuple
  ) -> Float[Array, ' m']:
    """Mean + sqrt(beta) deviation."""
    at = self._at(places, self.before[index])
    variance = jnp.exp(2 * self.fit.hyper.scale)
    cross = drifting.kernel(self.fit.hyper, at, self.inputs)
    cross = jnp.where(self.known, cross, 0)
    mean, _ = gp.posterior(self.mean, cross, variance)
    factor, inputs, known = spread
    cross = jnp.where(known, drifting.kernel(self.fit.hyper, at, inputs), 0)
    _, deviation = gp.posterior(factor, cross, variance)
    return mean + jnp.sqrt(beta(self.known.sum())) * deviation


def _is_category(p: spaces.Parameter) -> bool:
  return isinstance(p, spaces.Categorical)


def _scaled(x: Array, low: Array, high: Array) -> Array:
  return (x - low) / jnp.where(high > low, high - low, 1)


def _standardised(gains: Array, known: Array) -> Array:
  """To mean 0 and deviation 1, clipped to [-2, 2]; 0 where unknown."""
  count = jnp.maximum(known.sum(), 1)
  # The largest is about 1, exactly scaled: squares of others may overflow.
  _, exponent = jnp.frexp(jnp.where(known, jnp.abs(gains), 0).max())
  gains = jnp.ldexp(gains, -exponent)
  mean = jnp.where(known, gains, 0).sum() / count
  spread = jnp.where(known, (gains - mean) ** 2, 0).sum() / count
  scaled = (gains - mean) / jnp.where(spread > 0, jnp.sqrt(spread), 1)
  return jnp.where(known, jnp.clip(scaled, -2, 2), 0)
