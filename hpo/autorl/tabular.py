"""Random tabular tasks, and agents in them whose returns are known exactly.

References: the random tasks of arXiv:2007.08794 (LPG), scaled down.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from rl import ranges

__all__ = ['Rollout', 'Tables', 'Task']


class Task(NamedTuple):
  """A finite decision process.

  Attributes:
    move: probability of the next state, [s, a, s'].
    reward: mean reward, [s, a].
    start: probability of the first state, [s].
    end: probability that the task ends after an action in a state, [s].
  """

  move: Float[Array, 's a s']
  reward: Float[Array, 's a']
  start: Float[Array, ' s']
  end: Float[Array, ' s']


class Rollout(NamedTuple):
  """T steps of n lanes; a lane starts anew where its task ended.

  Attributes:
    state: before the action.
    action: taken there.
    reward: of the step.
    done: whether the task ended with the step.
    last: state after the last step.
  """

  state: Int[Array, 'T n']
  action: Int[Array, 'T n']
  reward: Float[Array, 'T n']
  done: Array
  last: Int[Array, ' n']


@dataclasses.dataclass(frozen=True)
class Tables:
  """Draws tasks, acts in them and judges policies exactly.

  From each state an action leads to one of `branches` random states. Mean rewards
  are normal numbers for a quarter of the pairs of state and action, at least one, else 0.

  Attributes:
    states: of a task.
    actions: in each state.
    branches: next states of a pair.
    end: probability that the task ends, in a quarter of the states.
    noise: deviation of rewards.
    discount: of the returns that are judged.

  Raises:
    ValueError: if a number is out of range.
  """

  states: int = 10
  actions: int = 3
  branches: int = 2
  end: float = 0.5
  noise: float = 0.1
  discount: float = 0.95

  def __post_init__(self) -> None:
    ranges.check_counts(states=self.states, branches=self.branches)
    ranges.check_counts(least=2, actions=self.actions)
    ranges.check_shares(end=self.end, discount=self.discount)
    ranges.check_not_negative(noise=self.noise)
    if self.discount == 1:
      raise ValueError(f'discount must be below 1, got {self.discount=}')

  def draw(self, key: Key[Array, '']) -> Task:
    """A random task."""
    keys = jax.random.split(key, 6)
    pairs = self.states, self.actions
    share = jax.random.dirichlet(keys[0], jnp.ones(self.branches), pairs)
    to = jax.random.randint(keys[1], share.shape, 0, self.states)
    move = jnp.sum(share[..., None] * jax.nn.one_hot(to, self.states), -2)
    drawn = jax.random.uniform(keys[2], pairs)
    pays = (drawn < 0.25) | (drawn == drawn.min())
    reward = jnp.where(pays, jax.random.normal(keys[3], pairs), 0)
    start = jax.random.dirichlet(keys[4], jnp.ones(self.states))
    ends = jax.random.bernoulli(keys[5], 0.25, (self.states,))
    return Task(move, reward, start, jnp.where(ends, self.end, 0.0))

  def begin(self, task: Task, key: Key[Array, ''], lanes: int) -> Array:
    """First states of lanes, int32 [n]."""
    return jax.random.categorical(key, jnp.log(task.start), shape=(lanes,))

  def play(
    self,
    task: Task,
    logits: Float[Array, 's a'],
    state: Int[Array, ' n'],
    key: Key[Array, ''],
    steps: int,
  ) -> Rollout:
    """Acts in lanes.

    Args:
      task: what to act in.
      logits: of the policy.
      state: of the lanes, to begin with.
      key: of the steps.
      steps: T.
    """

    def step(state: Array, key: Array) -> tuple[Array, tuple]:
      keys = jax.random.split(key, 5)
      action = jax.random.categorical(keys[0], logits[state])
      to = jax.random.categorical(keys[1], jnp.log(task.move[state, action]))
      noise = self.noise * jax.random.normal(keys[2], state.shape)
      reward = task.reward[state, action] + noise
      done = jax.random.uniform(keys[3], state.shape) < task.end[state]
      to = jnp.where(done, self.begin(task, keys[4], len(state)), to)
      return to, (state, action, reward, done)

    last, rows = jax.lax.scan(step, state, jax.random.split(key, steps))
    return Rollout(*rows, last)

  def _backed_up(self, task: Task, value: Float[Array, ' s']) -> Array:
    """Values of actions before a value, [s, a]."""
    goes_on = self.discount * (1 - task.end)[:, None]
    return task.reward + goes_on * (task.move @ value)

  def exact(self, task: Task, logits: Float[Array, 's a']) -> Float[Array, '']:
    """The expected discounted return of a policy, up to rounding."""
    policy = jax.nn.softmax(logits)
    goes_on = self.discount * (1 - task.end)[:, None]
    move = jnp.einsum('sa,sat->st', policy, task.move) * goes_on
    reward = jnp.sum(policy * task.reward, -1)
    value = jnp.linalg.solve(jnp.eye(self.states) - move, reward)
    return task.start @ value

  def best(self, task: Task, sweeps: int = 300) -> Float[Array, '']:
    """The largest expected return, by sweeps of value iteration."""
    step = lambda _, value: jnp.max(self._backed_up(task, value), -1)
    value = jax.lax.fori_loop(0, sweeps, step, jnp.zeros(self.states))
    return task.start @ value

  def score(self, task: Task, logits: Float[Array, 's a']) -> Float[Array, '']:
    """The return of a policy: 0 if uniform, 1 if the best."""
    low = self.exact(task, jnp.zeros_like(logits))
    span = self.best(task) - low
    gain = self.exact(task, logits) - low
    return gain / jnp.where(span > 1e-3, span, 1.0)
