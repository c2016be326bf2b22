"""Meta-training of LPG: whole lifetimes for evolution, or meta-gradients.

Both maximise the normalised score of agents, which tables give exactly: 0 for the
uniform policy and 1 for the best one.

- `Lifetimes` is an objective for `evolution.Evolved`: the score at the end of life.
- `MetaTrained` differentiates the score after K updates. Its agents live on between
  meta-updates, and are replaced by newborn ones in new tasks at the end of life.

References: arXiv:2007.08794, Algorithm 1; Jackson et al. (2024), arXiv:2402.05828
  (TA-LPG: evolution against meta-gradients).
"""

import dataclasses
from typing import Any

import flax
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Key, PyTree

from hpo.autorl import lpg, meta, programs, tabular
from rl import distributions, ranges

__all__ = ['Lifetimes', 'MetaState', 'MetaTrained', 'lives']


def lives(
  rule: lpg.Rule,
  eta: PyTree,
  key: Key[Array, ''],
  *,
  tasks: int,
  length: int,
) -> Float[Array, ' tasks']:
  """Scores of agents at the end of their lives, each in a task of its own.

  Args:
    rule: by which they learn.
    eta: its parameters.
    key: of tasks and lives.
    tasks: number of agents.
    length: updates of a life.
  """

  def one(key: Key[Array, '']) -> Float[Array, '']:
    task_key, lanes_key, life_key = jax.random.split(key, 3)
    task = rule.tables.draw(task_key)
    state = rule.tables.begin(task, lanes_key, rule.lanes)

    def step(carry: tuple, key: Array) -> tuple[tuple, None]:
      return _lived(rule, task, eta, carry, key)[0], None

    keys = jax.random.split(life_key, length)
    (agent, _), _ = jax.lax.scan(step, (rule.newborn(), state), keys)
    return rule.tables.score(task, agent.policy)

  return jax.vmap(one)(jax.random.split(key, tasks))


def _lived(
  rule: lpg.Rule, task: tabular.Task, eta: PyTree, carry: tuple, key: Array
) -> tuple[tuple, tabular.Rollout]:
  """One update of an agent in its lanes, and what it learnt from."""
  agent, state = carry
  rollout = rule.tables.play(task, agent.policy, state, key, rule.steps)
  return (rule.update(agent, eta, rollout), rollout.last), rollout


@dataclasses.dataclass(frozen=True)
class Lifetimes:
  """The score at the end of life; an `evolution.Objective`.

  Attributes:
    rule: whose parameters are sought.
    tasks: agents of a fitness.
    length: updates of a life.
    test_tasks: agents of an evaluation.

  Raises:
    ValueError: if a number is not positive.
  """

  rule: lpg.Rule
  tasks: int = 8
  length: int = 50
  test_tasks: int = 64

  def __post_init__(self) -> None:
    ranges.check_counts(
      tasks=self.tasks, length=self.length, test_tasks=self.test_tasks
    )

  @property
  def steps(self) -> int:
    """See `evolution.Objective`."""
    return self.tasks * self.length * self.rule.lanes * self.rule.steps

  def init(self, key: Key[Array, '']) -> PyTree:
    """See `evolution.Objective`."""
    return self.rule.init(key)

  def fitness(self, params: PyTree, key: Key[Array, '']) -> Float[Array, '']:
    """See `evolution.Objective`."""
    return jnp.mean(
      lives(self.rule, params, key, tasks=self.tasks, length=self.length)
    )

  def evaluate(self, params: PyTree, key: Key[Array, '']) -> dict[str, Array]:
    """See `evolution.Objective`."""
    found = lives(
      self.rule, params, key, tasks=self.test_tasks, length=self.length
    )
    return {'score': jnp.mean(found)}


@flax.struct.dataclass
class MetaState:
  """All that changes.

  Attributes:
    eta: parameters of the rule.
    opt_state: of their optimiser.
    task: of each agent, `tabular.Task`.
    agent: `lpg.Agent` of each.
    state: of each agent's lanes, [agents, lanes].
    age: of each agent, updates so far, int32.
  """

  # Not annotated by shape: transformations put other things into the leaves.
  eta: Any
  opt_state: Any
  task: Any
  agent: Any
  state: Any
  age: Any


@dataclasses.dataclass(frozen=True)
class MetaTrained:
  """LPG by meta-gradients; a `programs.Program`.

  Attributes:
    objective: the rule, the number of agents and the length of their lives.
    updates: K, of an agent between meta-updates; published: 5.
    optimizer: of the rule's parameters, from optax.
    policy_entropy: factor on the entropy of pi at the end, nats.
    prediction_entropy: factor on that of y.
    policy_size: factor on the mean of pi_hat^2, which is subtracted.
    prediction_size: alike, of the logits of y_hat.

  Raises:
    ValueError: if a number is out of range.
  """

  objective: Lifetimes
  optimizer: optax.GradientTransformation
  updates: int = 5
  policy_entropy: float = 0.05
  prediction_entropy: float = 0.001
  policy_size: float = 0.001
  prediction_size: float = 0.001

  def __post_init__(self) -> None:
    ranges.check_counts(updates=self.updates)
    ranges.check_not_negative(
      policy_entropy=self.policy_entropy,
      prediction_entropy=self.prediction_entropy,
      policy_size=self.policy_size,
      prediction_size=self.prediction_size,
    )

  @property
  def _rule(self) -> lpg.Rule:
    return self.objective.rule

  def init(self, key: Key[Array, '']) -> MetaState:
    """See `programs.Program`; agents begin at different ages."""
    rule_key, life_key, age_key = jax.random.split(key, 3)
    eta, count = self._rule.init(rule_key), self.objective.tasks
    born = jax.vmap(self._born)(jax.random.split(life_key, count))
    ages = jax.random.randint(age_key, (count,), 0, self.objective.length)
    return MetaState(eta, self.optimizer.init(eta), *born, ages)

  def _born(self, key: Key[Array, '']) -> tuple[tabular.Task, lpg.Agent, Array]:
    """A task, an agent and its lanes."""
    task_key, lanes_key = jax.random.split(key)
    task = self._rule.tables.draw(task_key)
    state = self._rule.tables.begin(task, lanes_key, self._rule.lanes)
    return task, self._rule.newborn(), state

  def value(
    self,
    eta: PyTree,
    task: tabular.Task,
    agent: lpg.Agent,
    state: Array,
    key: Key[Array, ''],
  ) -> tuple[Float[Array, ''], tuple]:
    """What is ascended, of one agent; and the agent and its lanes afterwards."""
    life_key, last_key = jax.random.split(key)
    update = lambda carry, eta, key: _lived(self._rule, task, eta, carry, key)[
      0
    ]
    keys = jax.random.split(life_key, self.updates)
    agent, state = meta.unrolled(update, (agent, state), eta, keys)
    score = self._rule.tables.score(task, agent.policy)
    entropy = lambda x: jnp.mean(distributions.Categorical(x).entropy())
    rollout = self._rule.tables.play(
      task, agent.policy, state, last_key, self._rule.steps
    )
    said = self._rule.say(eta, agent, rollout)
    total = (
      score
      + self.policy_entropy * entropy(agent.policy)
      + self.prediction_entropy * entropy(agent.prediction)
      - self.policy_size * jnp.mean(said.policy**2)
      - self.prediction_size * jnp.mean(said.prediction**2)
    )
    return total, (agent, state, score)

  def step(
    self, state: MetaState, key: Key[Array, '']
  ) -> tuple[MetaState, dict[str, Array]]:
    """One meta-update; see `programs.Program`."""
    count, length = self.objective.tasks, self.objective.length
    life_key, born_key = jax.random.split(key)
    keys = jax.random.split(life_key, count)

    def loss(eta: PyTree) -> tuple[Array, tuple]:
      values, after = jax.vmap(self.value, in_axes=(None, 0, 0, 0, 0))(
        eta, state.task, state.agent, state.state, keys
      )
      return -jnp.mean(values), after

    (_, after), grads = jax.value_and_grad(loss, has_aux=True)(state.eta)
    agent, lanes, score = after
    change, opt_state = self.optimizer.update(grads, state.opt_state, state.eta)
    age = state.age + self.updates
    is_over = age >= length
    born = jax.vmap(self._born)(jax.random.split(born_key, count))
    pick = lambda new, old: jnp.where(
      is_over.reshape(-1, *[1] * (new.ndim - 1)), new, old
    )
    lived = jax.tree.map(pick, born, (state.task, agent, lanes))
    rule = self._rule
    # The last rollout of each agent, for the sizes, is counted too.
    steps = count * (self.updates + 1) * rule.lanes * rule.steps
    after = MetaState(
      optax.apply_updates(state.eta, change),
      opt_state,
      *lived,
      jnp.where(is_over, 0, age),
    )
    return after, {
      'fitness': jnp.mean(score),
      'gradient_norm': optax.tree.norm(grads),
      programs.STEPS: jnp.float32(steps),
    }

  def evaluate(self, state: MetaState, key: Key[Array, '']) -> dict[str, Array]:
    """See `programs.Program`."""
    return self.objective.evaluate(state.eta, key)
