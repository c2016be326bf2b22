"""Environments of gymnax (1.0 and later)."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key, PyTree, Shaped

from rl.envs import foreign_spaces, protocol, spaces
from runtime import optional

__all__ = ['GymnaxEnvironment', 'make']


@dataclasses.dataclass(frozen=True, eq=False)
class GymnaxEnvironment:
  """A gymnax environment as a `protocol.Environment`.

  Steps are taken by `step_env`, which neither resets nor counts: both are the
  lanes' work. Earlier versions mix the time limit into the end of the task
  there and are refused. Compared by identity: build it once.

  Attributes:
    env: the gymnax environment.
    params: its parameters.

  Raises:
    ValueError: if the environment is of an earlier version, or has a space
      other than Box and Discrete.
  """

  env: Any
  params: Any

  def __post_init__(self) -> None:
    if not hasattr(self.env, 'is_truncated'):
      raise ValueError(
        'env must keep truncation apart from termination (gymnax 1.0 or '
        f'later), got {self.env!r}'
      )
    # Here and once: gymnax makes bounds by JAX, which are tracers under jit.
    with jax.ensure_compile_time_eval():
      for name in ('observation_space', 'action_space'):
        getattr(self, name)

  @functools.cached_property
  def observation_space(self) -> spaces.Space:
    """The space of gymnax, converted."""
    return foreign_spaces.convert(self.env.observation_space(self.params))

  @functools.cached_property
  def action_space(self) -> spaces.Space:
    """The space of gymnax, converted."""
    return foreign_spaces.convert(self.env.action_space(self.params))

  @property
  def max_steps(self) -> int:
    """The time limit of the parameters."""
    return int(self.params.max_steps_in_episode)

  def reset(self, key: Key[Array, '']) -> tuple[PyTree, Shaped[Array, '...']]:
    """Resets by `reset_env`."""
    observation, state = self.env.reset_env(key, self.params)
    return state, jnp.asarray(observation, self.observation_space.dtype)

  def step(
    self, state: PyTree, action: Any, key: Key[Array, '']
  ) -> tuple[PyTree, protocol.Step]:
    """Steps by `step_env`."""
    observation, state, reward, terminated, info = self.env.step_env(
      key, state, action, self.params
    )
    return state, protocol.Step(
      jnp.asarray(observation, self.observation_space.dtype),
      jnp.asarray(reward, jnp.float32),
      jnp.asarray(terminated, bool),
      dict(info),
    )


def make(name: str) -> GymnaxEnvironment:
  """Builds an environment of gymnax with its default parameters.

  Raises:
    ImportError: if gymnax is not installed, naming the extra.
  """
  return GymnaxEnvironment(*optional.load('gymnax', extra='rl').make(name))
