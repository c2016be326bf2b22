"""SAC, fitted to a task."""

import dataclasses
import math

import jax.numpy as jnp

from rl import learner as learner_lib
from rl.envs import spaces
from rl.replay import buffer, sizes
from rl.sac import learner as sac_lib
from rl.sac import networks, settings

__all__ = ['SAC']


@dataclasses.dataclass(frozen=True)
class SAC(settings.Settings):
  """Soft actor-critic (arXiv:1812.05905).

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
      ValueError: if actions are not a bounded box of floats, the replay cannot
        hold an iteration, or an iteration is not a whole number of updates.
    """
    box = action_space
    if not (
      isinstance(box, spaces.Box)
      and box.bounded
      and jnp.issubdtype(box.dtype, jnp.floating)
    ):
      raise ValueError(f'SAC needs a bounded box of floats, got {box}')
    length = sizes.rows(
      self.capacity, num_lanes=num_lanes, unroll_length=self.unroll_length
    )
    sizes.check_room(self.min_replay, length * num_lanes)
    size = math.prod(box.shape)
    steps = num_lanes * self.unroll_length
    return sac_lib.SACLearner(
      networks.Policy(size, self.hidden, self.encoder),
      networks.Critic(self.hidden, self.encoder),
      buffer.Replay(
        length, num_lanes, self.unroll_length, discount=self.discount
      ),
      settings=self,
      num_updates=sizes.updates(self.updates_per_step * steps, 1),
      observation_space=observation_space,
      action_space=box,
    )
