"""The formulas of BBOB's 24 functions; see `rl.es.bbob` for how to use them.

Each maps a point x [D] and a frame to a number to be minimised. The numbers f1
to f24 are the reference's. Where Vizier's formula is another one, an argument
says which of the two is meant.

Reference: Hansen, Finck, Ros, Auger (2009), Real-Parameter Black-Box Optimization
Benchmarking 2009: Noiseless Functions Definitions. For Vizier's formulas:
google-vizier 0.1.24, `benchmarks/experimenters/synthetic/bbob.py`.
"""

import math
from typing import Any

import flax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from rl.es.bbob import transforms

__all__ = [
  'Frame',
  'Peaks',
  'attractive_sector',
  'bent_cigar',
  'bueche_rastrigin',
  'different_powers',
  'discus',
  'ellipsoidal',
  'ellipsoidal_rotated',
  'gallagher',
  'griewank_rosenbrock',
  'katsuura',
  'linear_slope',
  'linear_slope_rotated',
  'lunacek',
  'rastrigin',
  'rastrigin_separable',
  'rosenbrock',
  'rosenbrock_rotated',
  'rosenbrock_scale',
  'schaffers',
  'schwefel',
  'sharp_ridge',
  'sphere',
  'step_ellipsoidal',
  'weierstrass',
]

_TAU = 2 * math.pi


@flax.struct.dataclass
class Frame:
  """Where a function lies.

  Attributes:
    optimum: x_opt [D]; f5, f20 and f24 need the one that fits, and f9, f19, f21
      and f22 do not use it.
    rotation: R [D, D], orthogonal.
    second: Q [D, D], orthogonal.
  """

  # Not annotated by shape: transformations put other things into the leaves.
  optimum: Any
  rotation: Any
  second: Any


@flax.struct.dataclass
class Peaks:
  """The peaks of Gallagher's functions, the global one first.

  Attributes:
    centers: y_k [P, D].
    curvatures: the diagonals of C_k [P, D].
  """

  centers: Any
  curvatures: Any


def sphere(x: Float[Array, ' D'], frame: Frame) -> Float[Array, '']:
  """f1: |x - x_opt|^2."""
  return jnp.sum((x - frame.optimum) ** 2)


def ellipsoidal(x: Float[Array, ' D'], frame: Frame) -> Float[Array, '']:
  """f2: an ellipsoid of condition 10^6 along the axes, with bumps."""
  return _ellipsoid(x - frame.optimum)


def ellipsoidal_rotated(
  x: Float[Array, ' D'], frame: Frame
) -> Float[Array, '']:
  """f10: `ellipsoidal`, rotated."""
  return _ellipsoid(frame.rotation @ (x - frame.optimum))


def _ellipsoid(z: Float[Array, ' D']) -> Float[Array, '']:
  return transforms.ranged(z, 1e6) @ transforms.oscillating(z) ** 2


def rastrigin_separable(
  x: Float[Array, ' D'], frame: Frame
) -> Float[Array, '']:
  """f3: about 10^D regular optima along the axes."""
  z = transforms.oscillating(x - frame.optimum)
  return _waves(transforms.conditioning(transforms.asymmetric(z, 0.2), 10.0))


def rastrigin(x: Float[Array, ' D'], frame: Frame) -> Float[Array, '']:
  """f15: `rastrigin_separable`, rotated; equal where R = Q = I."""
  z = transforms.oscillating(frame.rotation @ (x - frame.optimum))
  z = frame.second @ transforms.asymmetric(z, 0.2)
  return _waves(frame.rotation @ transforms.conditioning(z, 10.0))


def _waves(z: Float[Array, ' D']) -> Float[Array, '']:
  return 10 * jnp.sum(1 - jnp.cos(_TAU * z)) + jnp.sum(z**2)


def bueche_rastrigin(x: Float[Array, ' D'], frame: Frame) -> Float[Array, '']:
  """f4: `rastrigin_separable` with ten times the slope on one side."""
  z = transforms.oscillating(x - frame.optimum)
  even = jnp.arange(x.shape[0]) % 2 == 0
  steep = jnp.where(even & (z > 0), 10, 1)
  z = transforms.conditioning(z, 10.0) * steep
  return _waves(z) + 100 * transforms.outside(x)


def linear_slope(x: Float[Array, ' D'], frame: Frame) -> Float[Array, '']:
  """f5: a plane; x_opt is a corner of the box, and flat beyond."""
  signs = jnp.sign(frame.optimum)
  beyond = jnp.minimum(signs * x, jnp.abs(frame.optimum))
  return transforms.ranged(x, 10.0) @ (5 - beyond)


def linear_slope_rotated(
  x: Float[Array, ' D'], frame: Frame
) -> Float[Array, '']:
  """Vizier's linear slope: a rotated plane, which falls beyond the box too."""
  most = 5 * jnp.sum(jnp.abs(frame.rotation), axis=1)
  return transforms.ranged(x, 10.0) @ (most - frame.rotation @ x)


def attractive_sector(x: Float[Array, ' D'], frame: Frame) -> Float[Array, '']:
  """f6: flat in the one orthant of 2^D where the signs are against x_opt's."""
  z = frame.rotation @ (x - frame.optimum)
  z = frame.second @ transforms.conditioning(z, 10.0)
  steep = jnp.where(z * frame.optimum > 0, 100, 1)
  value = transforms.oscillating(jnp.sum((steep * z) ** 2))
  return transforms.power(value, 0.9)


def step_ellipsoidal(
  x: Float[Array, ' D'], frame: Frame, *, vizier: bool
) -> Float[Array, '']:
  """f7: plateaus of an ellipsoid, whose gradient is 0 almost everywhere.

  Args:
    x: the point.
    frame: where the function lies.
    vizier: whether all negative coordinates are rounded to tenths (the
      reference: those above -1/2), and the slope of the floor is 10^-3 (10^-4).
  """
  first = transforms.conditioning(frame.rotation @ (x - frame.optimum), 10.0)
  coarse = (first if vizier else jnp.abs(first)) > 0.5
  rounded = jnp.where(
    coarse, jnp.floor(0.5 + first), jnp.floor(0.5 + 10 * first) / 10
  )
  steps = transforms.ranged(x, 100.0) @ (frame.second @ rounded) ** 2
  floor = jnp.abs(first[0]) / (1e3 if vizier else 1e4)
  return 0.1 * jnp.maximum(floor, steps) + transforms.outside(x)


def rosenbrock_scale(dimension: int) -> float:
  """C = max(1, sqrt(D) / 8)."""
  return max(1.0, dimension**0.5 / 8)


def rosenbrock(x: Float[Array, ' D'], frame: Frame) -> Float[Array, '']:
  """f8: a bent valley along the axes."""
  scale = rosenbrock_scale(x.shape[0])
  return jnp.sum(_valley(scale * (x - frame.optimum) + 1))


def rosenbrock_rotated(x: Float[Array, ' D'], frame: Frame) -> Float[Array, '']:
  """f9: `rosenbrock`, rotated; its optimum is c R x = 1/2, for any x_opt."""
  scale = rosenbrock_scale(x.shape[0])
  return jnp.sum(_valley(scale * (frame.rotation @ x) + 0.5))


def _valley(z: Float[Array, ' D']) -> Float[Array, ' D-1']:
  return 100 * (z[:-1] ** 2 - z[1:]) ** 2 + (z[:-1] - 1) ** 2


def discus(x: Float[Array, ' D'], frame: Frame) -> Float[Array, '']:
  """f11: one direction is a thousand times more sensitive."""
  z = transforms.oscillating(frame.rotation @ (x - frame.optimum))
  return 1e6 * z[0] ** 2 + jnp.sum(z[1:] ** 2)


def bent_cigar(x: Float[Array, ' D'], frame: Frame) -> Float[Array, '']:
  """f12: a ridge that is narrow and not straight."""
  z = transforms.asymmetric(frame.rotation @ (x - frame.optimum), 0.5)
  z = frame.rotation @ z
  return z[0] ** 2 + 1e6 * jnp.sum(z[1:] ** 2)


def sharp_ridge(x: Float[Array, ' D'], frame: Frame) -> Float[Array, '']:
  """f13: a ridge with a kink, of which the gradient says nothing."""
  z = frame.rotation @ (x - frame.optimum)
  z = frame.second @ transforms.conditioning(z, 10.0)
  return z[0] ** 2 + 100 * transforms.power(jnp.sum(z[1:] ** 2), 0.5)


def different_powers(x: Float[Array, ' D'], frame: Frame) -> Float[Array, '']:
  """f14: sensitivities that differ ever more near the optimum."""
  z = jnp.abs(frame.rotation @ (x - frame.optimum))
  exponents = jnp.asarray(2 + 4 * transforms.places(x.shape[0]), x.dtype)
  return transforms.power(jnp.sum(transforms.power(z, exponents)), 0.5)


def weierstrass(
  x: Float[Array, ' D'], frame: Frame, *, vizier: bool
) -> Float[Array, '']:
  """f16: rugged, with many global optima.

  Args:
    x: the point.
    frame: where the function lies.
    vizier: whether the last rotation is left out.
  """
  z = transforms.oscillating(frame.rotation @ (x - frame.optimum))
  z = transforms.conditioning(frame.second @ z, 0.01)
  z = z if vizier else frame.rotation @ z
  k = np.arange(12)
  weights = jnp.asarray(0.5**k, x.dtype)
  waves = jnp.asarray(3.0**k, x.dtype)
  total = jnp.mean(jnp.cos(_TAU * waves * (z[:, None] + 0.5)) @ weights)
  lowest = -float(np.sum(0.5**k))
  penalty = 10 / x.shape[0] * transforms.outside(x)
  return 10 * (total - lowest) ** 3 + penalty


def schaffers(
  x: Float[Array, ' D'], frame: Frame, *, alpha: float
) -> Float[Array, '']:
  """f17 and f18: waves whose length and height grow away from the optimum.

  Args:
    x: the point; in one dimension the value is 0, as in Vizier.
    frame: where the function lies.
    alpha: condition, 10 (f17) or 1000 (f18).
  """
  if x.shape[0] == 1:
    return jnp.zeros((), x.dtype)
  z = transforms.asymmetric(frame.rotation @ (x - frame.optimum), 0.5)
  z = transforms.conditioning(frame.second @ z, alpha)
  s = z[:-1] ** 2 + z[1:] ** 2
  waves = 1 + jnp.sin(50 * transforms.power(s, 0.1)) ** 2
  mean = jnp.mean(transforms.power(s, 0.25) * waves)
  return mean**2 + 10 * transforms.outside(x)


def griewank_rosenbrock(
  x: Float[Array, ' D'], frame: Frame, *, offset: float
) -> Float[Array, '']:
  """f19: `rosenbrock_rotated` as the argument of Griewank's function.

  Args:
    x: the point, D >= 2.
    frame: where the function lies.
    offset: c R x + offset = 1 at the optimum: 1/2, or 1 in Vizier's formula,
      whose optimum is 0.
  """
  scale = rosenbrock_scale(x.shape[0])
  s = _valley(scale * (frame.rotation @ x) + offset)
  return 10 * jnp.mean(s / 4000 - jnp.cos(s)) + 10


def schwefel(x: Float[Array, ' D'], frame: Frame) -> Float[Array, '']:
  """f20: the best optima lie in the corners of the box that has no penalty."""
  far = 2 * jnp.abs(frame.optimum)
  z = 2 * jnp.sign(frame.optimum) * x
  z = z.at[1:].add(0.25 * (z[:-1] - far[:-1]))
  z = 100 * (transforms.conditioning(z - far, 10.0) + far)
  waves = jnp.mean(z * jnp.sin(transforms.power(jnp.abs(z), 0.5)))
  penalty = 100 * transforms.outside(z / 100)
  return 4.189828872724339 - waves / 100 + penalty


def gallagher(
  x: Float[Array, ' D'], frame: Frame, peaks: Peaks
) -> Float[Array, '']:
  """f21 (101 peaks) and f22 (21): Gaussian peaks without any order.

  Args:
    x: the point.
    frame: gives the rotation.
    peaks: the peaks.
  """
  count, dimension = peaks.centers.shape
  heights = np.append(10, np.linspace(1.1, 9.1, count - 1))
  away = (x - peaks.centers) @ frame.rotation.T
  squares = jnp.sum(peaks.curvatures * away**2, axis=1)
  bells = jnp.exp(-squares / (2 * dimension))
  best = jnp.max(jnp.asarray(heights, x.dtype) * bells)
  return transforms.oscillating(10 - best) ** 2 + transforms.outside(x)


def katsuura(x: Float[Array, ' D'], frame: Frame) -> Float[Array, '']:
  """f23: continuous everywhere, differentiable nowhere; 10^D optima."""
  dimension = x.shape[0]
  z = frame.rotation @ (x - frame.optimum)
  z = frame.second @ transforms.conditioning(z, 100.0)
  scales = jnp.asarray(2.0 ** np.arange(1, 33), x.dtype)
  scaled = z[:, None] * scales
  rough = jnp.sum(jnp.abs(scaled - jnp.round(scaled)) / scales, axis=1)
  number = jnp.arange(1, dimension + 1, dtype=x.dtype)
  logs = jnp.sum(jnp.log1p(number * rough)) * (10 / dimension**1.2)
  return 10 / dimension**2 * jnp.expm1(logs) + transforms.outside(x)


def lunacek(x: Float[Array, ' D'], frame: Frame) -> Float[Array, '']:
  """f24: two funnels, of which the worse one is the wider; D >= 2."""
  dimension = x.shape[0]
  s = 1 - 1 / (2 * (dimension + 20) ** 0.5 - 8.2)
  mu0 = 2.5
  mu1 = -(((mu0**2 - 1) / s) ** 0.5)
  hat = 2 * jnp.sign(frame.optimum) * x
  z = transforms.conditioning(frame.rotation @ (hat - mu0), 100.0)
  z = frame.second @ z
  narrow = jnp.sum((hat - mu0) ** 2)
  wide = dimension + s * jnp.sum((hat - mu1) ** 2)
  waves = 10 * jnp.sum(1 - jnp.cos(_TAU * z))
  return jnp.minimum(narrow, wide) + waves + 1e4 * transforms.outside(x)
