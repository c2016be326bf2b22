"""Small environments and functions with known answers."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp

from rl.envs import protocol, spaces
from rl.es import evaluator, population


class DriftState(NamedTuple):
  position: jax.Array
  step: jax.Array


@dataclasses.dataclass(frozen=True)
class Drift:
  """x' = x + a + noise, reward -x'^2; ends where |x| > bound."""

  max_steps: int = 7
  bound: float = 1.5
  noise: float = 0.3

  @property
  def observation_space(self):
    return spaces.Box((2,), -100.0, 100.0)

  @property
  def action_space(self):
    return spaces.Box((1,), -1.0, 1.0)

  def reset(self, key):
    position = jax.random.uniform(key, (), minval=-1.0, maxval=1.0)
    state = DriftState(position, jnp.zeros((), jnp.int32))
    return state, self._observe(state)

  def step(self, state, action, key):
    noise = self.noise * jax.random.normal(key)
    position = state.position + action[0] + noise
    new = DriftState(position, state.step + 1)
    ended = jnp.abs(position) > self.bound
    # Whoever goes on after the end meets infinity.
    position = jnp.where(
      jnp.abs(state.position) > self.bound, jnp.inf, position
    )
    new = new._replace(position=position)
    return new, protocol.Step(self._observe(new), -(position**2), ended, {})

  def _observe(self, state):
    return jnp.stack([state.position, state.step.astype(jnp.float32) + 5.0])


@dataclasses.dataclass(frozen=True)
class Function:
  """An evaluator of f(theta); `lost` marks members that never come back."""

  function: object
  lost: object = None
  pure = True
  observation_shape = ()

  def close(self):
    pass

  def evaluate(self, candidates, keys, normalizer):
    thetas = population.all_members(candidates, keys.shape[0])
    returns = jax.vmap(self.function)(thetas)
    valid = jnp.ones(returns.shape, bool)
    if self.lost is not None:
      valid = ~self.lost(keys, returns)
      returns = jnp.where(valid, returns, jnp.nan)
    lengths = jnp.ones(returns.shape, jnp.int32)
    return evaluator.Evaluation(returns, lengths, None, valid)
