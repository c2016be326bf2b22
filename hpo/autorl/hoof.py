"""HOOF: learning rate and entropy cost from one batch, by importance sampling.

From the batch that the agent learns from anyway, candidates pi' are scored by
weighted importance sampling,

  J(pi') = sum_i w_i R_i / sum_i w_i,   w_i = prod_t pi'(a_t | s_t) / pi(a_t | s_t)

over pieces of episodes i with returns R_i. The best candidate is taken among those
close to pi and with enough effective pieces. It costs forward passes only.

Reference: Paul, Kurin and Whiteson (2019), arXiv:1902.06583.
"""

import dataclasses
from typing import Any, NamedTuple

import flax
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key, PyTree

from hpo.autorl import actor_critic, mgrl
from rl import learner as learner_lib
from rl import ranges
from rl.envs import spaces
from rl.ppo import losses

__all__ = [
  'HOOF',
  'Choice',
  'HOOFLearner',
  'HOOFState',
  'Limits',
  'Pieces',
  'choose',
  'pieces',
  'weighted_returns',
]


def weighted_returns(
  log_weight: Float[Array, 'c n'],
  returns: Float[Array, ' n'],
  mask: Bool[Array, ' n'],
) -> tuple[Float[Array, ' c'], Float[Array, ' c']]:
  """Weighted importance sampling.

  Args:
    log_weight: of n pieces under c candidates.
    returns: of the pieces.
    mask: which pieces there are.

  Returns:
    Estimates of the candidates' returns, and the share of effective pieces,
    (sum w)^2 / sum w^2 over the number of pieces.
  """
  log_weight = jnp.where(mask, log_weight, -jnp.inf)
  # The estimate and the share do not change if all weights are scaled.
  largest = jnp.max(log_weight, -1, keepdims=True)
  weight = jnp.exp(log_weight - jnp.where(jnp.isfinite(largest), largest, 0))
  total = jnp.sum(weight, -1)
  safe = jnp.where(total > 0, total, 1)
  count = jnp.maximum(jnp.sum(mask), 1)
  share = total**2 / (jnp.sum(weight**2, -1) * count)
  mean = jnp.sum(weight * jnp.where(mask, returns, 0), -1) / safe
  return mean, jnp.where(total > 0, share, 0)


@dataclasses.dataclass(frozen=True)
class Limits:
  """What candidates must keep to.

  Attributes:
    max_kl: largest mean KL(pi, pi'), nats.
    log_clip: bound on |log w|.
    min_share: least share of effective pieces.

  Raises:
    ValueError: if a number is out of range.
  """

  max_kl: float = 0.03
  log_clip: float = 5.0
  min_share: float = 0.1

  def __post_init__(self) -> None:
    ranges.check_positive(max_kl=self.max_kl, log_clip=self.log_clip)
    ranges.check_shares(min_share=self.min_share)


class Choice(NamedTuple):
  """The result of comparing c candidates.

  Attributes:
    index: of the best accepted one; 0 if there is none.
    found: whether one was accepted.
    accepted: which were.
    value: estimated returns, on the scale from the worst piece, 0, to the best.
    share: of effective pieces.
  """

  index: Int[Array, '']
  found: Bool[Array, '']
  accepted: Bool[Array, ' c']
  value: Float[Array, ' c']
  share: Float[Array, ' c']


def choose(
  log_weight: Float[Array, 'c n'],
  returns: Float[Array, ' n'],
  mask: Bool[Array, ' n'],
  kl: Float[Array, ' c'],
  limits: Limits,
) -> Choice:
  """The candidate with the largest estimated return, within the limits.

  Args:
    log_weight: log w of n pieces under c candidates.
    returns: of the pieces.
    mask: which pieces there are.
    kl: mean KL(pi, pi') of the candidates.
    limits: see the class.
  """
  low = jnp.min(jnp.where(mask, returns, jnp.inf))
  high = jnp.max(jnp.where(mask, returns, -jnp.inf))
  span = jnp.where(high > low, high - low, 1)
  scaled = jnp.where(mask, (returns - low) / span, 0)
  clip = limits.log_clip
  value, share = weighted_returns(
    jnp.clip(log_weight, -clip, clip), scaled, mask
  )
  accepted = (kl <= limits.max_kl) & (share >= limits.min_share)
  accepted &= jnp.isfinite(value)
  index = jnp.argmax(jnp.where(accepted, value, -jnp.inf)).astype(jnp.int32)
  return Choice(index, accepted.any(), accepted, value, share)


class Pieces(NamedTuple):
  """Parts of episodes within T steps of n lanes; each stands at its last step.

  Attributes:
    log_weight: log w of c candidates.
    returns: discounted sum of rewards; with a value at the end of what goes on.
    mask: whether a piece ends here.
  """

  log_weight: Float[Array, 'c T n']
  returns: Float[Array, 'T n']
  mask: Bool[Array, 'T n']


def pieces(
  log_ratio: Float[Array, 'c T n'],
  reward: Float[Array, 'T n'],
  after: Float[Array, 'T n'],
  *,
  ended: Bool[Array, 'T n'],
  valid: Bool[Array, 'T n'],
  discount: float,
) -> Pieces:
  """Cuts steps into pieces, at ends of episodes and at the last step.

  Args:
    log_ratio: of each step, new log-probability minus that at which was acted.
    reward: of each step.
    after: value of what follows the step; 0 where the task ended.
    ended: whether an episode ended with the step.
    valid: False where nothing was done.
    discount: of the returns.
  """

  def step(carry: tuple, row: tuple) -> tuple[tuple, tuple]:
    weight, total, factor = carry
    log_ratio, reward, after, ended, valid = row
    weight = weight + jnp.where(valid, log_ratio, 0)
    total = total + jnp.where(valid, factor * reward, 0)
    factor = jnp.where(valid, factor * discount, factor)
    found = weight, total + factor * after
    keep = lambda x, start: jnp.where(ended, start, x)
    return (keep(weight, 0.0), keep(total, 0.0), keep(factor, 1.0)), found

  count, _, lanes = log_ratio.shape
  begin = jnp.zeros((count, lanes)), jnp.zeros(lanes), jnp.ones(lanes)
  rows = jnp.moveaxis(log_ratio, 1, 0), reward, after, ended, valid
  _, (weight, total) = jax.lax.scan(step, begin, rows)
  mask = (ended & valid).at[-1].set(valid[-1])
  return Pieces(jnp.moveaxis(weight, 0, 1), total, mask)


@dataclasses.dataclass(frozen=True)
class HOOF:
  """An actor-critic that chooses its rate and entropy cost; an `Algorithm`.

  Rates and costs of candidates are drawn anew for each batch, uniformly on a
  logarithmic scale. Where more than 80 % of the candidates are refused, the
  largest rate shrinks by a fifth. Where all are refused, the agent stays as it
  is.

  Attributes:
    agent: all other settings; it has no knobs, and its `learning_rate` and
      `entropy_cost` are not read.
    rates: least and largest learning rate.
    entropy_costs: least and largest factor on the entropy.
    directions: entropy costs that are tried for each batch.
    rates_each: learning rates that are tried for each of them.
    limits: see the class.

  Raises:
    ValueError: if a range is empty, or the agent has knobs.
  """

  agent: mgrl.MetaActorCritic
  rates: tuple[float, float] = (1e-4, 1e-1)
  entropy_costs: tuple[float, float] = (1e-4, 1e-1)
  directions: int = 4
  rates_each: int = 8
  limits: Limits = dataclasses.field(default_factory=Limits)

  def __post_init__(self) -> None:
    ranges.check_counts(directions=self.directions, rates_each=self.rates_each)
    for name in ('rates', 'entropy_costs'):
      low, high = getattr(self, name)
      if not 0 < low < high:
        raise ValueError(f'{name} must be 0 < low < high, got {low} and {high}')
    if self.agent.knobs:
      raise ValueError(f'HOOF tunes an agent without knobs, got {self.agent=}')

  def learner(
    self,
    observation_space: spaces.Space,
    action_space: spaces.Space,
    num_lanes: int,
  ) -> 'HOOFLearner':
    """See `learner.Algorithm`."""
    inside = self.agent.learner(observation_space, action_space, num_lanes)
    return HOOFLearner(self, inside)


@flax.struct.dataclass
class HOOFState:
  """All that changes.

  Attributes:
    agent: `mgrl.MetaState`.
    high: the largest rate now, float32.
  """

  # Not annotated by shape: transformations put other things into the leaves.
  agent: Any
  high: Any


def _theirs(name: str) -> property:
  """What the agent inside has under this name."""
  return property(lambda self: getattr(self.inside, name))


@dataclasses.dataclass(frozen=True)
class HOOFLearner:
  """See `learner.Learner`; it acts as the agent inside.

  Attributes:
    settings: of the choice.
    inside: the agent.
  """

  settings: HOOF
  inside: mgrl.MetaLearner

  unroll_length = _theirs('unroll_length')
  initial_memory = _theirs('initial_memory')
  act = _theirs('act')
  final = _theirs('final')
  greedy = _theirs('greedy')

  def init(self, key: Key[Array, '']) -> HOOFState:
    """See `learner.Learner`."""
    high = jnp.float32(self.settings.rates[1])
    return HOOFState(self.inside.init(key), high)

  def params(self, state: HOOFState) -> PyTree:
    """See `learner.Learner`."""
    return self.inside.params(state.agent)

  def acting(self, state: HOOFState) -> mgrl.Acting:
    """See `learner.Learner`."""
    return self.inside.acting(state.agent)

  def learn(
    self,
    state: HOOFState,
    trajectory: learner_lib.Trajectory,
    key: Key[Array, ''],
  ) -> tuple[HOOFState, dict[str, Array]]:
    """Takes the best of the candidates; see `learner.Learner`.

    Metrics: terms of the loss, what was chosen (0 where nothing was), and the
    share of candidates that were accepted.
    """
    chosen = self.settings
    batch = actor_critic.Batch.of(trajectory)
    params, opt_state = state.agent.agent
    steps, states, costs, metrics = self._directions(
      params, opt_state, batch, key
    )
    rates = self._rates(state.high, jax.random.fold_in(key, 1))
    move = lambda rate, step: jax.tree.map(
      lambda p, s: p - rate * s, params, step
    )
    each = jax.vmap(jax.vmap(move, in_axes=(0, None)))(rates, steps)
    candidates = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), each)
    choice = self._choice(params, candidates, batch)
    pick = lambda new, old: jax.tree.map(
      lambda a, b: jnp.where(choice.found, a[choice.index], b), new, old
    )
    row = choice.index // chosen.rates_each
    after = pick(candidates, params)
    opt_state = jax.tree.map(
      lambda a, b: jnp.where(choice.found, a[row], b), states, opt_state
    )
    accepted = jnp.mean(choice.accepted.astype(jnp.float32))
    high = jnp.where(accepted < 0.2, 0.8 * state.high, state.high)
    high = jnp.maximum(high, chosen.rates[0])
    agent = state.agent.replace(agent=(after, opt_state))
    return HOOFState(agent, high), metrics | {
      'learning_rate': choice.found * rates.reshape(-1)[choice.index],
      'entropy_cost': choice.found * costs[row],
      'accepted': accepted,
    }

  def _rates(
    self, high: Float[Array, ''], key: Key[Array, '']
  ) -> Float[Array, 'd r']:
    shape = self.settings.directions, self.settings.rates_each
    unit = jax.random.uniform(key, shape)
    low = self.settings.rates[0]
    return low * (high / low) ** unit

  def _directions(
    self,
    params: PyTree,
    opt_state: PyTree,
    batch: actor_critic.Batch,
    key: Key[Array, ''],
  ) -> tuple[PyTree, PyTree, Float[Array, ' d'], dict[str, Array]]:
    """Steps for entropy costs that are drawn, and the optimiser after each."""
    low, high = self.settings.entropy_costs
    unit = jax.random.uniform(key, (self.settings.directions,))
    costs = low * (high / low) ** unit
    agent = self.inside.settings

    def loss(p: PyTree, cost: Array) -> tuple[Array, dict[str, Array]]:
      mixed = dataclasses.replace(agent.inner, entropy_cost=cost)
      return actor_critic.loss(
        self.inside.network, p, params, batch, mixed, jnp.zeros((1, 0))
      )

    # The gradient is affine in the cost: two of them give all.
    slope = jax.grad(lambda p, c: loss(p, c)[0])
    plain, metrics = jax.grad(loss, has_aux=True)(params, jnp.float32(0))
    one = slope(params, jnp.float32(1))

    def direction(cost: Array) -> tuple[PyTree, PyTree]:
      grads = jax.tree.map(lambda a, b: a + cost * (b - a), plain, one)
      return agent.direction.update(grads, opt_state, params)

    steps, states = jax.vmap(direction)(costs)
    return steps, states, costs, metrics

  def _choice(
    self, params: PyTree, candidates: PyTree, batch: actor_critic.Batch
  ) -> Choice:
    """Compares candidates on the steps of the batch."""
    settings = jnp.zeros((1, 0))
    network, (T, n) = self.inside.network, batch.action.shape
    flat = batch.observation.reshape(-1, *batch.observation.shape[2:])
    old = network.apply(params, flat, settings)
    last = network.apply(params, batch.last_observation, settings).value[:, 0]
    weight = batch.valid.reshape(-1).astype(jnp.float32)
    action = batch.action.reshape(-1, 1)

    def compare(candidate: PyTree) -> tuple[Array, Array]:
      policy = network.apply(candidate, flat, settings).policy
      kl = losses.mean(old.policy.kl(policy)[:, 0], weight)
      return policy.log_prob(action)[:, 0].reshape(T, n), kl

    log_prob, kl = jax.vmap(compare)(candidates)
    value = old.value[:, 0].reshape(T, n)
    following = jnp.concatenate([value[1:], last[None]])
    following = jnp.where(batch.truncated, batch.final[..., 0], following)
    found = pieces(
      log_prob - batch.log_prob,
      batch.reward,
      jnp.where(batch.terminated, 0, following),
      ended=batch.terminated | batch.truncated,
      valid=batch.valid,
      discount=self.inside.settings.inner.discount,
    )
    count = log_prob.shape[0]
    return choose(
      found.log_weight.reshape(count, -1),
      found.returns.reshape(-1),
      found.mask.reshape(-1),
      kl,
      self.settings.limits,
    )
