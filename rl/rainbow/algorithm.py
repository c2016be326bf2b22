"""Rainbow, fitted to a task."""

import dataclasses
from typing import Any

from flax import linen as nn

from rl import learner as learner_lib
from rl.envs import spaces
from rl.rainbow import learner as rainbow_lib
from rl.rainbow import networks, schedules, settings
from rl.replay import buffer, sizes

__all__ = ['Rainbow', 'procgen']


@dataclasses.dataclass(frozen=True)
class Rainbow(settings.Settings):
  """C51 with double Q, dueling streams, n steps and prioritised replay.

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
      ValueError: if actions are not discrete, the replay cannot hold an
        iteration, or an iteration is not a whole number of updates.
    """
    if not isinstance(action_space, spaces.Discrete):
      raise ValueError(f'Rainbow needs discrete actions, got {action_space}')
    replay = self._replay(num_lanes)
    sizes.check_room(self.min_replay, replay.length * num_lanes)
    samples = self.samples_per_insert * num_lanes * self.unroll_length
    network = networks.Distributions(
      self.encoder,
      action_space.n,
      self.num_atoms,
      self.hidden,
      self.dueling,
      self.noisy,
    )
    return rainbow_lib.RainbowLearner(
      network,
      replay,
      settings=self,
      num_updates=sizes.updates(samples, self.batch_size),
      observation_space=observation_space,
      action_space=action_space,
    )

  def _replay(self, num_lanes: int) -> buffer.Replay:
    return buffer.Replay(
      sizes.rows(
        self.capacity, num_lanes=num_lanes, unroll_length=self.unroll_length
      ),
      num_lanes,
      self.unroll_length,
      n_step=self.n_step,
      discount=self.discount,
      exponent=self.priority_exponent if self.prioritized else 0.0,
      initial_priority=self.initial_priority if self.prioritized else 1.0,
    )


def procgen(encoder: nn.Module | None, **changes: Any) -> Rainbow:
  """The published settings for Procgen, 25 M steps in 4 lanes.

  Divide rewards by the game's largest return (`reward_scale`): the support is
  [0, 1], so a game with negative returns needs another `v_min`. With 4 lanes an
  iteration is 16 steps each, and one update.

  Args:
    encoder: the published one has five IMPALA stages of 64 channels.
    **changes: of these settings.

  Returns:
    The settings.

  Reference: arXiv:2106.02229, the code of its authors
    (google/brain_autorl, rl_darts/algorithms/rainbow).
  """
  published = {
    'encoder': encoder,
    'hidden': (512,),
    'v_min': 0.0,
    'v_max': 1.0,
    'priority_exponent': 0.8,
    'weight_exponent': 0.2,
    'initial_priority': 4.0,
    'n_step': 7,
    'reward_clip': 1.0,
    'capacity': 500_000,
    'min_replay': 10_000,
    'samples_per_insert': 4.0,
    'batch_size': 256,
    'target_interval': 500,
    'learning_rate': 5e-5,
    'epsilon': schedules.Powers(),
    'unroll_length': 16,
  }
  return Rainbow(**{**published, **changes})
