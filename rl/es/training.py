"""Evolution strategies in the training loop."""

import dataclasses

import jax.numpy as jnp
import optax

from rl.es import geometry, policy_training, strategy

__all__ = ['ESTrainer', 'check_descends']


def check_descends(optimizer: optax.GradientTransformation) -> None:
  """Rejects an optimiser that climbs.

  Its settings cannot be read, since they are closed over: it is tried.

  Raises:
    ValueError: naming its update for a gradient of 1.
  """
  one, zero = jnp.ones(1), jnp.zeros(1)
  update, _ = optimizer.update(one, optimizer.init(zero), zero)
  if update[0] > 0:
    raise ValueError(
      'learning_rate must not be negative: optimizer must descend, got an '
      f'update of {update[0]} for a gradient of 1'
    )


@dataclasses.dataclass(frozen=True)
class ESTrainer(policy_training.PolicyTrainer):
  """Trains a policy by an evolution strategy; a `runtime.trainer.Trainer`.

  Attributes:
    config: settings of a generation.
    optimizer: from optax; see `strategy.Strategy`.

  Raises:
    ValueError: if a number is out of range, the optimiser climbs what it should
      descend, or observations cannot be normalised.
  """

  config: strategy.ESConfig
  optimizer: optax.GradientTransformation

  def __post_init__(self) -> None:
    super().__post_init__()
    check_descends(self.optimizer)
    space = self.env.observation_space
    if self.config.normalize and not jnp.issubdtype(space.dtype, jnp.floating):
      raise ValueError(
        'normalize must be False where observations are not floats, got '
        f'{space}'
      )

  def search(self, seed: int) -> strategy.Strategy:
    """See `policy_training.PolicyTrainer`."""
    del seed
    return strategy.Strategy(
      self.config, self.optimizer, geometry.of(self.fitted_policy)
    )
