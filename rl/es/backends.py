"""Factories of the evaluators that `ESTrainer` runs rollouts with.

Each is called as `make(env=..., policy=..., mesh=..., clip=...)`. JAX
environments take `jax_evaluator.JaxEvaluator` itself; here are those of
simulators, whose rollouts need no mesh.
"""

import dataclasses

import jax

from rl.envs import protocol
from rl.es import policies, ray_evaluator, vector_evaluator

__all__ = ['Lanes', 'Ray']


@dataclasses.dataclass(frozen=True)
class Lanes:
  """Rollouts in this process.

  Attributes:
    episodes: per member.
    max_steps: steps after which episodes are cut; None: only where the lanes
      end them.
  """

  episodes: int = 1
  max_steps: int | None = None

  def __call__(
    self,
    *,
    env: protocol.VectorEnvironment,
    policy: policies.Policy,
    mesh: jax.sharding.Mesh | None,
    clip: float | None,
  ) -> vector_evaluator.VectorEvaluator:
    """Makes the evaluator."""
    del mesh
    return vector_evaluator.VectorEvaluator(
      env, policy, episodes=self.episodes, max_steps=self.max_steps, clip=clip
    )


@dataclasses.dataclass(frozen=True)
class _Make:
  """Makes a worker's evaluator, there."""

  lanes: Lanes
  env: protocol.VectorEnvironment
  policy: policies.Policy
  clip: float | None

  def __call__(self) -> vector_evaluator.VectorEvaluator:
    return self.lanes(
      env=self.env, policy=self.policy, mesh=None, clip=self.clip
    )


@dataclasses.dataclass(frozen=True)
class Ray:
  """Rollouts of Ray's workers, each with lanes of its own.

  The lanes are pickled, so they must be of a simulator that can be built anew.

  Attributes:
    lanes: the lanes of each worker.
    num_workers: see `ray_evaluator.RayEvaluator`.
    directions_per_task: the most directions that a lost worker loses.
    timeout: seconds after which a worker is given up.
    cpus: cores of one worker.
  """

  lanes: Lanes = Lanes()
  num_workers: int = 2
  directions_per_task: int = 8
  timeout: float | None = None
  cpus: float = 1.0

  def __call__(
    self,
    *,
    env: protocol.VectorEnvironment,
    policy: policies.Policy,
    mesh: jax.sharding.Mesh | None,
    clip: float | None,
  ) -> ray_evaluator.RayEvaluator:
    """Makes the evaluator; workers start when it is first asked."""
    del mesh
    return ray_evaluator.RayEvaluator(
      _Make(self.lanes, env, policy, clip),
      num_workers=self.num_workers,
      directions_per_task=self.directions_per_task,
      timeout=self.timeout,
      cpus=self.cpus,
      observation_shape=env.observation_space.shape,
    )
