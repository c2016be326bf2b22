"""PPO, fitted to a task."""

import dataclasses
import math

import jax.numpy as jnp

from rl import learner as learner_lib
from rl.envs import spaces
from rl.ppo import learner as ppo_lib
from rl.ppo import networks, settings

__all__ = ['PPO']


@dataclasses.dataclass(frozen=True)
class PPO(settings.Settings):
  """Proximal policy optimisation (arXiv:1707.06347).

  The attributes are those of `settings.Settings`.
  """

  def learner(
    self,
    observation_space: spaces.Space,
    action_space: spaces.Space,
    num_lanes: int,
  ) -> learner_lib.Learner:
    """See `learner.Algorithm`.

    Raises:
      ValueError: if continuous actions are not floats, observations to be
        normalised are not, or minibatches do not share out what there is.
    """
    discrete = isinstance(action_space, spaces.Discrete)
    if not discrete and not jnp.issubdtype(action_space.dtype, jnp.floating):
      raise ValueError(
        f'PPO needs discrete actions or a box of floats, got {action_space}'
      )
    if self.normalize_observations and not jnp.issubdtype(
      observation_space.dtype, jnp.floating
    ):
      raise ValueError(
        'normalize_observations needs observations of floats, got '
        f'{observation_space}'
      )
    self._check_minibatches(num_lanes)
    size = action_space.n if discrete else math.prod(action_space.shape)
    network = networks.ActorCritic(
      size,
      discrete,
      self.encoder,
      self.core,
      self.separate,
      self.policy_init,
      self.value_init,
      self.log_std,
    )
    return ppo_lib.PPOLearner(
      network, self, observation_space, action_space, num_lanes
    )

  def _check_minibatches(self, num_lanes: int) -> None:
    units = num_lanes * (1 if self.core is not None else self.unroll_length)
    what = 'lanes, as the agent is recurrent,' if self.core else 'steps'
    if units % self.num_minibatches:
      raise ValueError(
        f'num_minibatches must divide the {what} of an iteration, got '
        f'{self.num_minibatches=} for {units} {num_lanes=}'
      )
