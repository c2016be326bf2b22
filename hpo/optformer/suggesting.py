"""The next points of a study: the stateless core of every interface.

`suggest` draws candidates from the model's policy, scores the forecast of each
by an acquisition, and takes the best that is new. It is a function of the
problem, the trials and a key; a history that was read before only saves time.

Reference: arXiv:2205.13320, Sections 4.3 and 4.4.
"""

import dataclasses
import functools
import math
from collections.abc import Iterable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from hpo import spaces, studies
from hpo.optformer import (
  acquisitions,
  decoding,
  histories,
  novelty,
  quantizing,
)
from hpo.optformer import trained as trained_lib
from hpo.optformer import views as views_lib
from rl import ranges

__all__ = ['Policy', 'Suggestions', 'suggest', 'usual']

# Where all candidates repeat earlier points, others are drawn at this many
# times the temperature, and then uniformly.
_HOT = 1.5
_MANY = 5  # Free parameters; the least that row `choice-of-views` has.


@dataclasses.dataclass(frozen=True)
class Policy:
  """How points are chosen.

  Attributes:
    acquisition: ranks the candidates.
    num_candidates: M.
    temperature: of the draws of candidates.
    pending: objective of trials that still run: 'liar' (the mean of the study),
      'sample' (a draw from the model's forecast) or 'token' (PENDING, which the
      model must know).
    permute: whether each call shuffles the parameters, as published. With a
      fixed order, calls read only the new trials of a history.
    noisy: whether earlier points may be repeated. Otherwise candidates with the
      tokens of an earlier point are dropped.
    algorithm: name of the one that the model imitates; None: its own, see
      `trained.Trained`.
    max_tokens: of the decoder; None: as in training. Longer studies are cut by
      the rule of `histories`.
    views: of the study, whose forecasts of the candidates are averaged; see
      `views`. One is published. Eight for 16 candidates take three to four times
      the CPU time of one for 100.
  """

  acquisition: acquisitions.Acquisition = acquisitions.EI()
  num_candidates: int = 100
  temperature: float = 1.0
  pending: str = 'liar'
  permute: bool = True
  noisy: bool = False
  algorithm: str | None = None
  max_tokens: int | None = None
  views: int = 1

  def __post_init__(self) -> None:
    ranges.check_counts(
      num_candidates=self.num_candidates,
      max_tokens=self.max_tokens,
      views=self.views,
    )
    ranges.check_positive(temperature=self.temperature)
    if self.pending not in histories.FILLINGS:
      raise ValueError(
        f'pending must be one of {histories.FILLINGS}, got {self.pending!r}'
      )


def usual(space: spaces.Space) -> Policy:
  """The policy of all interfaces to which none is given.

  The published one, with an upper confidence bound in the place of expected
  improvement (rows `choice-of-acquisitions`, `acquisitions-of-views`); from five
  free parameters on, of eight views of the study (rows `choice-of-views`,
  `views-of-few`).
  """
  if len(space.free) < _MANY:
    return Policy(acquisitions.UCB(0.9))
  return Policy(acquisitions.UCB(0.9), num_candidates=16, views=8)


class Suggestions(NamedTuple):
  """The next points.

  Attributes:
    points: values by name.
    scores: of the acquisition; NaN for points that were drawn uniformly.
    repeated: candidates that were dropped because they repeat earlier points.
    hot: points that were drawn at the higher temperature.
    random: points that were drawn uniformly.
    history: to be handed to the next call.
  """

  points: list[dict[str, spaces.Value]]
  scores: list[float]
  repeated: int
  hot: int
  random: int
  history: decoding.History


def suggest(
  trained: trained_lib.Trained,
  problem: studies.Problem,
  trials: Iterable[studies.Trial],
  key: Key[Array, ''],
  *,
  count: int = 1,
  policy: Policy | None = None,
  history: decoding.History | None = None,
) -> Suggestions:
  """Suggests points to try next.

  Args:
    trained: the model.
    problem: the objective and its space.
    trials: so far, in their order, those that still run included.
    key: of all draws.
    count: points wanted; they differ from one another, and from earlier points
      unless the policy is noisy, as long as the space has other points.
    policy: how to choose; None: see `usual`.
    history: of the last call for this study, to save time; never needed.

  Returns:
    The points.

  Raises:
    ValueError: a trial is not legal, nothing is free, or the policy asks for
      tokens or an algorithm that the model does not know.
  """
  policy = usual(problem.space) if policy is None else policy
  _check(trained, problem, policy, count)
  algorithm = policy.algorithm or trained.algorithm
  problem = dataclasses.replace(problem, algorithm=algorithm)
  study = trained.told(studies.Study.of(problem, trials))
  rng = np.random.default_rng(np.asarray(jax.random.key_data(key)).tolist())
  order = problem.space.free
  if policy.permute:
    order = tuple(rng.permutation(order).tolist())
  running = int((study.statuses == studies.PENDING).sum())
  read = histories.reading(
    trained,
    study,
    order,
    room=running + count,
    max_tokens=policy.max_tokens,
  )
  told = study.problem
  seen = novelty.Seen(told.space, order, trained.tokenizer.ids.bins)
  call = _Call(trained, told, policy, rng, key, history, seen)
  read = call.with_pending(read, study)
  if not policy.noisy:
    seen.add(study.codes)
  points, scores = [], []
  for _ in range(count):
    codes, score = call.choose(read)
    points.append(problem.space.point(codes))
    scores.append(score)
    seen.add(codes[None])
    if len(points) < count:
      read = call.fill(read, seen.tokens(codes[None]))
  return Suggestions(
    points, scores, call.repeated, call.hot, call.random, call.history
  )


def _check(
  trained: trained_lib.Trained,
  problem: studies.Problem,
  policy: Policy,
  count: int,
) -> None:
  ranges.check_counts(count=count)
  trained.check_algorithm(policy.algorithm or trained.algorithm)
  if policy.pending == 'token' and not trained.knows_pending:
    raise ValueError(
      "pending='token' needs a model that was trained with hidden objectives"
    )
  if not problem.space.free:
    raise ValueError(f'all parameters of {problem.space.names} are fixed')


@dataclasses.dataclass(eq=False)
class _Call:
  """One call of `suggest`: its settings, its draws and its counters."""

  trained: trained_lib.Trained
  problem: studies.Problem
  policy: Policy
  rng: np.random.Generator
  key: Array
  history: decoding.History | None
  seen: novelty.Seen
  repeated: int = 0
  hot: int = 0
  random: int = 0
  draws: int = 0

  def next_key(self) -> Array:
    """Another key at each call."""
    self.draws += 1
    return jax.random.fold_in(self.key, self.draws)

  def propose(
    self,
    read: histories.Reading,
    *,
    count: int,
    temperature: float = 1.0,
    given: Int[np.ndarray, 'n d'] | None = None,
  ) -> decoding.Candidates:
    """Candidates after a history, which is read as far as it is not known."""
    trained = self.trained
    self.history = decoding.advance(
      trained.model,
      trained.variables,
      read.metadata[None],
      read.ids(trained)[None],
      read.legal[None],
      projections=trained.projections,
      history=self.history,
    )
    if given is not None:
      given = jnp.asarray(read.padded(given, count))
    return decoding.propose(
      trained.model,
      trained.variables,
      self.history.prefix,
      jnp.asarray(read.legal[None]),
      given,
      self.next_key()[None],
      star=trained.tokenizer.ids.star,
      count=count,
      projections=trained.projections,
      temperature=jnp.float32(temperature),
    )

  def with_pending(
    self, read: histories.Reading, study: studies.Study
  ) -> histories.Reading:
    """The history with the trials that still run at its end."""
    running = study.take(study.statuses == studies.PENDING)
    if not len(running):
      return read
    return self.fill(
      read, self.trained.tokenizer.parameters(running, read.order)
    )

  def fill(
    self, read: histories.Reading, parameters: Int[np.ndarray, 'n d']
  ) -> histories.Reading:
    """Adds trials that still run."""
    for row, objective in zip(
      parameters, self._objectives(read, parameters), strict=True
    ):
      read = read.with_trial(row, objective)
    return read

  def _objectives(
    self, read: histories.Reading, parameters: Int[np.ndarray, 'n d']
  ) -> list[int]:
    ids, count = self.trained.tokenizer.ids, len(parameters)
    if self.policy.pending == 'token':
      return [ids.pending] * count
    if self.policy.pending == 'sample':
      size = decoding.bucket(count)
      found = self.propose(read, count=size, given=parameters)
      logits = self._forecasts(found, read)[:count]
      drawn = jax.random.categorical(self.next_key(), logits)
      return (np.asarray(drawn) + ids.first_bin).tolist()
    return [ids.first_bin + read.mean] * count

  def choose(
    self, read: histories.Reading
  ) -> tuple[Float[np.ndarray, ' d'], float]:
    """The codes of the best new candidate, and its score."""
    for temperature in (1.0, _HOT):
      found = self.propose(
        read,
        count=self.policy.num_candidates,
        temperature=temperature * self.policy.temperature,
      )
      scores = self._scores(found, read)
      drawn = np.asarray(found.tokens[0, :, : len(read.order)])
      codes = self._codes(drawn, read.order)
      is_new = self.seen.is_new(codes)
      self.repeated += int((~is_new).sum())
      if is_new.any():
        self.hot += temperature == _HOT
        best = int(np.argmax(np.where(is_new, scores, -np.inf)))
        return codes[best], float(scores[best])
    self.random += 1
    return self.seen.draw(self.rng), math.nan

  def _scores(
    self, found: decoding.Candidates, read: histories.Reading
  ) -> Float[np.ndarray, ' n']:
    # Without objectives there is nothing to improve on: the policy alone
    # counts.
    improves = read.best is not None
    score = self.policy.acquisition if improves else acquisitions.Prior()
    logits = found.objective[0]
    if improves:
      logits = self._forecasts(found, read)
    best = jnp.int32(read.best or 0)
    found = _score(score, logits, best, self.next_key())
    return np.asarray(found, np.float64)

  def _forecasts(
    self, found: decoding.Candidates, read: histories.Reading
  ) -> Float[Array, 'n q']:
    """Logits of the forecasts; of the mean over views that are drawn anew."""
    if self.policy.views == 1:
      return found.objective[0] / self.trained.temperature
    views = views_lib.drawn(
      self.trained, self.problem, read, self.policy.views, self.rng
    )
    given = np.asarray(found.tokens[0, :, : len(read.order)])
    log_probs = views_lib.log_probabilities(self.trained, read, views, given)
    return jnp.asarray(log_probs, jnp.float32)

  def _codes(
    self, drawn: Int[np.ndarray, 'n k'], order: tuple[int, ...]
  ) -> Float[np.ndarray, 'n d']:
    """Codes of all parameters; fixed ones have their one value."""
    parameters = self.problem.space.parameters
    codes = np.zeros((len(drawn), len(parameters)))
    for i, p in enumerate(parameters):
      if isinstance(p, spaces.Float | spaces.Int):
        codes[:, i] = p.low
    free = tuple(parameters[i] for i in order)
    bins = self.trained.tokenizer.ids.bins
    codes[:, list(order)] = quantizing.parameter_codes(free, drawn, bins)
    return codes


@functools.partial(jax.jit, static_argnums=0)
def _score(
  score: acquisitions.Acquisition, logits: Array, best: Array, key: Array
) -> Array:
  return score(logits, best, key)
