"""Flows on the orthogonal group, and the flow of states that they drive.

Letters: d width, B examples, N steps of size eta = T / N; W_n in O(d).

  matrix flow   W' = W b(t, W),  b skew-symmetric     W_{n+1} = W_n U(eta b_n)
  main flow     x' = f(W x)                           x_{n+1} = x_n + eta f(W_n x_n)

W does not depend on x, so its flow is computed once for a vector of parameters
and serves all examples, and all steps of a rollout. |f'| <= 1 bounds gradients:

  (1 - eta)^(N - n) |g_N| <= |g_n| <= (1 + eta)^(N - n) |g_N|,  g_n = dL/dx_n.

Source: arXiv:2006.11421, Sections 3 and 4.1.
"""

import functools
import math
from collections.abc import Callable

import flax
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from rl import ranges
from rl.odetoode import generators, manifolds, retractions

__all__ = [
  'Activation',
  'MatrixFlow',
  'Step',
  'check_states',
  'gradient_band',
  'main_flow',
  'main_step',
  'matrix_flow',
  'path',
  'states',
]

Activation = Callable[[Array], Array]
# From a state and what belongs to the step, such as W_n, to the next state.
Step = Callable[[Array, PyTree], Array]


@flax.struct.dataclass
class MatrixFlow:
  """A discretised matrix flow.

  Attributes:
    matrices: W_0, ..., W_{N-1}, float [N, d, d], which `main_flow` takes.
    last: W_N, [d, d].
    generator_norm: the largest |b_n| (1-norm) that was seen.
    step_norm: eta times that, what a retraction's accuracy depends on.
  """

  matrices: Float[Array, 'N d d']
  last: Float[Array, 'd d']
  generator_norm: Float[Array, '']
  step_norm: Float[Array, '']

  @property
  def trajectory(self) -> Float[Array, 'N1 d d']:
    """W_0, ..., W_N, [N + 1, d, d]: a copy, made at each access."""
    return jnp.concatenate([self.matrices, self.last[None]])


def check_states(x0: Array, width: int | None = None) -> None:
  """Rejects arrays that are no states: integers, another width.

  Args:
    x0: x_0.
    width: d; None: any.

  Raises:
    ValueError: naming the type and the shape, and what they must be.
  """
  floats = jnp.issubdtype(x0.dtype, jnp.floating)
  if not floats or not x0.ndim or width not in (None, x0.shape[-1]):
    raise ValueError(
      f'states must be floats [..., {width or "d"}], got {x0.dtype} {x0.shape}'
    )


def _check(n_steps: int, time: float) -> None:
  ranges.check_counts(n_steps=n_steps)
  ranges.check_positive(time=time)


def matrix_flow(
  w0: Float[Array, 'd _'],
  generator: generators.Generator,
  *,
  n_steps: int,
  time: float = 1.0,
  retraction: retractions.Retraction = retractions.Guarded(),
  order: int = 1,
  clean_every: int = 0,
  remat: bool = True,
  free: bool = False,
) -> MatrixFlow:
  """Integrates W' = W b(t, W) on the orthogonal group.

  Args:
    w0: W_0, orthogonal; computed in its dtype, at least float32. Inside
      `jax.jit` its value is unknown and cannot be checked.
    generator: b, from (t, W) to a skew-symmetric matrix.
    n_steps: N.
    time: T.
    retraction: U.
    order: 1 is Lie-Euler, b at the left end, the paper's; 2 the Lie midpoint
      rule; 4 the Runge-Kutta-Munthe-Kaas method.
    clean_every: a Newton-Schulz step after so many steps; 0: never.
    remat: whether the steps are computed again in backpropagation, which then
      stores one matrix a step.
    free: whether W_0 may be off the group, for ablations: no W_n is then
      orthogonal, and no bound on gradients holds.

  Returns:
    The matrices and norms of the generator.

  Raises:
    ValueError: if w0 is not square or (`manifolds.check_orthogonal`) not
      orthogonal, there is no such order, the retraction is no function, or a
      number is out of range.
  """
  _check(n_steps, time)
  if order not in _STEPS:
    raise ValueError(f'order must be one of {tuple(_STEPS)}, got {order}')
  if w0.ndim != 2 or w0.shape[0] != w0.shape[1]:
    raise ValueError(f'w0 must be square, got shape {w0.shape}')
  if not free:
    manifolds.check_orthogonal(w0=w0)
  if not callable(retraction):
    raise ValueError(
      'retraction must be a function, such as those of retractions.METHODS, '
      f'got {retraction!r}'
    )
  ranges.check_counts(least=0, clean_every=clean_every)
  w0 = w0.astype(jnp.promote_types(w0.dtype, jnp.float32))
  eta = time / n_steps
  # Rounding leaves b skew-symmetric in the last digit only.
  clean = lambda t, w: retractions.skew(generator(t, w))

  def step(w: Array, n: Array) -> tuple[Array, tuple[Array, Array]]:
    omega, b = _STEPS[order](clean, retraction, w, n * eta, eta)
    new = retractions.product(w, retraction(omega))
    if clean_every:
      due = (n + 1) % clean_every == 0
      new = jax.lax.cond(due, retractions.newton_schulz, lambda x: x, new)
    return new, (w, retractions.one_norm(b))

  step = jax.checkpoint(step) if remat else step
  last, (matrices, norms) = jax.lax.scan(step, w0, jnp.arange(n_steps))
  norm = jnp.max(norms)
  return MatrixFlow(matrices, last, norm, eta * norm)


Field = Callable[[Array, Array], Array]


def _euler(
  b: Field,
  retraction: retractions.Retraction,
  w: Array,
  t: Array,
  eta: float,
) -> tuple[Array, Array]:
  """The exponent of a step, and b at its beginning."""
  del retraction
  first = b(t, w)
  return eta * first, first


def _midpoint(
  b: Field,
  retraction: retractions.Retraction,
  w: Array,
  t: Array,
  eta: float,
) -> tuple[Array, Array]:
  first = b(t, w)
  half = retractions.product(w, retraction(eta / 2 * first))
  return eta * b(t + eta / 2, half), first


def _runge_kutta(
  b: Field,
  retraction: retractions.Retraction,
  w: Array,
  t: Array,
  eta: float,
) -> tuple[Array, Array]:
  """The classical method for X of W = W_n U(X), with X(0) = 0."""

  def slope(x: Array, share: float) -> Array:
    there = retractions.product(w, retraction(x))
    found = b(t + share * eta, there)
    return eta * retraction.inverse_differential(x, found)

  first = b(t, w)
  k1 = eta * first
  k2 = slope(k1 / 2, 0.5)
  k3 = slope(k2 / 2, 0.5)
  k4 = slope(k3, 1.0)
  return (k1 + 2 * k2 + 2 * k3 + k4) / 6, first


_STEPS = {1: _euler, 2: _midpoint, 4: _runge_kutta}


def _advance(
  x: Array,
  w: Array,
  bias: Array | None,
  f: Activation,
  eta: float,
) -> Array:
  """One step; W in the dtype of x."""
  z = x @ w.astype(x.dtype).T
  z = z if bias is None else z + bias.astype(x.dtype)
  return x + jnp.asarray(eta, x.dtype) * f(z)


def main_flow(
  x0: Float[Array, '*B d'],
  matrices: Float[Array, 'N _ _'],
  *,
  f: Activation = jnp.abs,
  time: float = 1.0,
  bias: Float[Array, ' d'] | None = None,
  remat: bool = True,
) -> Float[Array, '*B d']:
  """Integrates x' = f(W_t x) with given matrices.

  Args:
    x0: states, any number of leading axes; computed in their dtype.
    matrices: W_0, ..., W_{N-1}.
    f: elementwise, |f'| <= 1.
    time: T.
    bias: added to W x; None: none.
    remat: whether steps are computed again in backpropagation.

  Returns:
    x_N.

  Raises:
    ValueError: if the widths of states and matrices differ, or states are no
      floats.
  """
  check_states(x0)
  step = main_step(x0.shape[-1], matrices, f=f, time=time, bias=bias)
  step = jax.checkpoint(step) if remat else step
  return jax.lax.scan(lambda x, w: (step(x, w), None), x0, matrices)[0]


def states(
  x0: Float[Array, '*B d'],
  matrices: Float[Array, 'N _ _'],
  *,
  f: Activation = jnp.abs,
  time: float = 1.0,
  bias: Float[Array, ' d'] | None = None,
  nudges: Float[Array, 'N1 *B d'] | None = None,
) -> Float[Array, 'N1 *B d']:
  """x_0, ..., x_N of the main flow.

  Args:
    x0: as in `main_flow`, like the next four.
    matrices: W_0, ..., W_{N-1}.
    f: elementwise.
    time: T.
    bias: added to W x.
    nudges: added to x_n, N + 1 of them; a gradient with respect to zeros here
      is dL/dx_n.

  Raises:
    ValueError: as `main_flow`.
  """
  check_states(x0)
  step = main_step(x0.shape[-1], matrices, f=f, time=time, bias=bias)
  return path(step, x0, matrices, nudges)


def path(
  step: Step,
  x0: Float[Array, '*B d'],
  items: PyTree,
  nudges: Float[Array, 'N1 *B d'] | None = None,
) -> Float[Array, 'N1 *B d']:
  """x_0, ..., x_N of x_{n+1} = step(x_n, item_n).

  Args:
    step: one step.
    x0: states.
    items: of all steps, N along the leading axis.
    nudges: see `states`.
  """
  if nudges is None:
    length = jax.tree.leaves(items)[0].shape[0]
    nudges = jnp.zeros((length + 1, *x0.shape), x0.dtype)
  first = x0 + nudges[0]

  def move(x: Array, item: tuple[PyTree, Array]) -> tuple[Array, Array]:
    x = step(x, item[0]) + item[1]
    return x, x

  rest = jax.lax.scan(move, first, (items, nudges[1:]))[1]
  return jnp.concatenate([first[None], rest])


def main_step(
  width: int,
  matrices: Float[Array, 'N _ _'],
  *,
  f: Activation = jnp.abs,
  time: float = 1.0,
  bias: Float[Array, ' d'] | None = None,
) -> Step:
  """(x_n, W_n) -> x_{n+1}.

  Args:
    width: d.
    matrices: of all steps, for their number.
    f: as in `main_flow`, like the next two.
    time: T.
    bias: added to W x.

  Raises:
    ValueError: if the widths of states, matrices and the bias differ.
  """
  if matrices.ndim != 3 or matrices.shape[1:] != (width, width):
    raise ValueError(
      'matrices must be [N, d, d] for states [..., d], got '
      f'{matrices.shape} and d = {width}'
    )
  _check(matrices.shape[0], time)
  if bias is not None and bias.shape != (width,):
    raise ValueError(f'bias must be [{width}], got {bias.shape}')
  eta = time / matrices.shape[0]
  return functools.partial(_advance, bias=bias, f=f, eta=eta)


def gradient_band(n_steps: int, time: float = 1.0) -> tuple[float, float]:
  """Bounds of |dL/dx_0| / |dL/dx_N|, for any W_n in O(d) and |f'| = 1.

  Args:
    n_steps: N.
    time: T.

  Returns:
    (1 - eta)^N, 0 if eta > 1, and (1 + eta)^N; they tend to e^-T and e^T.
  """
  _check(n_steps, time)
  eta = time / n_steps
  return max(1 - eta, 0.0) ** n_steps, math.pow(1 + eta, n_steps)
