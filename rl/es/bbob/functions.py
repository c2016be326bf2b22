"""The functions in Vizier's dialect, and their random instances."""

import dataclasses
import difflib
import functools
from collections.abc import Callable
from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Key

from rl import orthonormal, ranges
from rl.es.bbob import formulas, transforms

__all__ = ['FUNCTIONS', 'Function', 'Instance', 'draw', 'named', 'plain']


@flax.struct.dataclass
class Instance:
  """Shift and rotations of a function; the same for all functions.

  Instances of one dimension can be stacked and mapped over.

  Attributes:
    shift: s [D]; a function is evaluated at x - s.
    rotation: R [D, D], orthogonal.
    second: Q [D, D], orthogonal.
  """

  # Not annotated by shape: transformations put other things into the leaves.
  shift: Any
  rotation: Any
  second: Any


@dataclasses.dataclass(frozen=True)
class Function:
  """A function of a point and an instance, to be minimised; hashable.

  Attributes:
    name: Vizier's name.
    number: COCO's number, 1 to 24.
    title: COCO's name.
    formula: of (x - shift, frame).
    home: x_opt of the frame, as a function of D.
    lowest: a minimiser of an instance; None: shift + x_opt.
    least: the smallest dimension.
  """

  name: str
  number: int
  title: str
  formula: Callable[[Array, formulas.Frame], Array]
  home: Callable[[int], np.ndarray] = np.zeros
  lowest: Callable[[Instance], Array] | None = None
  least: int = 1

  def __call__(
    self, x: Float[Array, ' D'], instance: Instance
  ) -> Float[Array, '']:
    """The value, in the dtype of x; may be jitted, mapped and differentiated.

    Args:
      x: the point, float; [-5, 5]^D is searched, but any point has a value.
      instance: shift and rotations, of the dtype of x.

    Raises:
      ValueError: D is not the instance's, or below `least`.
    """
    shift = instance.shift.shape
    if x.ndim != 1 or x.shape != shift or x.shape[0] < self.least:
      raise ValueError(
        f'{self.name} needs x and a shift of shape [D], D >= {self.least}, got '
        f'{x.shape=} {instance.shift.shape=}'
      )
    return self.formula(x - instance.shift, self._frame(instance))

  def minimizer(self, instance: Instance) -> Float[Array, ' D']:
    """A point of the smallest value; of `LinearSlope`, within [-5, 5]^D.

    Its value is 0, to rounding, except that of `LinearSlope`. It may lie outside
    of [-5, 5]^D where the function's own optimum is not 0.
    """
    if self.lowest is not None:
      return self.lowest(instance)
    return instance.shift + self._frame(instance).optimum

  def _frame(self, instance: Instance) -> formulas.Frame:
    home = self.home(instance.shift.shape[0])
    home = jnp.asarray(home, instance.shift.dtype)
    return formulas.Frame(home, instance.rotation, instance.second)


def _corner(instance: Instance) -> Float[Array, ' D']:
  """The corner of [-5, 5]^D to which `LinearSlope` falls."""
  rotation = instance.rotation
  slopes = transforms.ranged(instance.shift, 10.0) @ rotation
  return 5 * jnp.where(slopes < 0, -1, 1).astype(rotation.dtype)


def _valley_end(instance: Instance) -> Float[Array, ' D']:
  """Where c R (x - s) = 1/2, the minimiser of `RosenbrockRotated`."""
  rotation = instance.rotation
  scale = formulas.rosenbrock_scale(rotation.shape[0])
  return instance.shift + jnp.sum(rotation, axis=0) / (2 * scale)


def _alternating(first: float) -> Callable[[int], np.ndarray]:
  return lambda dimension: first * (-1.0) ** np.arange(dimension)


def _gallagher(
  count: int, x: Float[Array, ' D'], frame: formulas.Frame
) -> Float[Array, '']:
  """Vizier's peaks: on a line through the box, less round along it."""
  dimension = x.shape[0]
  steps = np.arange(1, (count - 1) * dimension + 1)
  others = -5 + 10 * steps / (dimension * count + 2)
  others = others.reshape(count - 1, dimension)
  t = transforms.places(dimension)
  exponents = np.linspace(0, 1, count - 1)[:, None] * (t - 0.5)
  curvatures = np.concatenate([1e3 ** (t[None] / 2), 1e3**exponents])
  centers = np.concatenate([np.zeros((1, dimension)), others])
  peaks = formulas.Peaks(
    jnp.asarray(centers, x.dtype), jnp.asarray(curvatures, x.dtype)
  )
  return formulas.gallagher(x, frame, peaks)


_partial = functools.partial
_ALL = (
  Function('Sphere', 1, 'Sphere', formulas.sphere),
  Function('Ellipsoidal', 2, 'Ellipsoid separable', formulas.ellipsoidal),
  Function(
    'RastriginSeparable', 3, 'Rastrigin separable', formulas.rastrigin_separable
  ),
  Function('BuecheRastrigin', 4, 'Bueche-Rastrigin', formulas.bueche_rastrigin),
  Function(
    'LinearSlope',
    5,
    'Linear slope',
    formulas.linear_slope_rotated,
    lowest=_corner,
  ),
  Function(
    'AttractiveSector',
    6,
    'Attractive sector',
    formulas.attractive_sector,
    _alternating(1.0),
  ),
  Function(
    'StepEllipsoidal',
    7,
    'Step-ellipsoid',
    _partial(formulas.step_ellipsoidal, vizier=True),
  ),
  Function('Rosenbrock', 8, 'Rosenbrock original', formulas.rosenbrock),
  Function(
    'RosenbrockRotated',
    9,
    'Rosenbrock rotated',
    formulas.rosenbrock_rotated,
    lowest=_valley_end,
  ),
  Function('EllipsoidalRotated', 10, 'Ellipsoid', formulas.ellipsoidal_rotated),
  Function('Discus', 11, 'Discus', formulas.discus),
  Function('BentCigar', 12, 'Bent cigar', formulas.bent_cigar),
  Function('SharpRidge', 13, 'Sharp ridge', formulas.sharp_ridge),
  Function(
    'DifferentPowers', 14, 'Sum of different powers', formulas.different_powers
  ),
  Function('Rastrigin', 15, 'Rastrigin', formulas.rastrigin),
  Function(
    'Weierstrass',
    16,
    'Weierstrass',
    _partial(formulas.weierstrass, vizier=True),
  ),
  Function(
    'SchaffersF7',
    17,
    'Schaffer F7, condition 10',
    _partial(formulas.schaffers, alpha=10.0),
  ),
  Function(
    'SchaffersF7IllConditioned',
    18,
    'Schaffer F7, condition 1000',
    _partial(formulas.schaffers, alpha=1000.0),
  ),
  Function(
    'GriewankRosenbrock',
    19,
    'Griewank-Rosenbrock F8F2',
    _partial(formulas.griewank_rosenbrock, offset=1.0),
    least=2,
  ),
  Function(
    'Schwefel',
    20,
    'Schwefel x*sin(x)',
    formulas.schwefel,
    _alternating(-4.2096874633 / 2),
  ),
  Function(
    'Gallagher101Me', 21, 'Gallagher 101 peaks', _partial(_gallagher, 101)
  ),
  Function('Gallagher21Me', 22, 'Gallagher 21 peaks', _partial(_gallagher, 21)),
  Function('Katsuura', 23, 'Katsuuras', formulas.katsuura),
  Function(
    'Lunacek',
    24,
    'Lunacek bi-Rastrigin',
    formulas.lunacek,
    _partial(np.full, fill_value=1.25),
    least=2,
  ),
)

# By Vizier's names, in the order of COCO's numbers.
FUNCTIONS = {function.name: function for function in _ALL}


def named(name: str | int) -> Function:
  """A function by Vizier's name, COCO's name or COCO's number.

  Args:
    name: such as 'DifferentPowers', 'Sum of different powers' or 14; the case
      of letters does not count.

  Raises:
    ValueError: naming the nearest ones.
  """
  known = {}
  for function in _ALL:
    known[function.title.lower()] = function
  for function in _ALL:
    known[function.name.lower()] = function
    known[str(function.number)] = function
  found = known.get(str(name).lower())
  if found is None:
    near = difflib.get_close_matches(str(name).lower(), known, 3, 0)
    raise ValueError(f'no BBOB function {name!r}; the nearest: {near}')
  return found


def plain(dimension: int, dtype: DTypeLike = jnp.float32) -> Instance:
  """The instance without shift or rotation: Vizier's seed 0."""
  ranges.check_counts(dimension=dimension)
  eye = jnp.eye(dimension, dtype=dtype)
  return Instance(jnp.zeros(dimension, dtype), eye, eye)


def draw(
  key: Key[Array, ''],
  dimension: int,
  *,
  shift: float = 4.0,
  dtype: DTypeLike = jnp.float32,
) -> Instance:
  """A random instance; for a batch, vmap over keys.

  Args:
    key: of this instance.
    dimension: D, static.
    shift: each s_i is uniform in [-shift, shift]; 4 in the published data.
    dtype: of all arrays.

  Returns:
    Uniform orthogonal matrices R and Q; Vizier's have determinant 1.
  """
  ranges.check_counts(dimension=dimension)
  ranges.check_not_negative(shift=shift)
  keys = jax.random.split(key, 3)
  normal = lambda key: jax.random.normal(key, (dimension, dimension), dtype)
  return Instance(
    jax.random.uniform(keys[0], (dimension,), dtype, -shift, shift),
    orthonormal.orthonormal_columns(normal(keys[1])),
    orthonormal.orthonormal_columns(normal(keys[2])),
  )
