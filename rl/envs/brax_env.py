"""Environments of brax."""

import dataclasses
import math
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float, Key, PyTree

from rl.envs import protocol, spaces
from runtime import optional

__all__ = ['BraxEnvironment', 'make']


@dataclasses.dataclass(frozen=True, eq=False)
class BraxEnvironment:
  """A brax environment as a `protocol.Environment`.

  Takes the bare environment: brax's wrappers for episodes, resets and batches
  do what lanes do. Compared by identity: build it once.

  Attributes:
    env: the brax environment.
    max_steps: time limit.

  Raises:
    ValueError: if the environment is wrapped, or observes more than one array.
  """

  env: Any
  max_steps: int = 1000

  def __post_init__(self) -> None:
    if self.env.unwrapped is not self.env:
      raise ValueError(
        f'env must be without wrappers (env.unwrapped), got {self.env!r}'
      )
    if not isinstance(self.env.observation_size, int):
      raise ValueError(
        f'env must observe one array, got {self.env.observation_size=}'
      )

  @property
  def observation_space(self) -> spaces.Space:
    """Any numbers."""
    return spaces.Box((self.env.observation_size,), -math.inf, math.inf)

  @property
  def action_space(self) -> spaces.Space:
    """From -1 to 1 for each actuator."""
    return spaces.Box((self.env.action_size,), -1.0, 1.0)

  def reset(self, key: Key[Array, '']) -> tuple[PyTree, Float[Array, ' n']]:
    """Resets the physics."""
    state = self.env.reset(key)
    return state, state.obs

  def step(
    self, state: PyTree, action: Float[Array, ' m'], key: Key[Array, '']
  ) -> tuple[PyTree, protocol.Step]:
    """Steps the physics, which draw nothing from the key."""
    del key
    state = self.env.step(state, action)
    reward = jnp.asarray(state.reward, jnp.float32)
    step = protocol.Step(state.obs, reward, state.done > 0.5, {})
    return state, step


def make(
  name: str, *, max_steps: int = 1000, **options: Any
) -> BraxEnvironment:
  """Builds an environment of brax.

  Args:
    name: such as 'ant'.
    max_steps: time limit.
    **options: such as backend='spring', for the environment.

  Raises:
    ImportError: if brax is not installed, naming the extra.
  """
  env = optional.load('brax.envs', extra='brax').get_environment(
    name, **options
  )
  return BraxEnvironment(env, max_steps)
