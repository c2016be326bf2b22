"""Ordinary differential equations x' = f(t, x) from 0 to T.

Fixed steps are one `scan`; what backpropagation stores is x at every step. Steps
of a size that follows the error are diffrax's.
"""

import dataclasses
from collections.abc import Callable
from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from rl import ranges
from runtime import optional

__all__ = ['METHODS', 'Adaptive', 'Field', 'Fixed', 'Solver', 'integrate']

Field = Callable[[Float[Array, ''], PyTree], PyTree]


@runtime_checkable
class Solver(Protocol):
  """Integrates a field; hashable."""

  def __call__(self, field: Field, x0: PyTree, *, time: float) -> PyTree:
    """x(T) of x' = field(t, x), x(0) = x0."""
    ...


def _plus(x: PyTree, scale: float, slope: PyTree) -> PyTree:
  add = lambda a, b: a + jnp.asarray(scale, a.dtype) * b
  return jax.tree.map(add, x, slope)


def _euler(field: Field, t: Array, x: PyTree, h: float) -> PyTree:
  return _plus(x, h, field(t, x))


def _midpoint(field: Field, t: Array, x: PyTree, h: float) -> PyTree:
  half = _plus(x, h / 2, field(t, x))
  return _plus(x, h, field(t + h / 2, half))


def _rk4(field: Field, t: Array, x: PyTree, h: float) -> PyTree:
  k1 = field(t, x)
  k2 = field(t + h / 2, _plus(x, h / 2, k1))
  k3 = field(t + h / 2, _plus(x, h / 2, k2))
  k4 = field(t + h, _plus(x, h, k3))
  mean = jax.tree.map(
    lambda a, b, c, d: (a + 2 * (b + c) + d) / 6, k1, k2, k3, k4
  )
  return _plus(x, h, mean)


METHODS = {'euler': _euler, 'midpoint': _midpoint, 'rk4': _rk4}


def integrate(
  field: Field,
  x0: PyTree,
  *,
  n_steps: int,
  time: float = 1.0,
  method: str = 'euler',
  remat: bool = True,
) -> PyTree:
  """x(T) by steps of equal size.

  Args:
    field: f of (t, x), of the structure of x.
    x0: x(0), any tree of floats.
    n_steps: steps.
    time: T.
    method: one of METHODS, of first, second and fourth order.
    remat: whether backpropagation computes a step again instead of storing what
      is inside of it.

  Raises:
    ValueError: if there is no such method, a number is not positive or x(0) is
      not of floats.
  """
  _check_floats(x0)
  step, times = _steps(field, n_steps, time, method)
  step = jax.checkpoint(step) if remat else step
  return jax.lax.scan(lambda x, t: (step(x, t), None), x0, times)[0]


def _check_floats(x0: PyTree) -> None:
  """Steps of whole numbers would be none."""
  for x in jax.tree.leaves(x0):
    if not jnp.issubdtype(jnp.result_type(x), jnp.floating):
      raise ValueError(f'x0 must be floats, got {jnp.result_type(x)}')


def _steps(
  field: Field, n_steps: int, time: float, method: str
) -> tuple[Callable[[PyTree, Array], PyTree], Array]:
  if method not in METHODS:
    raise ValueError(f'method must be one of {tuple(METHODS)}, got {method!r}')
  ranges.check_counts(n_steps=n_steps)
  ranges.check_positive(time=time)
  h = time / n_steps
  step = lambda x, t: METHODS[method](field, t, x, h)
  return step, h * jnp.arange(n_steps)


@dataclasses.dataclass(frozen=True)
class Fixed:
  """Steps of equal size; see `integrate`.

  Attributes:
    n_steps: steps.
    method: one of METHODS.
    remat: see `integrate`.
  """

  n_steps: int = 25
  method: str = 'euler'
  remat: bool = True

  def __call__(self, field: Field, x0: PyTree, *, time: float) -> PyTree:
    """See `Solver`."""
    settings = dataclasses.asdict(self)
    return integrate(field, x0, time=time, **settings)

  def steps(
    self, field: Field, *, time: float
  ) -> tuple[Callable[[PyTree, Array], PyTree], Float[Array, ' n']]:
    """(x, t) -> x one step later, and the times of all steps."""
    return _steps(field, self.n_steps, time, self.method)


@dataclasses.dataclass(frozen=True)
class Adaptive:
  """Tsitouras' method of order 5 with steps controlled by the error (diffrax).

  Attributes:
    rtol: tolerance relative to x.
    atol: absolute tolerance.
    max_steps: beyond which the solution is given up with an error.

  Raises:
    ValueError: if a number is not positive.
  """

  rtol: float = 1e-3
  atol: float = 1e-6
  max_steps: int = 4096

  def __post_init__(self) -> None:
    if not all(x > 0 for x in (self.rtol, self.atol, self.max_steps)):
      raise ValueError(f'tolerances and max_steps must be positive, got {self}')

  def __call__(self, field: Field, x0: PyTree, *, time: float) -> PyTree:
    """See `Solver`.

    Half precision is computed in float32: its rounding exceeds tolerances.

    Raises:
      ImportError: if diffrax is not installed, naming the extra.
      ValueError: if T is not positive or x(0) is not of floats.
    """
    ranges.check_positive(time=time)
    _check_floats(x0)
    single = lambda x: x.astype(jnp.promote_types(x.dtype, jnp.float32))
    diffrax = optional.load('diffrax', extra='rl')
    solution = diffrax.diffeqsolve(
      diffrax.ODETerm(lambda t, x, _: field(t, x)),
      diffrax.Tsit5(),
      t0=0.0,
      t1=time,
      dt0=None,
      y0=jax.tree.map(single, x0),
      stepsize_controller=diffrax.PIDController(rtol=self.rtol, atol=self.atol),
      max_steps=self.max_steps,
    )
    back = lambda y, x: y[-1].astype(x.dtype)
    return jax.tree.map(back, solution.ys, x0)
