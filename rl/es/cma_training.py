"""CMA-ES in the training loop."""

import dataclasses

from rl.es import cma, policy_training

__all__ = ['CMATrainer']


@dataclasses.dataclass(frozen=True)
class CMATrainer(policy_training.PolicyTrainer):
  """Trains a policy of few parameters by CMA-ES; a `runtime.trainer.Trainer`.

  Theta is the mean of the search. Rollouts take one device: with few parameters
  there are few members. All of a generation meet the same environments.

  Attributes:
    sigma: first step size.
    population_size: members of a generation; None: 4 + floor(3 ln d).
    normalize: whether observations are normalised by running statistics. As
      these move, so does the optimum: the pendulum was learnt without only.

  Raises:
    ValueError: if a number is out of range, or the policy has more parameters
      than `cma.CMAES` takes.
  """

  sigma: float = 0.1
  population_size: int | None = None
  normalize: bool = False

  def search(self, seed: int) -> cma.CMAES:
    """See `policy_training.PolicyTrainer`."""
    return cma.CMAES(
      self.sigma, self.population_size, normalize=self.normalize, seed=seed
    )
