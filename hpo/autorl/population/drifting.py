"""A Gaussian process for functions that change over time.

With squared distances r^2 of the inputs and times t in rounds,

  k((x, t), (x', t')) = s^2 exp(-r^2 / (2 l^2)) (1 - e)^(|t - t'| / 2)

so that old observations are forgotten at the rate e, 0 to 1/2. Hyperparameters
maximise the posterior under independent priors. Where the function changed more than
e allows for, `window` leaves old observations out.

Reference: Bogunovic, Scarlett, Cevher (2016), arXiv:1601.06650, Section 2 (kernel);
Parker-Holder, Nguyen, Roberts (2020), arXiv:2002.02518. The released code divides
by l in the place of l^2; here l is a length. The priors are choices of this module.
"""

import math
from typing import Any

import flax
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float

from hpo.optformer.behaviours import gaussian_process as gp

__all__ = [
  'Fit',
  'Hyper',
  'Inputs',
  'covariance',
  'factor',
  'fit',
  'kernel',
  'loss',
  'start',
  'window',
]

# Means and deviations of ln l, ln s, ln n, and of the logit of 2 e.
_PRIOR = ((math.log(0.5), 0.8), (0.0, 0.5), (math.log(0.3), 1.0), (-1.5, 1.0))
_JITTER = 1e-4  # The factor in float32 needs a noise variance of at least that.
_OPTIMIZER = optax.adam(0.1)


@flax.struct.dataclass
class Hyper:
  """Hyperparameters, without bounds.

  Attributes:
    length: ln l.
    scale: ln s.
    noise: ln n, the deviation of the noise.
    drift: logit of 2 e.
  """

  length: Any
  scale: Any
  noise: Any
  drift: Any

  @classmethod
  def prior(cls) -> 'Hyper':
    """The medians of the priors."""
    return cls(*(jnp.float32(mean) for mean, _ in _PRIOR))

  @property
  def forgetting(self) -> Array:
    """The rate e."""
    return jax.nn.sigmoid(self.drift) / 2


@flax.struct.dataclass
class Fit:
  """Where the fit of the hyperparameters stands.

  Attributes:
    hyper: the hyperparameters.
    optimizer: state of Adam.
  """

  hyper: Any
  optimizer: Any


@flax.struct.dataclass
class Inputs:
  """Where and when n values are.

  Attributes:
    places: float32 [n, d], about the unit cube.
    times: float32 [n], rounds.
  """

  places: Any
  times: Any


def kernel(hyper: Hyper, first: Inputs, second: Inputs) -> Float[Array, 'n m']:
  """Covariances of two sets of values, without noise."""
  gaps = ((first.places[:, None] - second.places) ** 2).sum(axis=-1)
  away = jnp.abs(first.times[:, None] - second.times)
  space = jnp.exp(2 * hyper.scale - gaps * jnp.exp(-2 * hyper.length) / 2)
  return space * (1 - hyper.forgetting) ** (away / 2)


def covariance(
  hyper: Hyper, inputs: Inputs, known: Bool[Array, ' n']
) -> Float[Array, 'n n']:
  """Of noisy observations; unknown rows are apart from all others."""
  both = known[:, None] & known
  noise = jnp.where(known, jnp.exp(2 * hyper.noise) + _JITTER, 1.0)
  return jnp.where(both, kernel(hyper, inputs, inputs), 0) + jnp.diag(noise)


def factor(
  hyper: Hyper,
  inputs: Inputs,
  values: Float[Array, ' n'],
  known: Bool[Array, ' n'],
) -> gp.Factor:
  """The observations in the form that forecasts need; values 0 if unknown."""
  return gp.factorised(covariance(hyper, inputs, known), values)


def window(
  hyper: Hyper,
  inputs: Inputs,
  values: Float[Array, ' n'],
  known: Bool[Array, ' n'],
  least: int,
) -> Bool[Array, ' n']:
  """The newest observations that the process explains best.

  Of all numbers w from `least` on, the one with the largest log-likelihood of the
  w newest observations, divided by w: an old one stays if it is about as likely,
  given the newer ones, as these are. One factor gives all of them, as that of w
  observations is a part of that of w + 1.

  Args:
    hyper: hyperparameters.
    inputs: of the observations.
    values: about standardised, all alike; 0 if unknown.
    known: which rows are observations.
    least: observations that stay in any case.

  Returns:
    Which rows stay; all that are known, if there are not more than `least`.
  """
  order = jnp.argsort(jnp.where(known, -inputs.times, jnp.inf), stable=True)
  newest_first = lambda x: x[order]
  inputs = jax.tree.map(newest_first, inputs)
  values, present = values[order], known[order]
  inverse = factor(hyper, inputs, values, present).inverse
  # Of each observation, given the newer ones; without its constant term.
  each = jnp.log(jnp.diagonal(inverse)) - (inverse @ values) ** 2 / 2
  number = jnp.arange(1, len(values) + 1)
  mean = jnp.cumsum(jnp.where(present, each, 0)) / number
  count = jnp.argmax(jnp.where(present & (number >= least), mean, -jnp.inf)) + 1
  count = jnp.where(known.sum() > least, count, len(values))
  return known & (jnp.argsort(order) < count)


def _penalty(hyper: Hyper) -> Float[Array, '']:
  leaves = (hyper.length, hyper.scale, hyper.noise, hyper.drift)
  return sum(
    ((x - mean) / deviation) ** 2 / 2
    for x, (mean, deviation) in zip(leaves, _PRIOR, strict=True)
  )


def loss(
  hyper: Hyper,
  inputs: Inputs,
  values: Float[Array, ' n'],
  known: Bool[Array, ' n'],
) -> Float[Array, '']:
  """The negative log-posterior of hyperparameters, up to a constant."""
  found = factor(hyper, inputs, values, known)
  return (values @ found.weights + found.log_det) / 2 + _penalty(hyper)


def _gradient(
  hyper: Hyper, inputs: Inputs, values: Array, known: Array
) -> Hyper:
  """Of `loss`, without a derivative through the factor."""
  slope = gp.slope(factor(hyper, inputs, values, known))
  slope = jax.lax.stop_gradient(slope)
  line = lambda h: (slope * covariance(h, inputs, known)).sum() / 2
  return jax.grad(lambda h: line(h) + _penalty(h))(hyper)


def start() -> Fit:
  """Before the first step: the medians of the priors."""
  hyper = Hyper.prior()
  return Fit(hyper, _OPTIMIZER.init(hyper))


def fit(
  found: Fit,
  inputs: Inputs,
  values: Float[Array, ' n'],
  known: Bool[Array, ' n'],
  *,
  steps: int,
) -> Fit:
  """Climbs the posterior of the hyperparameters by some steps of Adam.

  Args:
    found: where the last fit ended.
    inputs: of the observations.
    values: about standardised; 0 if unknown.
    known: which rows are observations.
    steps: of Adam.
  """

  def step(found: Fit, _: None) -> tuple[Fit, None]:
    slope = _gradient(found.hyper, inputs, values, known)
    updates, state = _OPTIMIZER.update(slope, found.optimizer)
    return Fit(optax.apply_updates(found.hyper, updates), state), None

  return jax.lax.scan(step, found, length=steps)[0]
