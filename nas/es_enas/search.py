"""ES-ENAS: a search over parameters and a controller of architectures, together.

Reference: arXiv:2101.07415. One generation's returns serve both: a controller
adds proposals and feedback, but no rollout.

A member of the population is (theta +- sigma g_i, m_i). The inner search sees the
returns alone, and moves theta as it would without architectures. The controller
sees architectures with their returns.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import flax
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key, PyTree

from nas.es_enas import pareto, scores
from nas.es_enas import population as population_lib
from nas.es_enas import space as space_lib
from nas.es_enas.controllers import base as controller_lib
from rl.es import evaluator as evaluator_lib
from rl.es import population as rl_population
from rl.es import search as search_lib

__all__ = ['ESENAS', 'Front', 'State']

# Of one member, (theta, architecture).
Costs = Callable[[PyTree], Mapping[str, Array]]


@flax.struct.dataclass
class State:
  """All state of the search; `search.State` of the inner one, and more.

  Attributes:
    inner: of the search over parameters.
    controller: of the controller.
    front: the best returns for their costs; its items are members, (theta,
      architecture). None: not kept.
  """

  # Not annotated by kind: transformations put other things into the leaves.
  inner: Any
  controller: Any
  front: Any = None

  @property
  def theta(self) -> Any:
    """See `search.State`."""
    return self.inner.theta

  @property
  def normalizer(self) -> Any:
    """See `search.State`."""
    return self.inner.normalizer

  @property
  def key(self) -> Any:
    """See `search.State`."""
    return self.inner.key

  @property
  def generation(self) -> Any:
    """See `search.State`."""
    return self.inner.generation


@dataclasses.dataclass(frozen=True)
class Front:
  """Settings of the archive of members that no other one dominates.

  The return of a pair, at perturbed thetas, stands for that of theta with their
  architecture. It is the mean of few episodes, and the archive keeps the lucky
  ones: they must be evaluated again (`selection.front_returns`).

  Attributes:
    cost: name of the cost.
    capacity: members to keep, theta and all.
  """

  cost: str = 'multiplications'
  capacity: int = 32


@dataclasses.dataclass(frozen=True)
class ESENAS:
  """The combined optimiser; a `search.Search`, a `HostSearch` if it is not pure.

  Attributes:
    search: over parameters: `strategy.Strategy` or `cma.CMAES`.
    controller: over architectures.
    paired: whether the members of a row, which differ in the sign of their
      perturbation, share an architecture. Independent ones, as the paper's code
      draws them, add the variance of the architectures' returns to the gradient.
      In pairs the controller gets the mean of both returns.
    costs: of one member, for the score, the front and the metrics; None: none.
    score: what is maximised; None: the return.
    front: settings of the archive; None: there is none.
    center_feedback: whether evaluations of theta, which have architectures of
      their own, are told to the controller too. The paper's code does so.
    same_environments: whether all members of a generation meet the same
      environments, so that architectures are compared on equal terms; else only
      those of a row do. Where first states differ much it helps the controller
      and costs the gradient: several episodes a member make up for that.

  Raises:
    ValueError: if there is a score, or a front, without costs.
  """

  search: search_lib.Search
  controller: controller_lib.Controller
  paired: bool = True
  costs: Costs | None = None
  score: scores.Score | None = None
  front: Front | None = None
  center_feedback: bool = False
  same_environments: bool = False

  def __post_init__(self) -> None:
    if self.costs is None and (self.score, self.front) != (None, None):
      raise ValueError(
        f'a score and a front need costs, got {self.score=} {self.front=} and '
        'no costs'
      )

  @property
  def pure(self) -> bool:
    """Whether `ask` and `tell` may be traced."""
    return self.search.pure and self.controller.pure

  @property
  def space(self) -> space_lib.Space:
    """The space of architectures."""
    return self.controller.space

  def init(
    self,
    theta: Float[Array, ' d'],
    key: Key[Array, ''],
    observation_shape: tuple[int, ...] | None = None,
  ) -> State:
    """See `search.Search`."""
    inner = self.search.init(theta, key, observation_shape)
    request = self.search.ask(inner)
    rows, centers = self.proposals(request)
    count = rows + self.center_feedback * centers
    # Generations fold their number into the key: none is so large.
    key = jax.random.fold_in(key, 2**31 - 1)
    front = None
    if self.front is not None:
      architecture = jax.ShapeDtypeStruct((self.space.length,), jnp.int32)
      front = pareto.empty(self.front.capacity, (inner.theta, architecture))
    return State(inner, self.controller.init(key, count), front)

  def proposals(self, request: search_lib.Request) -> tuple[int, int]:
    """Architectures of a population, and of the evaluations of theta.

    Args:
      request: of the search over parameters, or of `ask`.
    """
    sides = 1 if self.paired else request.population.sides
    return sides * request.keys.shape[0], request.center_keys.shape[0]

  def ask(self, state: State) -> search_lib.Request:
    """See `search.Search`; members are (theta, architecture)."""
    request = self.search.ask(state.inner)
    rows, centers = self.proposals(request)
    key = jax.random.fold_in(self._key(state), 4)
    drawn = self._propose(state.controller, key, rows + centers)
    drawn = population_lib.packed(self.space, drawn)
    chosen = drawn[:rows]
    if not self.paired:
      pairs = request.keys.shape[0], request.population.sides
      chosen = chosen.reshape(*pairs, self.space.length)
    wrap = population_lib.WithArchitectures
    keys = request.keys
    if self.same_environments:
      keys = jnp.broadcast_to(keys[:1], keys.shape)
    return request.replace(
      keys=keys,
      population=wrap(request.population, chosen),
      center=wrap(request.center, drawn[rows:]) if centers else request.center,
    )

  def _key(self, state: State) -> Key[Array, '']:
    # The inner search splits this key in three, and trainers fold 3 into it.
    return jax.random.fold_in(state.key, state.generation)

  def _propose(
    self, state: PyTree, key: Key[Array, ''], count: int
  ) -> Int[Array, 'count D']:
    if not self.controller.pure:
      return self.controller.propose(state, key, count)
    return _propose(self.controller, state, key, count)

  def tell(
    self,
    state: State,
    request: search_lib.Request,
    evaluation: evaluator_lib.Evaluation,
    center: evaluator_lib.Evaluation | None = None,
  ) -> tuple[State, dict[str, Array]]:
    """See `search.Search`; the metrics have the returns, and the `score`.

    A row with a lost member tells the controller nothing.
    """
    evaluation, center = map(search_lib.finite, (evaluation, center))
    scored, costs = self._scored(state, request.population, evaluation)
    scored_center = center
    if center is not None:
      scored_center, _ = self._scored(state, request.center, center)
    inner, metrics = self.search.tell(
      state.inner, request, scored, scored_center
    )
    metrics |= search_lib.summary(evaluation, center)
    told = self._told(request, scored)
    metrics['architecture_diversity'] = self.space.diversity(told[0])
    if self.center_feedback and center is not None:
      found = request.center.in_order(), scored_center.returns
      found = *found, scored_center.valid
      told = tuple(map(jnp.concatenate, zip(told, found, strict=True)))
    controller, learned = self._feedback(state, told)
    metrics |= {f'controller_{k}': v for k, v in learned.items()}
    metrics |= {f'architecture_{k}': jnp.mean(v) for k, v in costs.items()}
    if self.score is not None:
      metrics['score'] = search_lib.mean(scored)
    front = state.front
    if self.front is not None:
      front = self._inserted(state, self._told(request, evaluation), costs)
    return State(inner, controller, front), metrics

  def _inserted(
    self,
    state: State,
    told: tuple[Array, Array, Array],
    costs: Mapping[str, Array],
  ) -> pareto.Archive:
    """The front with this generation's architectures, at theta."""
    architectures, returns, valid = told
    count = returns.shape[0]
    thetas = jnp.broadcast_to(state.theta, (count, *state.theta.shape))
    # Members of one side come first, and both sides share their architectures.
    found = costs[self.front.cost][:count].astype(jnp.float32)
    members = (thetas, architectures)
    return pareto.insert(state.front, returns, found, members, valid)

  def _feedback(
    self, state: State, told: tuple[Array, Array, Array]
  ) -> tuple[PyTree, dict[str, Array]]:
    key = jax.random.fold_in(self._key(state), 5)
    if not self.controller.pure:
      return self.controller.feedback(state.controller, key, *told)
    return _feedback(self.controller, state.controller, key, *told)

  def _scored(
    self,
    state: State,
    population: population_lib.WithArchitectures,
    evaluation: evaluator_lib.Evaluation,
  ) -> tuple[evaluator_lib.Evaluation, Mapping[str, Array]]:
    """With scores for returns; and the costs of all members."""
    if self.costs is None:
      return evaluation, {}
    rows = evaluation.returns.shape[0] // population.sides
    # Traced, members are drawn only if their costs depend on theta.
    costs = _costs(self.costs, population, rows)
    if self.score is None:
      return evaluation, costs
    found = self.score(evaluation.returns, costs, state.generation)
    return search_lib.finite(evaluation.replace(returns=found)), costs

  def _told(
    self, request: search_lib.Request, scored: evaluator_lib.Evaluation
  ) -> tuple[Array, Array, Array]:
    """Architectures, scores and which are valid: what the controller is told."""
    architectures = request.population.in_order()
    if not self.paired:
      return architectures, scored.returns, scored.valid
    sides = request.population.sides
    rows = lambda x: x.reshape(sides, -1)
    valid = rows(scored.valid).all(axis=0)
    scores = rows(scored.returns).mean(axis=0)
    return architectures[: len(valid)], scores, valid

  def step(
    self, state: State, evaluator: evaluator_lib.Evaluator
  ) -> tuple[State, dict[str, Array]]:
    """See `search.Search`."""
    if self.pure and not evaluator.pure:
      ask, tell = _ask, _tell
    else:
      ask, tell = ESENAS.ask, ESENAS.tell
    request = ask(self, state)
    if self.pure and evaluator.pure:
      # In one program, directions that are few need not be drawn twice.
      kept = request.population.keep(request.keys.shape[0])
      request = request.replace(population=kept)
    found = search_lib.run(request, state.normalizer, evaluator)
    return tell(self, state, request, *found)

  def parted(self, state: State) -> tuple[State, dict[str, Any]]:
    """See `search.HostSearch`; controllers keep arrays only."""
    if self.search.pure:
      return state, {}
    inner, numbers = self.search.parted(state.inner)
    return state.replace(inner=inner), numbers

  def joined(self, state: State, numbers: Mapping[str, Any]) -> State:
    """See `search.HostSearch`."""
    if self.search.pure:
      return state
    return state.replace(inner=self.search.joined(state.inner, numbers))


# Compiled by themselves where a part of the search runs on the host.
_propose = jax.jit(
  lambda controller, *arguments: controller.propose(*arguments),
  static_argnums=(0, 3),
)
_feedback = jax.jit(
  lambda controller, *arguments: controller.feedback(*arguments),
  static_argnums=0,
)
_costs = jax.jit(
  lambda costs, population, rows: jax.vmap(costs)(
    rl_population.all_members(population, rows)
  ),
  static_argnums=(0, 2),
)
_ask = jax.jit(ESENAS.ask, static_argnums=0)
_tell = jax.jit(ESENAS.tell, static_argnums=0)
