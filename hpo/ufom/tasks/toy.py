"""Two one-dimensional tasks on which first-order descent goes astray."""

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Key

from hpo.ufom import estimator, synthetic, training
from hpo.ufom import problem as problem_lib

__all__ = ['Toy', 'harmonic']


def harmonic(scale: float) -> optax.Schedule:
  """The published outer steps, scale / (k + 1)."""
  return lambda count: scale / (count + 1)


@dataclasses.dataclass(frozen=True)
class Toy:
  """The counter-example of `synthetic`, one theta.

  Attributes:
    tasks: the two tasks.
    starts: ends of the interval of theta_0.
  """

  tasks: synthetic.Tasks = dataclasses.field(
    default_factory=synthetic.counterexample
  )
  starts: tuple[float, float] = (-10.0, 30.0)

  @property
  def scores(self) -> tuple[str, ...]:
    """See `training.Family`."""
    return 'slope', 'objective', 'distance'

  @property
  def problem(self) -> problem_lib.ABLOProblem:
    """A task holds its `number`."""
    loss = lambda theta, phi, task: self.tasks.loss(phi, task['number'])
    return problem_lib.ABLOProblem(lambda theta, task: theta, loss, loss)

  def init(self, key: Key[Array, '']) -> Float[Array, '']:
    """Uniform."""
    low, high = self.starts
    return jax.random.uniform(key, minval=low, maxval=high)

  def sample(
    self, rng: np.random.Generator, count: int
  ) -> dict[str, np.ndarray]:
    """Each of the two with one half."""
    return {'number': rng.integers(2, size=count).astype(np.int32)}

  def evaluators(
    self, inner: estimator.Inner
  ) -> Mapping[str, training.Evaluate]:
    """|dM / dtheta| and M.

    Raises:
      ValueError: the inner loop is not that of the tasks.
    """
    if (inner.r, inner.alpha) != (self.tasks.r, self.tasks.alpha):
      raise ValueError(
        'the inner loop must be that of the tasks, got '
        f'{inner.r=} {inner.alpha=} {self.tasks.r=} {self.tasks.alpha=}'
      )
    exact = jax.jit(
      lambda theta: jax.vmap(
        lambda number: inner.exact(self.problem, theta, {'number': number})
      )(jnp.arange(2))
    )

    def judge(theta: Float[Array, '']) -> dict[str, float]:
      found = jax.device_get(exact(theta))
      return {
        'slope': abs(float(found.grad.mean())),
        'objective': float(found.value.mean()),
        'distance': abs(float(theta) - self.tasks.theta_star),
      }

    return {'true': judge}
