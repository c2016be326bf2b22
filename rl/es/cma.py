"""CMA-ES for few parameters, by the library cmaes.

Reference: arXiv:1604.00772 (Hansen's tutorial).
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Key

from rl import normalizer as normalizer_lib
from rl import ranges
from rl.es import evaluator as evaluator_lib
from runtime import optional

__all__ = ['CMAES']

_MOST = 200


class CMAES:
  """Maximises returns by adapting a full covariance matrix.

  Its matrix has d^2 numbers and costs O(d^3) a generation: for more than a few
  hundred parameters use `strategy.Strategy`.

  A pickle of it, between any two calls, is a checkpoint: what is loaded does what
  the original would have done, bit by bit. So is `get_state`, as JSON.

  Args:
    theta: first mean, [d].
    sigma: first step size.
    population_size: p; None: 4 + floor(3 ln d).
    seed: of all draws.

  Raises:
    ImportError: if cmaes is not installed, naming the extra.
    ValueError: if d is not in 2..200, or a number is not positive.
  """

  def __init__(
    self,
    theta: Float[Array | np.ndarray, ' d'],
    *,
    sigma: float,
    population_size: int | None = None,
    seed: int,
  ) -> None:
    size = theta.shape[0]
    if not 2 <= size <= _MOST:
      raise ValueError(
        f'CMA-ES is for 2 to {_MOST} parameters, got {size}; '
        'use strategy.Strategy (training.ESTrainer)'
      )
    ranges.check_positive(sigma=sigma)
    ranges.check_counts(least=2, population_size=population_size)
    self._optimizer: Any = optional.load('cmaes', extra='rl').CMA(
      mean=np.asarray(theta, np.float64),
      sigma=sigma,
      population_size=population_size,
      seed=seed,
    )
    self._seed = seed
    self._asked: np.ndarray | None = None

  @property
  def mean(self) -> Float[np.ndarray, ' d']:
    """The centre of the population, float32."""
    return np.asarray(self._optimizer.mean, np.float32)

  @property
  def population_size(self) -> int:
    """Thetas per generation, p."""
    return self._optimizer.population_size

  def ask(self) -> Float[np.ndarray, 'p d']:
    """Draws a generation; the same one again until `tell`."""
    if self._asked is None:
      # The library's pickles leave its generator out.
      generation = (self._seed, self._optimizer.generation)
      (seed,) = np.random.SeedSequence(generation).generate_state(1)
      self._optimizer.reseed_rng(int(seed))
      draws = [self._optimizer.ask() for _ in range(self.population_size)]
      self._asked = np.stack(draws)
      self._forget_rounding()
    return self._asked.astype(np.float32)

  def tell(
    self,
    returns: Float[Array | np.ndarray, ' p'],
    valid: Bool[Array | np.ndarray, ' p'] | None = None,
  ) -> None:
    """Learns from a generation.

    Args:
      returns: of what `ask` gave.
      valid: which came back; None: all. Ranks are all that counts, and lost
        thetas take the last ones.

    Raises:
      RuntimeError: if there is nothing to tell about, or nothing came back.
      ValueError: if a valid return is not finite.
    """
    if self._asked is None:
      raise RuntimeError('tell must come after ask')
    returns = np.asarray(returns, np.float64)
    valid = np.ones(len(returns), bool) if valid is None else np.asarray(valid)
    if not valid.any():
      raise RuntimeError('no theta of the generation came back')
    if not np.isfinite(returns[valid]).all():
      raise ValueError(f'returns must be finite, got {returns[valid]}')
    losses = np.where(valid, -returns, -returns[valid].min() + 1.0)
    self._optimizer.tell(list(zip(self._asked, losses, strict=True)))
    self._asked = None
    self._forget_rounding()

  def _forget_rounding(self) -> None:
    """Keeps a triangle of the covariance only, as the library's pickles do.

    The other differs in its last digits, which a restored search would lack.
    """
    self._optimizer.__setstate__(self._optimizer.__getstate__())

  def get_state(self) -> dict[str, Any]:
    """All that changes, fit for JSON.

    Raises:
      RuntimeError: between `ask` and `tell`.
    """
    if self._asked is not None:
      raise RuntimeError('get_state must not come between ask and tell')
    values = self._optimizer.__getstate__()
    return {
      name: value.tolist() if isinstance(value, np.ndarray) else value
      for name, value in values.items()
    }

  def set_state(self, state: Mapping[str, Any]) -> None:
    """Goes on from what `get_state` returned.

    Args:
      state: of a search for as many parameters, with the same settings.
    """
    self._optimizer.__setstate__(
      {
        name: np.asarray(value) if isinstance(value, list) else value
        for name, value in state.items()
      }
    )
    self._asked = None

  def step(
    self,
    evaluator: evaluator_lib.Evaluator,
    key: Key[Array, ''],
    normalizer: normalizer_lib.Statistics | None = None,
  ) -> evaluator_lib.Evaluation:
    """One generation.

    All thetas meet the same environments (common random numbers).

    Args:
      evaluator: runs the rollouts.
      key: of the environments of this generation.
      normalizer: of observations.

    Returns:
      What came back.
    """
    thetas = jnp.asarray(self.ask())
    keys = jnp.broadcast_to(key, (len(thetas),))
    evaluation = jax.device_get(evaluator.evaluate(thetas, keys, normalizer))
    self.tell(evaluation.returns, evaluation.valid)
    return evaluation
