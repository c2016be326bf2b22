"""LPG: a learnt update rule for policies and predictions.

An agent has a policy pi(a | s) and a prediction y(s), a distribution over m values
without meaning of their own. A recurrent network U_eta reads a rollout backwards,

  x_t = [r_t, d_t, gamma, pi(a_t | s_t), phi(y(s_t)), phi(y(s_{t+1}))]

and says how to move both: pi_hat, a number, and y_hat, a distribution. The agent
ascends

  E[log pi(a | s) pi_hat] - a_y KL(y(s), y_hat)

Where the original has 2 signs, this is the one of the paper: pi_hat > 0 makes an
action more likely.

References: Oh et al. (2020), arXiv:2007.08794; Jackson et al. (2023),
  arXiv:2310.02782 (GROOVE).
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, PyTree

from hpo.autorl import tabular
from rl import distributions, ranges

__all__ = ['Agent', 'Rule', 'Said', 'UpdateRule', 'surrogate']


class Agent(NamedTuple):
  """A tabular agent.

  Attributes:
    policy: logits, [s, a].
    prediction: logits of y, [s, m].
  """

  policy: Float[Array, 's a']
  prediction: Float[Array, 's m']


class Said(NamedTuple):
  """What the rule says of each step.

  Attributes:
    policy: pi_hat.
    prediction: logits of y_hat.
  """

  policy: Float[Array, 'T n']
  prediction: Float[Array, 'T n m']


class UpdateRule(nn.Module):
  """U_eta.

  Attributes:
    width: of the recurrent unit; published: 256.
    embedding: width of phi's hidden layer; published: 16.
    size: m; published: 30.
  """

  width: int = 32
  embedding: int = 16
  size: int = 8

  @nn.compact
  def __call__(
    self,
    reward: Float[Array, 'T n'],
    done: Float[Array, 'T n'],
    discount: float,
    chosen: Float[Array, 'T n'],
    prediction: Float[Array, 'T n m'],
    following: Float[Array, 'T n m'],
  ) -> Said:
    """Reads a rollout backwards; nothing is carried over an end of the task.

    Args:
      reward: of each step.
      done: 1 where the task ended with the step, else 0.
      discount: gamma.
      chosen: probability of the action taken.
      prediction: y at the state before the step.
      following: y at the state after it.
    """
    hidden, out = nn.Dense(self.embedding), nn.Dense(1)
    phi = lambda y: out(nn.relu(hidden(y)))
    scalars = jnp.stack(
      [reward, done, jnp.full_like(reward, discount), chosen], -1
    )
    x = jnp.concatenate([scalars, phi(prediction), phi(following)], -1)

    def step(cell: nn.GRUCell, memory: Array, row: tuple) -> tuple:
      x, done = row
      return cell(memory * (1 - done)[:, None], x)

    scan = nn.scan(
      step,
      variable_broadcast='params',
      split_rngs={'params': False},
      reverse=True,
    )
    memory = jnp.zeros((reward.shape[1], self.width))
    _, y = scan(nn.GRUCell(self.width), memory, (x, done))
    policy = nn.Dense(1, name='policy')(y)[..., 0]
    return Said(policy, nn.Dense(self.size, name='prediction')(y))


def surrogate(
  agent: Agent,
  rollout: tabular.Rollout,
  said: Said,
  prediction_cost: float,
) -> Float[Array, '']:
  """What the agent ascends; constants: `said`.

  Args:
    agent: to move.
    rollout: steps that it took.
    said: by the rule, about them.
    prediction_cost: a_y.
  """
  log_pi = distributions.Categorical(agent.policy[rollout.state])
  y = distributions.Categorical(agent.prediction[rollout.state])
  kl = y.kl(distributions.Categorical(said.prediction))
  gain = log_pi.log_prob(rollout.action) * said.policy
  return jnp.mean(gain) - prediction_cost * jnp.mean(kl)


@dataclasses.dataclass(frozen=True)
class Rule:
  """Agents that learn by an update rule.

  Attributes:
    network: the rule.
    tables: what tasks are like.
    lanes: n.
    steps: T, of a rollout; published: 20.
    rate: of the agent's steepest ascent.
    prediction_cost: a_y; published: 0.5.

  Raises:
    ValueError: if a number is out of range.
  """

  network: UpdateRule = dataclasses.field(default_factory=UpdateRule)
  tables: tabular.Tables = dataclasses.field(default_factory=tabular.Tables)
  lanes: int = 16
  steps: int = 20
  rate: float = 10.0
  prediction_cost: float = 0.5

  def __post_init__(self) -> None:
    ranges.check_counts(lanes=self.lanes, steps=self.steps)
    ranges.check_positive(rate=self.rate)
    ranges.check_not_negative(prediction_cost=self.prediction_cost)

  def init(self, key: Any) -> PyTree:
    """Parameters of the rule."""
    row = jnp.zeros((1, 1))
    y = jnp.zeros((1, 1, self.network.size))
    return self.network.init(key, row, row, self.tables.discount, row, y, y)

  def newborn(self) -> Agent:
    """An agent before its first update."""
    tables = self.tables
    return Agent(
      jnp.zeros((tables.states, tables.actions)),
      jnp.zeros((tables.states, self.network.size)),
    )

  def say(self, eta: PyTree, agent: Agent, rollout: tabular.Rollout) -> Said:
    """What the rule says of a rollout."""
    y = jax.nn.softmax(agent.prediction)
    policy = jax.nn.softmax(agent.policy)
    state = jnp.concatenate([rollout.state, rollout.last[None]])
    done = rollout.done.astype(jnp.float32)
    return self.network.apply(
      eta,
      rollout.reward,
      done,
      self.tables.discount,
      policy[rollout.state, rollout.action],
      y[rollout.state],
      # What follows an end of the task is of another life.
      y[state[1:]] * (1 - done)[..., None],
    )

  def update(
    self, agent: Agent, eta: PyTree, rollout: tabular.Rollout
  ) -> Agent:
    """One step of the agent; differentiable in eta and the agent."""
    said = self.say(eta, agent, rollout)
    grads = jax.grad(surrogate)(agent, rollout, said, self.prediction_cost)
    return jax.tree.map(lambda x, g: x + self.rate * g, agent, grads)
