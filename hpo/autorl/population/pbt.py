"""Population-based training: truncation selection, random changes of settings.

After each round the worst fifth of the members copies weights, optimiser and
settings of members of the best fifth. Each copied setting is then multiplied by
0.8 or 1.2, or is drawn anew with the chance 1/4.

Reference: Jaderberg et al. (2017), arXiv:1711.09846, Sections 3 and 4.1.
"""

import dataclasses
from typing import Any

import flax
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from hpo import spaces
from hpo.autorl import traced
from hpo.autorl.population import exploit, protocol
from rl import ranges

__all__ = ['PBT', 'PBTState']


@flax.struct.dataclass
class PBTState:
  """The state of the method.

  Attributes:
    codes: settings of the next round, float32 [n, d].
  """

  codes: Any


@dataclasses.dataclass(frozen=True)
class PBT:
  """See the module; a `protocol.Method`.

  Attributes:
    space: of the settings.
    share: of the members that are replaced; published: 0.2.
    resample: chance that a copied setting is drawn anew; published: 0.25.
    factors: by one of which a copied setting is multiplied otherwise; published:
      0.8 and 1.2. Whole numbers move by one at least, listed numbers to a
      neighbour; categories stay.

  Raises:
    ValueError: a number is out of range.
  """

  space: spaces.Space
  share: float = 0.2
  resample: float = 0.25
  factors: tuple[float, float] = (0.8, 1.2)

  def __post_init__(self) -> None:
    ranges.check_shares(resample=self.resample)
    check_share(self.share)
    low, high = self.factors
    if not 0 < low < 1 < high:
      raise ValueError(
        f'one factor must lie below 1 and one above it, got {self.factors=}'
      )

  def init(self, key: Key[Array, ''], size: int, rounds: int) -> PBTState:
    """See `protocol.Method`."""
    del rounds
    return PBTState(traced.sample(self.space, key, (size,)))

  def step(
    self, state: PBTState, scores: Float[Array, ' n'], key: Key[Array, '']
  ) -> protocol.Step:
    """See `protocol.Method`."""
    first, second = jax.random.split(key)
    parents = exploit.truncation(first, scores, self.share)
    is_copy = parents != jnp.arange(len(parents))
    codes = state.codes[parents]
    explored = self.explore(second, codes)
    codes = jnp.where(is_copy[:, None], explored, codes)
    return protocol.Step(PBTState(codes), parents)

  def explore(
    self, key: Key[Array, ''], codes: Float[Array, 'n d']
  ) -> Float[Array, 'n d']:
    """Changes settings: perturbs each, or draws it anew.

    Args:
      key: of the draws.
      codes: of copied members.
    """
    keys = jax.random.split(key, 3)
    is_up = jax.random.bernoulli(keys[0], shape=codes.shape)
    moved = [
      self._perturbed(p, codes[:, i], is_up[:, i])
      for i, p in enumerate(self.space.parameters)
    ]
    anew = jax.random.bernoulli(keys[1], self.resample, codes.shape)
    fresh = traced.sample(self.space, keys[2], codes.shape[:1])
    return jnp.where(anew, fresh, jnp.stack(moved, axis=-1))

  def _perturbed(self, p: spaces.Parameter, x: Array, is_up: Array) -> Array:
    low, high = self.factors
    scaled = x * jnp.where(is_up, high, low)
    step = jnp.where(is_up, 1, -1)
    if isinstance(p, spaces.Float):
      return jnp.clip(scaled, p.low, p.high)
    if isinstance(p, spaces.Int):
      scaled = jnp.round(scaled)
      return jnp.clip(jnp.where(scaled == x, x + step, scaled), p.low, p.high)
    if isinstance(p, spaces.Discrete):
      return jnp.clip(x + step, 0, len(p.values) - 1)
    return x


def check_share(share: float) -> None:
  """Raises ValueError unless a share of the members can copy another one."""
  if not 0 < share <= 0.5:
    raise ValueError(f'share must lie above 0 and at most 1/2, got {share=}')
