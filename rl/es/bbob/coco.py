"""COCO's official instances: its 24 functions with its seeds.

`instance(function, dimension, number)` has the shift, rotations and offset of
problem (function, dimension, number) of COCO's suite `bbob`. The numbers are
drawn on the host by COCO's own generator.

Reference: github.com/numbbo/coco; the values are those of cocoex 2.8.2.
"""

import functools
from collections.abc import Callable
from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from rl import ranges
from rl.es.bbob import formulas

__all__ = ['FORMULAS', 'Instance', 'instance', 'value']

# COCO's tables hold this many dimensions.
_MOST = 40

_partial = functools.partial
FORMULAS = {
  1: formulas.sphere,
  2: formulas.ellipsoidal,
  3: formulas.rastrigin_separable,
  4: formulas.bueche_rastrigin,
  5: formulas.linear_slope,
  6: formulas.attractive_sector,
  7: _partial(formulas.step_ellipsoidal, vizier=False),
  8: formulas.rosenbrock,
  9: formulas.rosenbrock_rotated,
  10: formulas.ellipsoidal_rotated,
  11: formulas.discus,
  12: formulas.bent_cigar,
  13: formulas.sharp_ridge,
  14: formulas.different_powers,
  15: formulas.rastrigin,
  16: _partial(formulas.weierstrass, vizier=False),
  17: _partial(formulas.schaffers, alpha=10.0),
  18: _partial(formulas.schaffers, alpha=1000.0),
  19: _partial(formulas.griewank_rosenbrock, offset=0.5),
  20: formulas.schwefel,
  21: formulas.gallagher,
  22: formulas.gallagher,
  23: formulas.katsuura,
  24: formulas.lunacek,
}

# Of the generator.
_MODULUS = 2**31 - 1

# The second matrix of these is drawn from the seed, the first from another.
_SWAPPED = (10, 11, 12, 14, 15, 16, 17, 18)


@flax.struct.dataclass
class Instance:
  """A problem of the suite; those of one function and dimension stack.

  Attributes:
    frame: x_opt and the rotations.
    offset: f_opt, the smallest value.
    minimizer: a point of it [D].
    peaks: of f21 and f22; None elsewhere.
    number: of the function, static.
  """

  # Not annotated by shape: transformations put other things into the leaves.
  frame: Any
  offset: Any
  minimizer: Any
  peaks: Any
  number: int = flax.struct.field(pytree_node=False)


def value(x: Float[Array, ' D'], instance: Instance) -> Float[Array, '']:
  """The value of a COCO problem, to be minimised.

  Args:
    x: the point, of the dtype of the instance.
    instance: of `instance`.

  Raises:
    ValueError: D is not the instance's.
  """
  optimum = instance.frame.optimum
  if x.shape != optimum.shape:
    raise ValueError(
      f'x must have the shape {optimum.shape} of the instance, got {x.shape=}'
    )
  formula: Callable = FORMULAS[instance.number]
  more = () if instance.peaks is None else (instance.peaks,)
  return formula(x, instance.frame, *more) + instance.offset


def instance(
  function: int,
  dimension: int,
  number: int,
  dtype: DTypeLike = jnp.float32,
) -> Instance:
  """The problem (function, dimension, number) of COCO's suite.

  Args:
    function: 1 to 24.
    dimension: 2 to 40.
    number: of the instance, from 1 on.
    dtype: of all arrays; they are computed in float64.

  Raises:
    ValueError: a number is out of range.
  """
  ranges.check_counts(function=function, dimension=dimension, number=number)
  if function not in FORMULAS or not 2 <= dimension <= _MOST:
    raise ValueError(
      'COCO has the functions 1 to 24 in 2 to 40 dimensions, got '
      f'{function=} {dimension=}'
    )
  seed = {4: 3, 18: 17}.get(function, function) + 10_000 * number
  first = _rotation(seed, dimension)
  second = _rotation(seed + 1_000_000, dimension)
  if function in _SWAPPED:
    first, second = second, first
  peaks, optimum = None, _optimum(function, seed, dimension)
  if function in (21, 22):
    peaks = _peaks(101 if function == 21 else 21, seed, dimension)
    optimum = peaks.centers[0]
  minimizer = optimum
  if function in (9, 19):
    scale = formulas.rosenbrock_scale(dimension)
    minimizer = first.sum(axis=0) / (2 * scale)
  made = Instance(
    formulas.Frame(optimum, first, second),
    np.float64(_offset(seed)),
    minimizer,
    peaks,
    function,
  )
  return jax.tree.map(lambda x: jnp.asarray(x, dtype), made)


def _optimum(function: int, seed: int, dimension: int) -> np.ndarray:
  """x_opt, with the exceptions that some functions make."""
  if function == 20:
    signs = np.where(_uniform(seed, dimension) < 0.5, -1, 1)
    return 4.2096874637 / 2 * signs
  if function == 24:
    return 1.25 * np.where(_normal(seed, dimension) < 0, -1, 1)
  drawn = _uniform(seed + 1_000_000 * (function == 12), dimension)
  optimum = 8 * np.floor(1e4 * drawn) / 1e4 - 4
  optimum[optimum == 0] = -1e-5
  if function == 4:
    optimum[::2] = np.abs(optimum[::2])
  if function == 5:
    return np.where(optimum < 0, -5.0, 5.0)
  return optimum * 0.75 if function == 8 else optimum


def _peaks(count: int, seed: int, dimension: int) -> formulas.Peaks:
  """The peaks of f21 and f22; only the first one keeps off the border."""
  half = 5.0 if count == 101 else 4.9
  drawn = _uniform(seed, count * dimension).reshape(count, dimension)
  centers = half * (2 * drawn - 1)
  centers[0] *= 0.8
  order = np.argsort(_uniform(seed, count - 1), kind='stable')
  conditions = np.append(
    1000**0.5 if count == 101 else 1000, 1000 ** (order / (count - 2))
  )
  orders = np.stack(
    [np.argsort(_uniform(seed + 1000 * k, dimension)) for k in range(count)]
  )
  exponents = orders / (dimension - 1) - 0.5
  return formulas.Peaks(centers, conditions[:, None] ** exponents)


def _offset(seed: int) -> float:
  """f_opt: a ratio of normal numbers, in hundredths, within [-1000, 1000]."""
  ratio = float(_normal(seed, 1)[0] / _normal(seed + 1, 1)[0])
  return float(np.clip(np.floor(1e4 * ratio + 0.5) / 100, -1000, 1000))


def _rotation(seed: int, dimension: int) -> np.ndarray:
  """Columns by Gram and Schmidt: QR with a positive diagonal."""
  drawn = _normal(seed, dimension**2).reshape(dimension, dimension).T
  q, r = np.linalg.qr(drawn)
  return q * np.sign(np.diag(r))


def _normal(seed: int, count: int) -> np.ndarray:
  """Normal numbers by Box and Muller."""
  drawn = _uniform(seed, 2 * count)
  radius = np.sqrt(-2 * np.log(drawn[:count]))
  found = radius * np.cos(2 * np.pi * drawn[count:])
  found[found == 0] = 1e-99
  return found


def _uniform(seed: int, count: int) -> np.ndarray:
  """Park and Miller's generator, shuffled by Bays and Durham's table of 32."""
  state, states = seed, []
  for _ in range(40 + count):
    state = 16807 * state % _MODULUS
    states.append(state)
  table = states[39:7:-1]
  last, found = table[0], []
  for state in states[40:]:
    place = last // 67108865
    last, table[place] = table[place], state
    found.append(last)
  return np.maximum(np.array(found) / _MODULUS, 1e-99)
