"""Learning algorithms evolved by the workspace's evolution strategies.

The parameters of an algorithm are a point; its fitness is how well an agent does
that learns by it. All members of a generation meet the same tasks and draws, so
that their difference is due to their parameters alone.

Reference: Houthooft et al. (2018), arXiv:1802.04821.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import flax
import jax
import jax.numpy as jnp
from jax import flatten_util
from jaxtyping import Array, Float, Key, PyTree

from hpo.autorl import programs
from rl.es import evaluator as evaluator_lib
from rl.es import population as population_lib
from rl.es import strategy as strategy_lib

__all__ = ['Evolved', 'EvolvedState', 'Objective']


@runtime_checkable
class Objective(Protocol):
  """What an algorithm is meta-trained for; hashable settings."""

  @property
  def steps(self) -> int:
    """Environment steps of one fitness."""
    ...

  def init(self, key: Key[Array, '']) -> PyTree:
    """The first parameters of the algorithm."""
    ...

  def fitness(self, params: PyTree, key: Key[Array, '']) -> Float[Array, '']:
    """How well agents do that learn by it; maximised."""
    ...

  def evaluate(self, params: PyTree, key: Key[Array, '']) -> dict[str, Array]:
    """Scores on other tasks, scalars by name."""
    ...


@flax.struct.dataclass
class EvolvedState:
  """All that changes: `search.State` of the strategy."""

  search: Any


@dataclasses.dataclass(frozen=True)
class Evolved:
  """Evolves the parameters of an objective; a `programs.Program`.

  Attributes:
    objective: gives the fitness.
    strategy: of `rl.es`; it may not normalise observations.

  Raises:
    ValueError: if it does.
  """

  objective: Objective
  strategy: strategy_lib.Strategy

  def __post_init__(self) -> None:
    if self.strategy.config.normalize:
      raise ValueError('an algorithm has no observations: normalize=False')

  @functools.cached_property
  def _unravel(self) -> Callable[[Array], PyTree]:
    # Of shapes alone: nothing is drawn.
    like = jax.eval_shape(lambda: self.objective.init(jax.random.key(0)))
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), like)
    return flatten_util.ravel_pytree(zeros)[1]

  def params(self, state: EvolvedState) -> PyTree:
    """The centre of the population, as parameters of the algorithm."""
    return self._unravel(state.search.theta)

  def init(self, key: Key[Array, '']) -> EvolvedState:
    """See `programs.Program`."""
    first, second = jax.random.split(key)
    flat, _ = flatten_util.ravel_pytree(self.objective.init(first))
    return EvolvedState(self.strategy.init(flat, second))

  def step(
    self, state: EvolvedState, key: Key[Array, '']
  ) -> tuple[EvolvedState, dict[str, Array]]:
    """One generation; see `programs.Program`."""
    request = self.strategy.ask(state.search)
    count = request.keys.shape[0]
    members = population_lib.all_members(request.population, count)
    judge = lambda x: self.objective.fitness(self._unravel(x), key)
    found = evaluator_lib.Evaluation.of(jax.vmap(judge)(members))
    center = None
    centers = request.center_keys.shape[0]
    if centers:
      own = judge(state.search.theta)
      center = evaluator_lib.Evaluation.of(jnp.full(centers, own))
    search, metrics = self.strategy.tell(state.search, request, found, center)
    steps = jnp.float32((len(members) + bool(centers)) * self.objective.steps)
    return EvolvedState(search), {
      'fitness': metrics['episode_return'],
      'fitness_max': metrics['episode_return_max'],
      'gradient_norm': metrics['gradient_norm'],
      programs.STEPS: steps,
    }

  def evaluate(
    self, state: EvolvedState, key: Key[Array, '']
  ) -> dict[str, Array]:
    """See `programs.Program`."""
    return self.objective.evaluate(self.params(state), key)
