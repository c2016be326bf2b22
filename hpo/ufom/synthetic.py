"""Problems in one dimension: where first-order descent goes wrong.

Two equiprobable tasks in MAML's form: phi_0 = theta, one loss inside and outside,

    z = |phi - b / a|,   loss = a z^2 / 2          where z <= A
                         its slope saturates        where A < z <= A + 1
                         its slope is a (1/2 + A)   where z > A + 1

twice continuously differentiable with bounded slope. While r steps stay where the
loss is quadratic, with rho = (1 - alpha a)^r,

    g_FO = rho (a theta - b),   grad M = rho^2 (a theta - b)

so the mean of g_FO vanishes at another theta than the mean of grad M. For every
D there are tasks such that the true gradient is sqrt(2 D) where FOM ends.

Source: arXiv:2106.02487, Section 4 and its counter-example; the constants are
simplified and theta* is derived here.
"""

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Integer, Key

from hpo.ufom import adaptive, estimator
from hpo.ufom import problem as problem_lib

__all__ = [
  'Tasks',
  'counterexample',
  'descend',
  'descend_adaptively',
  'study',
]


@dataclasses.dataclass(frozen=True)
class Tasks:
  """Two tasks, with closed forms of their gradients.

  Attributes:
    a: curvatures of the two.
    b: a times the minima.
    A: half-width of the quadratic region.
    r: number of inner steps.
    alpha: inner learning rate.

  Raises:
    ValueError: a rate does not contract, 0 < alpha a < 1.
  """

  a: tuple[float, float]
  b: tuple[float, float]
  A: float
  r: int
  alpha: float

  def __post_init__(self) -> None:
    if not all(0 < self.alpha * a < 1 for a in self.a):
      raise ValueError(
        f'alpha a must lie in (0, 1), got {self.alpha=} {self.a=}'
      )

  @property
  def problem(self) -> problem_lib.ABLOProblem:
    """The bi-level problem; a task is its number, int32 0 or 1."""
    return problem_lib.ABLOProblem(
      V=lambda theta, task: theta,
      inner_loss=lambda theta, phi, task: self.loss(phi, task),
      outer_loss=lambda theta, phi, task: self.loss(phi, task),
    )

  def loss(
    self, phi: Float[Array, ''], task: int | Integer[Array, '']
  ) -> Float[Array, '']:
    """The loss of a task."""
    a = jnp.asarray(self.a, phi.dtype)[task]
    centre = (jnp.asarray(self.b, phi.dtype) / jnp.asarray(self.a))[task]
    z = jnp.abs(phi - centre.astype(phi.dtype))
    over = jnp.clip(z - self.A, 0, 1)
    inside = jnp.minimum(z, self.A)
    beyond = jnp.maximum(z - self.A - 1, 0)
    saturating = -(over**3) / 6 + over**2 / 2 + self.A * over
    return a * (inside**2 / 2 + saturating + (0.5 + self.A) * beyond)

  @property
  def rho(self) -> np.ndarray:
    """(1 - alpha a)^r of both, float64."""
    return (1 - self.alpha * np.array(self.a)) ** self.r

  def gradients(
    self, theta: Any, *, first_order: bool = False
  ) -> Float[np.ndarray, '*n 2']:
    """Both tasks' grad M, or g_FO, float64; where the loss is quadratic."""
    power = 1 if first_order else 2
    theta = np.asarray(theta, np.float64)[..., None]
    return self.rho**power * (np.array(self.a) * theta - np.array(self.b))

  def value(self, theta: float) -> float:
    """The mean of M_r; where the loss is quadratic."""
    a = np.array(self.a)
    end = self.rho * (theta - np.array(self.b) / a)
    return float(np.mean(a * end**2 / 2))

  @property
  def theta_fo(self) -> float:
    """Where first-order descent ends."""
    return self._zero(self.rho)

  @property
  def theta_star(self) -> float:
    """The minimiser."""
    return self._zero(self.rho**2)

  def _zero(self, weights: np.ndarray) -> float:
    return float(weights @ np.array(self.b) / (weights @ np.array(self.a)))

  @property
  def constants(self) -> dict[str, float]:
    """L1, L2 and M1 as in `bounds`."""
    largest = max(self.a)
    return {'L1': largest * (0.5 + self.A), 'L2': largest, 'M1': 1.0}

  def predicted(self, q: float, step: float, k: int) -> float:
    """E (dM/dtheta)^2 after k outer steps of size step / (index + 1).

    Robbins and Monro's limit: h^2 c^2 s2 / ((2 c h - 1) k), with curvature h at
    theta*, c the step and s2 the second moment of G there; for q = 0, 2 D.

    Raises:
      ValueError: 2 c h is at most 1, where the limit is another.
    """
    if q == 0:
      return float(self.gradients(self.theta_fo).mean() ** 2)
    h = float(np.mean(np.array(self.a) * self.rho**2))
    if 2 * step * h <= 1:
      raise ValueError(f'2 step h must exceed 1, got {step=} {h=}')
    exact = self.gradients(self.theta_star)
    gap = exact - self.gradients(self.theta_star, first_order=True)
    s2 = np.mean(exact**2) + (1 / q - 1) * np.mean(gap**2)
    return float(h**2 * step**2 * s2 / ((2 * step * h - 1) * k))


def counterexample(
  r: int = 10,
  alpha: float = 0.1,
  a1: float = 0.5,
  a2: float = 1.5,
  D: float = 0.06,
) -> Tasks:
  """Tasks on which FOM ends with E (dM/dtheta)^2 = 2 D; the published ones.

  Args:
    r: number of inner steps.
    alpha: inner learning rate, 0 < alpha a < 1.
    a1: curvature of one task.
    a2: curvature of the other.
    D: half of the squared gradient in the end.

  Raises:
    ValueError: the curvatures or r make both tasks contract alike, or a value
      is out of range.
  """
  if a1 == a2 or r < 1 or not D > 0:
    raise ValueError(
      f'a1 != a2, r >= 1 and D > 0 are needed, got {a1=} {a2=} {r=} {D=}'
    )
  rho1, rho2 = (1 - alpha * a1) ** r, (1 - alpha * a2) ** r
  b2 = 2 * math.sqrt(2 * D) * (a1 * rho1 + a2 * rho2)
  b2 /= a1 * rho1 * rho2 * abs(rho1 - rho2)
  return Tasks((a1, a2), (0.0, b2), b2 / a2 + 1, r, alpha)


def study(alpha: float, r: int = 10) -> Tasks:
  """The tasks of the published study of q against alpha."""
  return Tasks((0.5, 1.5), (0.0, 10.0), 400.0, r, alpha)


def descend(
  tasks: Tasks,
  *,
  q: float | Float[Array, ''],
  key: Key[Array, ''],
  runs: int,
  steps: int,
  step: float,
  starts: tuple[float, float],
  every: int | None = None,
) -> Float[Array, 'records runs']:
  """Runs of outer SGD with step sizes step / (k + 1), many at once.

  Args:
    tasks: each step draws one of the two.
    q: probability of exact gradients.
    key: of starts, tasks and xi.
    runs: number of runs.
    steps: number of steps of each run.
    step: size of the first step.
    starts: ends of the interval from which theta_0 is drawn.
    every: steps from one record to the next; None: only the end.

  Returns:
    Theta of each run after each `every` steps.

  Raises:
    ValueError: every does not divide steps.
  """
  every = every or steps
  if steps % every:
    raise ValueError(f'every must divide steps, got {every=} {steps=}')
  first = jax.random.uniform(
    jax.random.fold_in(key, 0), (runs,), minval=starts[0], maxval=starts[1]
  )
  # The program knows neither alpha nor q, so that studies compile it once.
  shape = dataclasses.replace(tasks, alpha=min(0.5 / a for a in tasks.a))
  scalars = (tasks.alpha, q, step)
  return _descend(
    shape, tuple(map(jnp.float32, scalars)), key, first, (steps // every, every)
  )


@functools.partial(jax.jit, static_argnums=(0, 4))
def _descend(
  tasks: Tasks,
  scalars: tuple[Any, Any, Any],
  key: Key[Array, ''],
  first: Float[Array, ' runs'],
  sizes: tuple[int, int],
) -> Float[Array, 'records runs']:
  alpha, q, step = scalars
  records, every = sizes
  inner = estimator.Inner(tasks.r, alpha, mode='store')
  task_key, xi_key = jax.random.split(jax.random.fold_in(key, 1))

  def gradient(
    theta: Float[Array, ''], task: Integer[Array, ''], key: Key[Array, '']
  ) -> Float[Array, '']:
    # Two numbers: under vmap both branches run, and cost nothing.
    return estimator.ufom_grad(tasks.problem, theta, task, key, q, inner).grad

  def body(k: Integer[Array, ''], theta: Any) -> Any:
    of_step = lambda key: jax.random.fold_in(key, k)
    drawn = jax.random.bernoulli(of_step(task_key), shape=theta.shape)
    keys = jax.random.split(of_step(xi_key), len(theta))
    slopes = jax.vmap(gradient)(theta, drawn.astype(jnp.int32), keys)
    return theta - step / (k + 1) * slopes

  def record(theta: Any, i: Integer[Array, '']) -> tuple[Any, Any]:
    theta = jax.lax.fori_loop(i * every, (i + 1) * every, body, theta)
    return theta, theta

  return jax.lax.scan(record, first, jnp.arange(records))[1]


@functools.partial(
  jax.jit,
  static_argnums=(0, 1),
  static_argnames=('runs', 'steps', 'step', 'starts', 'every'),
)
def descend_adaptively(
  tasks: Tasks,
  rule: adaptive.AdaptiveRule,
  *,
  key: Key[Array, ''],
  runs: int,
  steps: int,
  step: float,
  starts: tuple[float, float],
  every: int,
) -> tuple[Float[Array, 'records runs'], ...]:
  """Runs of outer SGD as `descend`, each of which adapts its own q.

  Args:
    tasks: as for `descend`, like all arguments but the next.
    rule: of q.
    key: of starts, tasks and xi.
    runs: number of runs.
    steps: number of steps of each run.
    step: size of the first step.
    starts: ends of the interval from which theta_0 is drawn.
    every: steps from one record to the next.

  Returns:
    Theta, the number of exact gradients so far, and q of the step before.
  """
  inner = estimator.Inner(tasks.r, tasks.alpha, mode='store')
  first = jax.random.uniform(
    jax.random.fold_in(key, 0), (runs,), minval=starts[0], maxval=starts[1]
  )
  averages = jax.vmap(lambda _: rule.init())(first)

  def one(theta: Any, averages: Any, key: Key[Array, '']) -> Any:
    task_key, xi_key = jax.random.split(key)
    task = jax.random.bernoulli(task_key).astype(jnp.int32)
    q = rule.q(averages)
    found = estimator.ufom_grad(tasks.problem, theta, task, xi_key, q, inner)
    return found.grad, rule.update(averages, found, q), found.xi, q

  def body(k: Integer[Array, ''], state: Any) -> Any:
    theta, averages, count, _ = state
    keys = jax.random.split(jax.random.fold_in(key, k + 1), runs)
    grad, averages, xi, q = jax.vmap(one)(theta, averages, keys)
    return theta - step / (k + 1) * grad, averages, count + xi, q

  def record(state: Any, i: Integer[Array, '']) -> tuple[Any, Any]:
    state = jax.lax.fori_loop(i * every, (i + 1) * every, body, state)
    theta, _, count, q = state
    return state, (theta, count, q)

  state = first, averages, jnp.zeros(runs), jnp.zeros(runs)
  return jax.lax.scan(record, state, jnp.arange(steps // every))[1]
