"""Inner loops for tests of populations."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from hpo import spaces
from hpo.autorl import inner
from rl import networks, ppo

LINE = spaces.Space((spaces.Float('x', 0.0, 1.0),))
MIXED = spaces.Space(
  (
    spaces.Float('x', 0.0, 1.0),
    spaces.Float('lr', 1e-4, 1.0, 'LOG'),
    spaces.Int('layers', 1, 8),
    spaces.Discrete('rate', (0.1, 0.5, 0.9)),
    spaces.Categorical('kind', ('a', 'b', 'c')),
  )
)


def small_ppo(**settings):
  """An agent that is compiled soon."""
  settings = {'unroll_length': 8, 'num_minibatches': 2} | settings
  return ppo.PPO(encoder=networks.MLP((8,)), **settings)


@dataclasses.dataclass(frozen=True)
class Climb:
  """Each update adds a gain that is largest at a place; copies keep the sum.

  Attributes:
    place: of x.
    kind: code of the category that gives the gain; None: any.
    noise: deviation.
  """

  place: float = 0.7
  kind: int | None = None
  noise: float = 0.0

  steps = 1

  def init(self, key: Any) -> dict[str, Any]:
    """A sum, and an optimiser's state that must be copied with it."""
    return {'total': jnp.float32(0), 'moments': jax.random.normal(key, (3,))}

  def update(self, state: Any, zeta: Any, key: Any) -> inner.Update:
    """See `inner.Inner`."""
    gain = jnp.exp(-20 * (zeta['x'] - self.place) ** 2)
    if self.kind is not None:
      gain = jnp.where(zeta['kind'] == self.kind, gain, 0.1 * gain)
    total = state['total'] + gain + self.noise * jax.random.normal(key)
    moments = 0.9 * state['moments'] + total
    state = {'total': total, 'moments': moments}
    return inner.Update(state, total, {'gain': gain})

  def evaluate(self, state: Any, key: Any) -> Any:
    """See `inner.Inner`."""
    del key
    return state['total']
