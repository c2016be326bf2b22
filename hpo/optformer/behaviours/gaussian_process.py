"""A Gaussian process on histories of one static length, for batches of studies.

The kernel is Matern 5/2 with a length scale for each parameter; the mean is 0.
With r^2 = sum_d (x_d - x'_d)^2 / l_d^2,

  k(x, x') = s^2 (1 + sqrt(5) r + 5/3 r^2) exp(-sqrt(5) r)

and observations have the noise variance n^2. Hyperparameters maximise the
posterior under independent log-normal priors. Rows behind the trials so far are
independent of everything, with the value 0.

Reference: Rasmussen, Williams (2006), Gaussian Processes for Machine Learning,
Sections 2.2, 4.2.1 and 5.4.1. The priors are choices of this module.
"""

import math
from typing import Any

import flax
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float

__all__ = [
  'Data',
  'Factor',
  'Hyper',
  'factor',
  'factorised',
  'fit',
  'gradient',
  'loss',
  'matern',
  'posterior',
  'predict',
  'slope',
]

# Means and standard deviations of logarithms under the priors, in units of the
# cube (l) and of standardised gains (s, n).
_PRIORS = {'lengths': (math.log(0.5), 0.8), 'scale': (0.0, 0.5)}
_NOISE_PRIOR = (math.log(0.03), 1.5)
# The Cholesky factor in float32 needs a noise variance of at least that.
_JITTER = 1e-4


@flax.struct.dataclass
class Hyper:
  """Logarithms of the hyperparameters.

  Attributes:
    lengths: ln l_d, float32 [d].
    scale: ln s, float32.
    noise: ln n, float32.
  """

  lengths: Any
  scale: Any
  noise: Any

  @classmethod
  def prior(cls, width: int) -> 'Hyper':
    """The medians of the priors."""
    lengths = jnp.full(width, _PRIORS['lengths'][0])
    return cls(
      lengths, jnp.float32(_PRIORS['scale'][0]), jnp.float32(_NOISE_PRIOR[0])
    )


@flax.struct.dataclass
class Data:
  """Observations.

  Attributes:
    gaps: squared distances by parameter, float32 [t, t, d].
    values: standardised gains, float32 [t]; 0 where nothing is known.
    known: bool [t].
  """

  gaps: Any
  values: Any
  known: Any


@flax.struct.dataclass
class Factor:
  """The data in the form that predictions need.

  Attributes:
    inverse: of the Cholesky factor L of K, float32 [t, t].
    weights: K^-1 y, float32 [t].
    log_det: of K.
  """

  inverse: Any
  weights: Any
  log_det: Any


def _root(gaps: Float[Array, '*n d'], hyper: Hyper) -> Float[Array, '*n']:
  """sqrt(5) r."""
  return jnp.sqrt(5 * (gaps * jnp.exp(-2 * hyper.lengths)).sum(axis=-1))


def matern(gaps: Float[Array, '*n d'], hyper: Hyper) -> Float[Array, '*n']:
  """The kernel of squared distances by parameter."""
  root = _root(gaps, hyper)
  return jnp.exp(2 * hyper.scale - root) * (1 + root + root**2 / 3)


def factor(hyper: Hyper, data: Data) -> Factor:
  """Factorises the covariance of the observations."""
  both = data.known[:, None] & data.known
  noise = jnp.exp(2 * hyper.noise) + _JITTER
  diagonal = jnp.diag(jnp.where(data.known, noise, 1.0))
  covariance = jnp.where(both, matern(data.gaps, hyper), 0.0) + diagonal
  return factorised(covariance, data.values)


def factorised(
  covariance: Float[Array, 't t'], values: Float[Array, ' t']
) -> Factor:
  """The data of a process with any kernel.

  Args:
    covariance: K, the noise on its diagonal included.
    values: y.
  """
  inverse, log_det = _inverse_cholesky(covariance)
  return Factor(inverse, inverse.T @ (inverse @ values), log_det)


def slope(found: Factor) -> Float[Array, 't t']:
  """S = K^-1 - K^-1 y y^T K^-1: tr(S dK) / 2 is the change of the loss."""
  return found.inverse.T @ found.inverse - jnp.outer(
    found.weights, found.weights
  )


def _inverse_cholesky(
  matrix: Float[Array, 't t'],
) -> tuple[Float[Array, 't t'], Float[Array, '']]:
  """L^-1 and ln det of L L^T, by elimination.

  LAPACK takes as long where it may use one thread, and 50 times as long in
  batches of small matrices where it starts several on busy cores.
  """
  size = matrix.shape[0]
  rows = jnp.arange(size)

  def step(index: Array, both: Float[Array, 't u']) -> Float[Array, 't u']:
    row = both[index]
    shares = jnp.where(rows > index, both[:, index] / row[index], 0)
    return both - shares[:, None] * row

  both = jnp.concatenate([matrix, jnp.eye(size, dtype=matrix.dtype)], axis=1)
  both = jax.lax.fori_loop(0, size, step, both)
  pivots = jnp.diagonal(both)
  inverse = both[:, size:] / jnp.sqrt(pivots)[:, None]
  return inverse, jnp.log(pivots).sum()


def loss(hyper: Hyper, data: Data) -> Float[Array, '']:
  """The negative log-posterior of hyperparameters, up to a constant."""
  found = factor(hyper, data)
  return (data.values @ found.weights + found.log_det) / 2 + _penalty(hyper)


def _penalty(hyper: Hyper) -> Float[Array, '']:
  square = lambda x, prior: ((x - prior[0]) / prior[1]) ** 2
  total = square(hyper.lengths, _PRIORS['lengths']).sum()
  total += square(hyper.scale, _PRIORS['scale'])
  return (total + square(hyper.noise, _NOISE_PRIOR)) / 2


def gradient(hyper: Hyper, data: Data) -> Hyper:
  """The gradient of `loss`, in closed form.

  With S = K^-1 - K^-1 y y^T K^-1, that of the likelihood is tr(S dK) / 2.
  Automatic differentiation takes 40 times as long in batches on CPUs.
  """
  found = factor(hyper, data)
  change = slope(found)
  signal = jnp.where(data.known[:, None] & data.known, change, 0.0)
  kernel = matern(data.gaps, hyper)
  root = _root(data.gaps, hyper)
  # dk / d ln l_d = 5/3 s^2 (1 + sqrt(5) r) exp(-sqrt(5) r) gap_d / l_d^2.
  steep = signal * jnp.exp(2 * hyper.scale - root) * (1 + root)
  width = data.gaps.shape[-1]
  lengths = steep.reshape(-1) @ data.gaps.reshape(-1, width)
  noise = jnp.where(data.known, jnp.diagonal(change), 0).sum()
  likelihood = Hyper(
    lengths * jnp.exp(-2 * hyper.lengths) * 5 / 6,
    (signal * kernel).sum(),
    noise * jnp.exp(2 * hyper.noise),
  )
  prior = jax.grad(_penalty)(hyper)
  return jax.tree.map(jnp.add, likelihood, prior)


def predict(
  found: Factor,
  hyper: Hyper,
  gaps: Float[Array, 'n t d'],
  known: Bool[Array, ' t'],
) -> tuple[Float[Array, ' n'], Float[Array, ' n']]:
  """Mean and standard deviation at n points, without noise.

  Args:
    found: of `factor`.
    hyper: the same.
    gaps: squared distances of the points from the observations.
    known: see `Data`.
  """
  cross = jnp.where(known, matern(gaps, hyper), 0.0)
  return posterior(found, cross, jnp.exp(2 * hyper.scale))


def posterior(
  found: Factor, cross: Float[Array, 'n t'], variance: Float[Array, '']
) -> tuple[Float[Array, ' n'], Float[Array, ' n']]:
  """Mean and standard deviation at n points, with any kernel.

  Args:
    found: of `factorised`.
    cross: covariances of the points with the observations.
    variance: of the prior.
  """
  explained = ((cross @ found.inverse.T) ** 2).sum(axis=1)
  left = jnp.maximum(variance - explained, 1e-10)
  return cross @ found.weights, jnp.sqrt(left)


def fit(data: Data, *, steps: int, rate: float) -> Hyper:
  """Hyperparameters of the largest posterior, by Adam from the prior's medians.

  Args:
    data: observations.
    steps: of Adam.
    rate: of Adam, in logarithms of hyperparameters.
  """
  optimizer = optax.adam(rate)
  hyper = Hyper.prior(data.gaps.shape[-1])

  def step(carry: tuple, _: None) -> tuple[tuple, None]:
    hyper, state = carry
    updates, state = optimizer.update(gradient(hyper, data), state)
    return (optax.apply_updates(hyper, updates), state), None

  start = (hyper, optimizer.init(hyper))
  (hyper, _), _ = jax.lax.scan(step, start, length=steps)
  return hyper
