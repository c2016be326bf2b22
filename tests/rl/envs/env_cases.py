"""A scripted environment whose every number is known beforehand."""

import dataclasses

import jax
import jax.numpy as jnp

from rl.envs import protocol, spaces


@dataclasses.dataclass(frozen=True)
class Scripted:
  """Observes (episode tag, steps so far); ends after `length` steps.

  The tag is drawn at reset, so that observations of different episodes differ.
  Step t gives reward t + action; a length of 0 never ends.
  """

  length: int = 3
  max_steps: int = 5

  @property
  def observation_space(self):
    return spaces.Box((2,), 0.0, 1e9)

  @property
  def action_space(self):
    return spaces.Box((), -1.0, 1.0)

  def reset(self, key):
    tag = jax.random.randint(key, (), 1, 1 << 20).astype(jnp.float32)
    state = jnp.stack([tag, 0.0])
    return state, state

  def step(self, state, action, key):
    state = state + jnp.array([0.0, 1.0])
    noise = jax.random.uniform(key)
    ends = state[1] == self.length
    info = {'noise': noise}
    return state, protocol.Step(state, state[1] + action, ends, info)
