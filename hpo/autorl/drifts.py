"""PPO whose clipping is replaced by a learnt drift.

  maximise E[r A - f(r, A)],   r = pi'(a | s) / pi(a | s)

With f >= 0, f(1, A) = 0 and a slope of 0 there, the first step from the acting
policy is that of a policy gradient, and f only says how far to go. PPO's own f is
max(0, (r - clip(r, 1 - e, 1 + e)) A). Here f is a network, evolved by the returns of
agents that learn with it.

Reference: Lu et al. (2022), arXiv:2210.05639 (LPO).
"""

import dataclasses
import functools
from typing import Any

import flax
import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Key, PyTree

from rl import ppo, ranges, rollout
from rl.envs import protocol
from rl.ppo import losses
from rl.ppo import ppo as ppo_lib

__all__ = [
  'Clipped',
  'Drift',
  'DriftLearner',
  'DriftState',
  'Trained',
  'clipping',
]


def clipping(
  log_ratio: Float[Array, '*s'], advantage: Float[Array, '*s'], clip: float
) -> Float[Array, '*s']:
  """The drift of PPO's own objective.

  Args:
    log_ratio: log r.
    advantage: A.
    clip: e.
  """
  ratio = jnp.exp(log_ratio)
  beyond = ratio - jnp.clip(ratio, 1 - clip, 1 + clip)
  return jnp.maximum(0, beyond * advantage)


class Clipped(nn.Module):
  """PPO's own drift, which has no parameters.

  Attributes:
    clip: e.
  """

  clip: float = 0.2

  @nn.compact
  def __call__(
    self, log_ratio: Float[Array, '*s'], advantage: Float[Array, '*s']
  ) -> Float[Array, '*s']:
    """See `clipping`."""
    return clipping(log_ratio, advantage, self.clip)


class Drift(nn.Module):
  """f(r, A) = x^2 softplus(g(x, x A, A)) / (1 + |x|), with x = r - 1.

  Whatever g is, f is not negative, f(1, A) = 0, its slope there is 0, and it grows
  no faster than g times |r - 1|.

  Attributes:
    width: of the hidden layer of g.
  """

  width: int = 16

  @nn.compact
  def __call__(
    self, log_ratio: Float[Array, '*s'], advantage: Float[Array, '*s']
  ) -> Float[Array, '*s']:
    """The drift.

    Args:
      log_ratio: log r.
      advantage: A.
    """
    x = jnp.expm1(log_ratio)
    # A far ratio must not saturate g.
    near = x / (1 + jnp.abs(x))
    features = jnp.stack([near, near * advantage, advantage], -1)
    hidden = nn.tanh(nn.Dense(self.width)(features))
    factor = nn.softplus(nn.Dense(1)(hidden)[..., 0])
    return x**2 * factor / (1 + jnp.abs(x))


@flax.struct.dataclass
class DriftState(ppo_lib.PPOState):
  """All that changes.

  Attributes beside those of `ppo.PPOState`:
    drift: parameters of f; they stay as they are.
  """

  drift: Any


@dataclasses.dataclass(frozen=True, kw_only=True)
class DriftLearner(ppo_lib.PPOLearner):
  """PPO, but for its surrogate.

  Attributes beside those of `ppo.PPOLearner`:
    drift: f.
    parameters: of f, while it learns.
  """

  drift: nn.Module
  parameters: PyTree = None

  def born(self, key: Key[Array, ''], drift: PyTree) -> DriftState:
    """The state before the first iteration, with parameters of f."""
    state = super().init(key)
    fields = {f.name: getattr(state, f.name) for f in dataclasses.fields(state)}
    return DriftState(**fields, drift=drift)

  def _updates(
    self, state: DriftState, steps: losses.Steps, key: Key[Array, '']
  ) -> tuple[PyTree, PyTree, dict[str, Array]]:
    # The parameters of f are constants of the loss: fields of a copy.
    bound = dataclasses.replace(self, parameters=state.drift)
    return ppo_lib.PPOLearner._updates(bound, state, steps, key)

  def _loss(
    self, params: PyTree, steps: losses.Steps
  ) -> tuple[Float[Array, ''], dict[str, Float[Array, '']]]:
    loss, metrics = super()._loss(params, steps)
    old = losses.split(steps.numbers)
    out = self.network.apply(params, *steps[:3])
    log_ratio = out.policy.log_prob(steps.action) - old.log_prob
    drift = self.drift.apply(self.parameters, log_ratio, old.advantage)
    each = drift - jnp.exp(log_ratio) * old.advantage
    found = losses.mean(each, old.weight)
    # The loss is linear in the term that takes the place of PPO's.
    loss += found - metrics['policy_loss']
    return loss, metrics | {'policy_loss': found}


@dataclasses.dataclass(frozen=True)
class Trained:
  """Returns of agents that learn with a drift; an `evolution.Objective`.

  Attributes:
    agent: settings of PPO; its `clip_ratio` only counts ratios outside.
    env: lanes to learn in.
    network: f, such as `Drift` or, for PPO itself, `Clipped`.
    iterations: of an agent.
    agents: in a fitness.
    test_agents: in an evaluation.

  Raises:
    ValueError: if a number is not positive.
  """

  agent: ppo.PPO
  env: protocol.VectorEnvironment
  network: nn.Module = dataclasses.field(default_factory=Drift)
  iterations: int = 10
  agents: int = 1
  test_agents: int = 4

  def __post_init__(self) -> None:
    ranges.check_counts(
      iterations=self.iterations,
      agents=self.agents,
      test_agents=self.test_agents,
    )

  @property
  def steps(self) -> int:
    """See `evolution.Objective`."""
    each = self.agent.unroll_length * self.env.num_lanes
    return self.agents * self.iterations * each

  @functools.cached_property
  def learner(self) -> DriftLearner:
    """The agent, fitted to the task."""
    env = self.env
    found = self.agent.learner(
      env.observation_space, env.action_space, env.num_lanes
    )
    fields = {f.name: getattr(found, f.name) for f in dataclasses.fields(found)}
    return DriftLearner(**fields, drift=self.network)

  def init(self, key: Key[Array, '']) -> PyTree:
    """See `evolution.Objective`."""
    return self.network.init(key, jnp.zeros(1), jnp.zeros(1))

  def lived(
    self, params: PyTree, key: Key[Array, '']
  ) -> Float[Array, ' iterations']:
    """Mean return of the episodes that ended in each iteration of an agent.

    Where none ended, the mean of the lanes' running returns.
    """
    first, second, third = jax.random.split(key, 3)
    state = self.learner.born(first, params)
    stage = rollout.start(self.env, self.learner, second)

    def iterate(carry: tuple, key: Array) -> tuple[tuple, Array]:
      state, stage = carry
      act_key, learn_key = jax.random.split(key)
      stage, seen = rollout.collect(
        self.env, self.learner, self.learner.acting(state), stage, act_key
      )
      state, _ = self.learner.learn(state, seen, learn_key)
      ended = (seen.terminated | seen.truncated) & seen.valid
      weight = ended.astype(jnp.float32)
      mean = losses.mean(seen.episode_return, weight)
      running = jnp.mean(stage.env.stats.running_return)
      return (state, stage), jnp.where(ended.any(), mean, running)

    keys = jax.random.split(third, self.iterations)
    return jax.lax.scan(iterate, (state, stage), keys)[1]

  def _last(
    self, params: PyTree, key: Key[Array, ''], count: int
  ) -> Float[Array, '']:
    """Mean return over the second half of the lives of some agents."""
    keys = jax.random.split(key, count)
    found = jax.vmap(lambda k: self.lived(params, k))(keys)
    return jnp.mean(found[:, self.iterations // 2 :])

  def fitness(self, params: PyTree, key: Key[Array, '']) -> Float[Array, '']:
    """See `evolution.Objective`."""
    return self._last(params, key, self.agents)

  def evaluate(self, params: PyTree, key: Key[Array, '']) -> dict[str, Array]:
    """See `evolution.Objective`."""
    return {'episode_return': self._last(params, key, self.test_agents)}
