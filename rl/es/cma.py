"""CMA-ES for few parameters, by the library cmaes.

Reference: arXiv:1604.00772 (Hansen's tutorial).
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from rl import ranges
from rl.es import evaluator as evaluator_lib
from rl.es import population as population_lib
from rl.es import search as search_lib
from runtime import optional

__all__ = ['CMAES']

_MOST = 200


@dataclasses.dataclass(frozen=True)
class CMAES:
  """Maximises returns by adapting a full covariance matrix.

  It is a `search.HostSearch`.

  The matrix has d^2 numbers and costs O(d^3) a generation: for more than a few
  hundred parameters use `strategy.Strategy`. All members of a generation meet
  the same environment (common random numbers), and only their ranks count.

  The state's `opt_state` holds the library's numbers, in NumPy and JSON's types:
  a checkpoint of the state continues bit for bit.

  Attributes:
    sigma: first step size.
    population_size: p, members of a generation; None: 4 + floor(3 ln d).
    normalize: whether observations are normalised by running statistics.
    seed: of the members; None: of the state's key, which environments use too.

  Raises:
    ValueError: if a number is out of range.
  """

  sigma: float
  population_size: int | None = None
  normalize: bool = False
  seed: int | None = None
  pure = False

  def __post_init__(self) -> None:
    ranges.check_positive(sigma=self.sigma)
    ranges.check_counts(least=2, population_size=self.population_size)

  def init(
    self,
    theta: Float[Array | np.ndarray, ' d'],
    key: Key[Array, ''],
    observation_shape: tuple[int, ...] | None = None,
  ) -> search_lib.State:
    """See `search.Search`; theta is the first mean.

    Raises:
      ImportError: if cmaes is not installed, naming the extra.
      ValueError: if d is not in 2..200, or observations are to be normalised
        and their shape is missing.
    """
    size = theta.shape[0]
    if not 2 <= size <= _MOST:
      raise ValueError(
        f'CMA-ES is for 2 to {_MOST} parameters, got {size}; '
        'use strategy.Strategy (training.ESTrainer)'
      )
    optimizer = optional.load('cmaes', extra='rl').CMA(
      mean=np.asarray(theta, np.float64),
      sigma=self.sigma,
      population_size=self.population_size,
    )
    return search_lib.State(
      theta=jnp.asarray(theta, jnp.float32),
      opt_state=optimizer.__getstate__(),
      normalizer=search_lib.nothing_seen(self.normalize, observation_shape),
      estimates=None,
      key=key,
      generation=jnp.zeros((), jnp.int32),
    )

  def ask(self, state: search_lib.State) -> search_lib.Request:
    """See `search.Search`; draws the members."""
    thetas, _ = self._drawn(state)
    key = jax.random.fold_in(state.key, state.generation)
    return search_lib.Request(
      population_lib.Listed(jnp.asarray(thetas, jnp.float32)),
      jnp.broadcast_to(key, (len(thetas),)),
      population_lib.Repeated(state.theta),
      search_lib.keys_of(key, 0),
    )

  def _drawn(
    self, state: search_lib.State
  ) -> tuple[Float[np.ndarray, 'p d'], Any]:
    """Members in float64, and the library's optimiser after drawing them."""
    seed = self.seed
    if seed is None:
      high, low = np.asarray(jax.random.key_data(state.key), object)[-2:]
      seed = int(high) << 32 | int(low)
    optimizer = _restored(state.opt_state)
    # The library's states leave its generator out.
    sequence = np.random.SeedSequence((seed, optimizer.generation))
    optimizer.reseed_rng(int(sequence.generate_state(1)[0]))
    draws = [optimizer.ask() for _ in range(optimizer.population_size)]
    # Its states keep a triangle of the covariance. The other one has other last
    # digits, which must not count: a restored search would lack them.
    return np.stack(draws), _restored(optimizer.__getstate__())

  def tell(
    self,
    state: search_lib.State,
    request: search_lib.Request,
    evaluation: evaluator_lib.Evaluation,
    center: evaluator_lib.Evaluation | None = None,
  ) -> tuple[search_lib.State, dict[str, Array]]:
    """See `search.Search`; lost members take the last ranks.

    Where all are lost, only the generation moves on.
    """
    del request
    evaluation, center = map(search_lib.finite, (evaluation, center))
    metrics = search_lib.summary(evaluation, center)
    generation = state.generation + 1
    returns, valid = map(np.asarray, (evaluation.returns, evaluation.valid))
    if not valid.any():
      metrics['update_norm'] = jnp.zeros(())
      return state.replace(generation=generation), metrics
    thetas, optimizer = self._drawn(state)
    returns = returns.astype(np.float64)
    losses = np.where(valid, -returns, -returns[valid].min() + 1.0)
    optimizer.tell(list(zip(thetas, losses, strict=True)))
    theta = jnp.asarray(optimizer.mean, jnp.float32)
    metrics['update_norm'] = jnp.linalg.norm(theta - state.theta)
    return state.replace(
      theta=theta,
      opt_state=optimizer.__getstate__(),
      normalizer=search_lib.counted(state.normalizer, evaluation, center),
      generation=generation,
    ), metrics

  def step(
    self, state: search_lib.State, evaluator: evaluator_lib.Evaluator
  ) -> tuple[search_lib.State, dict[str, Array]]:
    """See `search.Search`."""
    request = self.ask(state)
    found = search_lib.run(request, state.normalizer, evaluator)
    return self.tell(state, request, *found)

  def parted(
    self, state: search_lib.State
  ) -> tuple[search_lib.State, dict[str, Any]]:
    """See `search.HostSearch`."""
    return state.replace(opt_state=()), state.opt_state

  def joined(
    self, state: search_lib.State, numbers: Mapping[str, Any]
  ) -> search_lib.State:
    """See `search.HostSearch`."""
    return state.replace(opt_state=numbers)


def _restored(numbers: Mapping[str, Any]) -> Any:
  """The library's optimiser, which changes copies of these numbers."""
  optimizer = optional.load('cmaes', extra='rl').CMA(np.zeros(1), 1.0)
  optimizer.__setstate__(
    {
      name: np.array(value) if np.ndim(value) else value
      for name, value in numbers.items()
    }
  )
  return optimizer
