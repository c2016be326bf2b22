"""q that follows the measured bias: adaptive UFOM.

Averages D of ||grad M - g_FO||^2 and V of ||grad M||^2 over the exact gradients
seen so far, with decay beta and without the bias of starting at zero, give the
next q = max(q_min, q*(D, V)). It depends on the past only, so G stays unbiased.

Source: arXiv:2106.02487, Section 4. The published code forms its average of D
from the corrected gradient instead of g_FO, which gives (1 / q - 1)^2 times the
value, and divides that by 10; `reference_quirk` does the same.
"""

import dataclasses
from typing import Any

import flax
import jax.numpy as jnp
from jaxtyping import Array, Float

from hpo.ufom import batches, costs, optimal

__all__ = ['AdaptiveQ', 'AdaptiveRule']


@flax.struct.dataclass
class AdaptiveQ:
  """The averages so far.

  Attributes:
    D_s: of squared biases, not yet corrected for its start, of JAX's default
      float type.
    V_s: of squared gradients, likewise.
    n: updates so far, int32.
  """

  D_s: Any
  V_s: Any
  n: Any

  def means(self, beta: float) -> tuple[Float[Array, ''], Float[Array, '']]:
    """D and V, corrected for the start; 0 before the first update."""
    # 1 - beta^n loses three digits in float32 where beta is near 1.
    share = -jnp.expm1(jnp.maximum(self.n, 1) * jnp.log1p(beta - 1))
    return self.D_s / share, self.V_s / share


@dataclasses.dataclass(frozen=True)
class AdaptiveRule:
  """The rule by which q follows the averages.

  Attributes:
    r: number of inner steps; with `mode` and `product_cost` it gives the costs.
    mode: of exact gradients.
    product_cost: c_H of `costs.cost`.
    beta: decay of the averages per update.
    q_min: least q, and the first one.
    p: exponent of `optimal.optimal_q`.
    reference_quirk: average the same values as the published code.

  Raises:
    ValueError: beta lies outside [0, 1) or q_min outside (0, 1].
  """

  r: int
  mode: str = 'recompute'
  product_cost: float = 1.0
  beta: float = 0.99
  q_min: float = 0.05
  p: float = 2.0
  reference_quirk: bool = False

  def __post_init__(self) -> None:
    if not 0 <= self.beta < 1 or not 0 < self.q_min <= 1:
      raise ValueError(
        'beta must lie in [0, 1) and q_min in (0, 1], '
        f'got {self.beta=} {self.q_min=}'
      )

  def init(self) -> AdaptiveQ:
    """Before the first exact gradient."""
    zero = jnp.zeros(())
    return AdaptiveQ(zero, zero, jnp.zeros((), jnp.int32))

  def q(self, state: AdaptiveQ) -> Float[Array, '']:
    """The next q."""
    price = costs.cost(self.r, mode=self.mode, c_H=self.product_cost)
    D2, V2 = state.means(self.beta)
    best = optimal.optimal_q(D2, V2, price.det, price.rnd, self.p)
    return jnp.where(state.n == 0, self.q_min, jnp.maximum(best, self.q_min))

  def update(
    self, state: AdaptiveQ, found: batches.BatchEstimate | Any, q: Any
  ) -> AdaptiveQ:
    """After an outer step with probability q.

    Args:
      state: before it.
      found: a `BatchEstimate` or `Estimate`; without any xi it changes nothing.
      q: with which it was drawn.
    """
    gap = found.gap_norm2
    if self.reference_quirk:
      gap = (1 / q - 1) ** 2 * gap / 10
    ema = lambda old, new: self.beta * old + (1 - self.beta) * new
    any_exact = jnp.any(found.xi)
    pick = lambda new, old: jnp.where(any_exact, new, old)
    return AdaptiveQ(
      pick(ema(state.D_s, gap), state.D_s),
      pick(ema(state.V_s, found.exact_norm2), state.V_s),
      state.n + any_exact,
    )
