"""Why pairs share an architecture, and why mutation fails in high dimensions.

Pairs. For f(m, theta) = c_m + a . theta with Var c_m = v, the antithetic estimate
of n pairs has, in coordinate j, the variance

  (|a|^2 + a_j^2) / n                            architectures shared by a pair
  (|a|^2 + a_j^2) / n + v / (2 sigma^2 n)        drawn for each member

Dimension. For f(x) = -|x|^2 / 2 with slope g = grad f and B evaluations, the
expected improvement is at most

  |g|^2 / 2 / (1 + (d + 1) / n)    of an ES step of n = B / 2 pairs; its best step
                                   size reaches this
  |g|^2 ln(B) / d                  of the best of B Gaussian mutations, whatever
                                   their size

ES gains in proportion to B until B is about 2 d, mutation with its logarithm.

The simulations run the estimator of `rl.es` and are checked against these forms.
Reference: arXiv:2101.07415 claims the second; its theorem was not available, and
all forms are derived here.
"""

import functools
import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from rl import ranges
from rl.es import directions, estimators, shaping

__all__ = [
  'es_improvement',
  'es_step_size',
  'mutation_bound',
  'pairing_variance',
  'simulate_es',
  'simulate_mutation',
  'simulate_pairing',
]

_ESTIMATOR = estimators.Antithetic(shaping.unshaped)
_ROWS = directions.Directions()


def pairing_variance(
  slope: Float[Array, ' d'],
  v: float,
  *,
  sigma: float,
  pairs: int,
  paired: bool,
) -> Float[Array, ' d']:
  """Variance of each coordinate of an estimate; see the module.

  Args:
    slope: a.
    v: variance of c_m.
    sigma: scale of the perturbations.
    pairs: n.
    paired: whether a pair shares its architecture.
  """
  ranges.check_counts(pairs=pairs)
  ranges.check_positive(sigma=sigma)
  ranges.check_not_negative(v=v)
  linear = (jnp.sum(slope**2) + slope**2) / pairs
  return linear if paired else linear + v / (2 * sigma**2 * pairs)


@functools.partial(
  jax.jit, static_argnames=('v', 'sigma', 'pairs', 'paired', 'trials')
)
def simulate_pairing(
  key: Key[Array, ''],
  slope: Float[Array, ' d'],
  v: float,
  *,
  sigma: float,
  pairs: int,
  paired: bool,
  trials: int,
) -> Float[Array, 'trials d']:
  """Independent estimates of the slope a.

  Args:
    key: of all draws.
    slope: a.
    v: variance of c_m, which is normal.
    sigma: scale of the perturbations.
    pairs: n.
    paired: whether a pair shares its architecture.
    trials: number of estimates.
  """

  def trial(key: Key[Array, '']) -> Float[Array, ' d']:
    first, second = jax.random.split(key)
    size = slope.shape[0]
    rows = directions.rows(_ROWS, first, 0, count=pairs, size=size)
    drawn = jax.random.normal(second, (1 if paired else 2, pairs))
    along = sigma * rows @ slope
    returns = jnp.sqrt(v) * drawn + jnp.stack([along, -along])
    return _estimate(returns, rows, sigma)

  return jax.lax.map(trial, jax.random.split(key, trials), batch_size=64)


def _estimate(
  returns: Float[Array, 'sides n'], rows: Float[Array, 'n d'], sigma: float
) -> Float[Array, ' d']:
  flat = returns.reshape(-1)
  valid = jnp.ones(flat.shape, bool)
  return _ESTIMATOR.weights(flat, valid, sigma=sigma) @ rows


def es_step_size(dimension: int, evaluations: int) -> float:
  """The step size of the largest expected improvement; see `es_improvement`."""
  return 1 / (1 + (dimension + 1) / _pairs(evaluations))


def es_improvement(dimension: int, evaluations: int) -> float:
  """Expected improvement of an ES step of the best size, for |grad f| = 1.

  Args:
    dimension: d.
    evaluations: B, even.

  Raises:
    ValueError: a number is not positive, or B is odd.
  """
  ranges.check_counts(dimension=dimension)
  return 0.5 * es_step_size(dimension, evaluations)


def mutation_bound(dimension: int, evaluations: int) -> float:
  """Bound of the expected improvement of the best of B mutations; |grad f| = 1.

  Args:
    dimension: d.
    evaluations: B.

  Raises:
    ValueError: a number is not positive.
  """
  ranges.check_counts(dimension=dimension, evaluations=evaluations)
  return math.log(evaluations) / dimension


def _pairs(evaluations: int) -> int:
  ranges.check_counts(evaluations=evaluations)
  if evaluations % 2:
    raise ValueError(f'evaluations must be even, got {evaluations=}')
  return evaluations // 2


def _quadratic(x: Float[Array, '*n d']) -> Float[Array, '*n']:
  return -jnp.sum(x**2, axis=-1) / 2


def _start(dimension: int) -> Float[Array, ' d']:
  """A point with |grad f| = 1."""
  return jnp.full(dimension, dimension**-0.5)


@functools.partial(
  jax.jit, static_argnames=('dimension', 'evaluations', 'trials')
)
def simulate_es(
  key: Key[Array, ''], *, dimension: int, evaluations: int, trials: int
) -> Float[Array, ' trials']:
  """Improvements of -|x|^2 / 2 by one ES step of the best expected size.

  Args:
    key: of all draws.
    dimension: d.
    evaluations: B, even.
    trials: number of steps, all from |grad f| = 1.
  """
  pairs, sigma = _pairs(evaluations), 0.1
  size, x = es_step_size(dimension, evaluations), _start(dimension)

  def trial(key: Key[Array, '']) -> Float[Array, '']:
    rows = directions.rows(_ROWS, key, 0, count=pairs, size=dimension)
    points = jnp.stack([x + sigma * rows, x - sigma * rows])
    moved = x + size * _estimate(_quadratic(points), rows, sigma)
    return _quadratic(moved) - _quadratic(x)

  return jax.lax.map(trial, jax.random.split(key, trials), batch_size=16)


@functools.partial(
  jax.jit, static_argnames=('dimension', 'evaluations', 'trials')
)
def simulate_mutation(
  key: Key[Array, ''],
  sizes: Float[Array, ' s'],
  *,
  dimension: int,
  evaluations: int,
  trials: int,
) -> Float[Array, 'trials s']:
  """Improvements of -|x|^2 / 2 by the best of B mutations, or 0 if none improves.

  Args:
    key: of all draws.
    sizes: standard deviations of the mutations; all see the same draws.
    dimension: d.
    evaluations: B.
    trials: number of generations, all from |grad f| = 1.
  """
  x = _start(dimension)

  def trial(key: Key[Array, '']) -> Float[Array, ' s']:
    drawn = jax.random.normal(key, (evaluations, dimension))
    along, squares = drawn @ x, jnp.sum(drawn**2, axis=1)
    # f(x + s g) - f(x), without rounding what both values share.
    gains = -sizes[:, None] * along - sizes[:, None] ** 2 * squares / 2
    return jnp.maximum(jnp.max(gains, axis=1), 0)

  return jax.lax.map(trial, jax.random.split(key, trials), batch_size=16)
