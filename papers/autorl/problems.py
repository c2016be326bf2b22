"""What the rows tune: PPO that swings a pole up."""

from hpo import spaces
from hpo.autorl import agents
from rl import networks, ppo
from rl.envs import cartpole, lanes

__all__ = ['SPACE', 'TEXT', 'swing_up']

_LANES, _UNROLL = 16, 64
SPACE = spaces.Space(
  (
    spaces.Float('learning_rate', 1e-5, 1e-1, 'LOG'),
    spaces.Float('entropy_cost', 1e-4, 0.3, 'LOG'),
    spaces.Float('clip_ratio', 0.02, 0.5, 'LOG'),
  )
)
TEXT = (
  'PPO with two layers of 32 units, 16 lanes and 64 steps per iteration, 4 epochs '
  'of 4 minibatches, discount 0.99; the pole hangs at first, and an episode of 500 '
  'steps gives at most 500. Tuned are learning rate (1e-5 to 0.1), entropy cost '
  '(1e-4 to 0.3) and clip ratio (0.02 to 0.5), all log-uniform at first.'
)


def swing_up(iterations: int) -> agents.Agent:
  """The agent.

  Args:
    iterations: of 1024 environment steps, in an update.
  """
  algorithm = ppo.PPO(
    encoder=networks.MLP((32, 32)),
    separate=True,
    value_init=networks.orthogonal(1.0),
    unroll_length=_UNROLL,
    num_minibatches=4,
    num_epochs=4,
    discount=0.99,
    value_clip=None,
  )
  make = lambda count: lanes.Lanes(cartpole.CartPoleSwingUp(), count)
  return agents.Agent(algorithm, make(_LANES), make(64), iterations)
