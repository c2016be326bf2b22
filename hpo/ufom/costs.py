"""The cost of gradients, in evaluations of the inner gradient.

A task costs c_det = r + 1 always and c_rnd more if xi = 1. A second-order product
counts c_H: 1 in the published accounting, about 2 when measured with products
found forward over reverse.
"""

from typing import Any, NamedTuple

import flax
import jax.numpy as jnp
import numpy as np

from hpo.ufom import exact

__all__ = ['Cost', 'Telemetry', 'cost']


class Cost(NamedTuple):
  """Gradient evaluations of a task.

  Attributes:
    det: always.
    rnd: in addition, for an exact gradient.
    expected: det + q rnd.
  """

  det: float
  rnd: float
  expected: Any


def cost(
  r: int, q: Any = 1.0, mode: exact.Mode = 'recompute', c_H: float | int = 1.0
) -> Cost:
  """The cost of UFOM's gradient of one task.

  Args:
    r: number of inner steps.
    q: probability of an exact gradient, a number or an array.
    mode: of exact gradients.
    c_H: gradients that a second-order product counts.

  Raises:
    ValueError: r is negative, c_H not positive or the mode unknown.
  """
  if r < 0 or not c_H > 0:
    raise ValueError(f'r must be at least 0, c_H positive, got {r=} {c_H=}')
  if mode not in exact.MODES:
    raise ValueError(f'mode must be one of {exact.MODES}, got {mode!r}')
  again = {'recompute': r * (r - 1) / 2, 'sqrt': r}.get(mode, 0)
  det, rnd = r + 1.0, again + c_H * r
  return Cost(det, rnd, det + q * rnd)


@flax.struct.dataclass
class Telemetry:
  """The tasks that a run has done so far, in int32.

  Attributes:
    first_order: tasks done, each for c_det.
    exact: of those, with an exact gradient, for c_rnd more.
  """

  first_order: Any
  exact: Any

  @classmethod
  def zero(cls) -> 'Telemetry':
    """Nothing spent."""
    return cls(jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32))

  def add(self, xi: Any) -> 'Telemetry':
    """After a batch of tasks with these xi, bool [b]."""
    return type(self)(self.first_order + xi.size, self.exact + xi.sum())

  def gradients(self, price: Cost) -> Any:
    """Gradient evaluations in all, float32."""
    det = self.first_order.astype(np.float32) * price.det
    return det + self.exact.astype(np.float32) * price.rnd
