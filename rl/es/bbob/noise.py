"""BBOB's noise on function values, and additive noise: Vizier's ten types.

Letters: v the value without noise, D the dimension, U uniform in [0, 1).

  name                  noisy value
  no noise              v
  Gaussian              v exp(b N), N ~ N(0, 1)
  uniform               v U^b max(1, (10^9 / v)^(a U')), a = b (0.49 + 1 / D)
  seldom Cauchy         v + b max(0, 1000 + [U < p] Cauchy)
  additive Gaussian     v + b N

Values below 10^-8 stay as they are, except under additive noise; all other
results of the first four are raised by 1.01 10^-8.

Reference: Finck, Hansen, Ros, Auger (2009), Real-Parameter Black-Box Optimization
Benchmarking 2009: Noisy Functions Definitions; the strengths are google-vizier's.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

__all__ = ['NOISES', 'Noise']

_TARGET = 1e-8


@dataclasses.dataclass(frozen=True)
class Noise:
  """A type of noise; a pure function of (key, value, dimension).

  Attributes:
    name: Vizier's name.
    kind: 'none', 'gaussian', 'uniform', 'cauchy' or 'additive'.
    strength: b.
    frequency: p of 'cauchy'.
  """

  name: str
  kind: str
  strength: float = 0.0
  frequency: float = 0.0

  def __call__(
    self, key: Key[Array, ''], value: Float[Array, ''], dimension: int
  ) -> Float[Array, '']:
    """The noisy value.

    Args:
      key: of this evaluation.
      value: of a function to be minimised; of any shape, one draw each.
      dimension: D, of the function.
    """
    value = jnp.asarray(value)
    if self.kind == 'additive':
      drawn = jax.random.normal(key, value.shape, value.dtype)
      return value + self.strength * drawn
    if self.kind == 'none':
      return jnp.where(value >= _TARGET, value + 1.01 * _TARGET, value)
    safe = jnp.maximum(value, _TARGET)
    noisy = self._noisy(key, safe, dimension) + 1.01 * _TARGET
    return jnp.where(value >= _TARGET, noisy, value)

  def _noisy(
    self, key: Key[Array, ''], value: Float[Array, ''], dimension: int
  ) -> Float[Array, '']:
    shape, dtype, b = value.shape, value.dtype, self.strength
    if self.kind == 'gaussian':
      return value * jnp.exp(b * jax.random.normal(key, shape, dtype))
    first, second = jax.random.split(key)
    uniform = jax.random.uniform(first, shape, dtype)
    if self.kind == 'uniform':
      a = b * (0.49 + 1 / dimension)
      exponent = a * jax.random.uniform(second, shape, dtype)
      return value * uniform**b * jnp.maximum(1, (1e9 / value) ** exponent)
    drawn = jax.random.cauchy(second, shape, dtype)
    drawn = jnp.where(uniform < self.frequency, drawn, 0)
    return value + b * jnp.maximum(0, 1000 + drawn)


# By Vizier's names.
NOISES = {
  noise.name: noise
  for noise in (
    Noise('NO_NOISE', 'none'),
    Noise('MODERATE_GAUSSIAN', 'gaussian', 0.01),
    Noise('SEVERE_GAUSSIAN', 'gaussian', 0.1),
    Noise('MODERATE_UNIFORM', 'uniform', 0.01),
    Noise('SEVERE_UNIFORM', 'uniform', 0.1),
    Noise('MODERATE_SELDOM_CAUCHY', 'cauchy', 0.01, 0.05),
    Noise('SEVERE_SELDOM_CAUCHY', 'cauchy', 0.1, 0.25),
    Noise('LIGHT_ADDITIVE_GAUSSIAN', 'additive', 0.01),
    Noise('MODERATE_ADDITIVE_GAUSSIAN', 'additive', 0.1),
    Noise('SEVERE_ADDITIVE_GAUSSIAN', 'additive', 1.0),
  )
}
