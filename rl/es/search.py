"""The interface of a search: it asks for returns, and is told them.

  state = search.init(theta, key, evaluator.observation_shape)
  while ...:
    request = search.ask(state)
    evaluation, center = search_lib.run(request, state.normalizer, evaluator)
    state, metrics = search.tell(state, request, evaluation, center)

The state is all that changes: `ask` and `tell` are functions of their arguments.
Returns may come from anywhere; `evaluator.Evaluation.of` takes plain numbers.
"""

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import flax
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from rl import normalizer as normalizer_lib
from rl.es import evaluator as evaluator_lib

__all__ = [
  'HostSearch',
  'Request',
  'Search',
  'State',
  'StateLike',
  'counted',
  'finite',
  'keys_of',
  'mean',
  'nothing_seen',
  'run',
  'summary',
]


@runtime_checkable
class StateLike(Protocol):
  """The attributes that trainers read of any search's state; see `State`."""

  theta: Any
  normalizer: Any
  key: Any
  generation: Any


@flax.struct.dataclass
class State:
  """All state of a search, as a checkpoint holds it.

  Attributes:
    theta: parameters, float32 [d]: the centre of the next population.
    opt_state: of the optimiser, or of the covariance matrix.
    normalizer: statistics of all observations so far; None if not normalised.
    estimates: the last ones that were not zero, the newest last, [guides, k];
      None without guides.
    key: never changes; generations fold their number into it.
    generation: number of generations so far, int32.
  """

  # Not annotated by shape: transformations put other things into the leaves.
  theta: Any
  opt_state: Any
  normalizer: Any
  estimates: Any
  key: Any
  generation: Any


@flax.struct.dataclass
class Request:
  """A request for evaluations.

  To search for more than theta, replace `population` and `center` by
  populations that wrap them, and hand the same request to `tell`.

  Attributes:
    population: a `population.Population`.
    keys: of its environments, one per row; new in each generation.
    center: theta, as a `population.Population`.
    center_keys: of evaluations of it; may be none.
  """

  population: Any
  keys: Any
  center: Any
  center_keys: Any


@runtime_checkable
class Search(Protocol):
  """Maximises returns; hashable settings.

  Attributes:
    pure: whether `ask` and `tell` may be traced.
  """

  pure: bool

  def init(
    self,
    theta: Float[Array, ' d'],
    key: Key[Array, ''],
    observation_shape: tuple[int, ...] | None = None,
  ) -> StateLike:
    """The state before the first generation.

    Args:
      theta: first parameters.
      key: of the whole run.
      observation_shape: `Evaluator.observation_shape`; needed to normalise.

    Raises:
      ValueError: if observations are to be normalised and their shape is
        missing.
    """
    ...

  def ask(self, state: StateLike) -> Request:
    """The request of this generation: seeds, or few numbers."""
    ...

  def tell(
    self,
    state: StateLike,
    request: Request,
    evaluation: evaluator_lib.Evaluation,
    center: evaluator_lib.Evaluation | None = None,
  ) -> tuple[StateLike, dict[str, Array]]:
    """Updates the state with the evaluations.

    Args:
      state: the state that `ask` was given.
      request: the request that `ask` returned.
      evaluation: of `request.population`; returns that are not finite count
        as lost.
      center: of `request.center`; None if there are no center keys.

    Returns:
      The new state and metrics, scalars by name.
    """
    ...

  def step(
    self, state: StateLike, evaluator: evaluator_lib.Evaluator
  ) -> tuple[StateLike, dict[str, Array]]:
    """One generation: asks, evaluates and tells."""
    ...


@runtime_checkable
class HostSearch(Search, Protocol):
  """A search that is not pure: part of its state is numbers of the host.

  The training loop holds the state without them, and saves them beside it.
  """

  def parted(self, state: StateLike) -> tuple[StateLike, dict[str, Any]]:
    """Takes the numbers out of a state.

    Returns:
      A state of JAX arrays alone, and the numbers, NumPy arrays or fit for
      JSON, by name.
    """
    ...

  def joined(self, state: StateLike, numbers: Mapping[str, Any]) -> StateLike:
    """Puts the numbers into a state; the inverse of `parted`."""
    ...


def keys_of(key: Key[Array, ''], count: int) -> Key[Array, ' n']:
  """Keys of which the i-th depends on i, not on the count."""
  return jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.arange(count))


def run(
  request: Request,
  normalizer: normalizer_lib.Statistics | None,
  evaluator: evaluator_lib.Evaluator,
) -> tuple[evaluator_lib.Evaluation, evaluator_lib.Evaluation | None]:
  """Evaluates a request of `ask`.

  Args:
    request: of `ask`.
    normalizer: of its state.
    evaluator: runs the rollouts.

  Returns:
    Evaluations of the population, and of theta; None without center keys.
  """
  found = evaluator.evaluate(request.population, request.keys, normalizer)
  if not request.center_keys.shape[0]:
    return found, None
  return found, evaluator.evaluate(
    request.center, request.center_keys, normalizer
  )


def finite(
  evaluation: evaluator_lib.Evaluation | None,
) -> evaluator_lib.Evaluation | None:
  """Marks returns that are not finite as lost."""
  if evaluation is None:
    return None
  valid = evaluation.valid & jnp.isfinite(evaluation.returns)
  return evaluation.replace(valid=valid)


def mean(evaluation: evaluator_lib.Evaluation) -> Array:
  """Over the valid members; NaN if there are none."""
  valid = evaluation.valid
  total = jnp.sum(jnp.where(valid, evaluation.returns, 0))
  return total / jnp.sum(valid)


def nothing_seen(
  normalize: bool, shape: tuple[int, ...] | None
) -> normalizer_lib.Statistics | None:
  """The first statistics of observations; None if they are not normalised.

  Raises:
    ValueError: if the shape is missing.
  """
  if not normalize:
    return None
  if shape is None:
    raise ValueError('normalize=True needs observation_shape, got None')
  return normalizer_lib.empty(shape)


def counted(
  normalizer: normalizer_lib.Statistics | None,
  *evaluations: evaluator_lib.Evaluation | None,
) -> normalizer_lib.Statistics | None:
  """Statistics with those of a generation; None if nothing is normalised."""
  for part in evaluations:
    if normalizer is not None and part is not None:
      normalizer = normalizer_lib.merge(normalizer, part.statistics)
  return normalizer


def summary(
  evaluation: evaluator_lib.Evaluation,
  center: evaluator_lib.Evaluation | None = None,
) -> dict[str, Array]:
  """Metrics of a generation, over the valid returns: NaN where all were lost.

  Args:
    evaluation: of the population.
    center: of theta; None if it was not evaluated.

  Returns:
    Scalars by name.
  """
  returns = jnp.where(evaluation.valid, evaluation.returns, jnp.nan)
  steps = jnp.sum(evaluation.lengths)
  metrics = {
    'episode_return': mean(evaluation),
    'episode_return_median': jnp.nanmedian(returns),
    'episode_return_max': jnp.nanmax(returns),
    'episode_return_min': jnp.nanmin(returns),
    'valid_fraction': jnp.mean(evaluation.valid),
  }
  if center is not None:
    metrics['episode_return_center'] = mean(center)
    steps += jnp.sum(center.lengths)
  return metrics | {'environment_steps': steps}
