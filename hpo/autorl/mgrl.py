"""Actor-critics that learn their own settings by meta-gradients.

MGRL learns the discount and lambda; STACX learns all settings of its loss, has
further heads that learn with settings of their own, and adds KL(old, new) to the
outer loss. Both are `MetaActorCritic`, with other knobs.

The agent keeps its last k batches and its state before them. The next batch is
fresh: the outer loss on it is differentiated through the k updates, the settings
move, and the agent learns from that batch too.

References: Xu, van Hasselt and Silver (2018), arXiv:1805.09801; Zahavy et al.
  (2020), arXiv:2002.12928.
"""

import dataclasses
from typing import Any, NamedTuple

import flax
import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Key, PyTree, Shaped

from hpo.autorl import actor_critic, heads, meta
from hpo.autorl import knobs as knobs_lib
from rl import learner as learner_lib
from rl import ranges
from rl.envs import spaces
from rl.ppo import losses

__all__ = ['MetaActorCritic', 'MetaLearner', 'MetaState', 'direction']

_RATE = 'learning_rate'


def direction(
  max_norm: float = 0.5, eps: float = 1e-5
) -> optax.GradientTransformation:
  """Clips a gradient by its norm, then scales it as Adam does.

  Args:
    max_norm: of the gradient of all parameters together.
    eps: added to the root of the second moment.
  """
  # A constant under the root: its derivative at 0 is infinite otherwise.
  adam = optax.scale_by_adam(eps=eps, eps_root=eps**2)
  return optax.chain(optax.clip_by_global_norm(max_norm), adam)


# The same objects everywhere: settings that are equal hash alike.
_INNER, _OUTER = actor_critic.Loss(), actor_critic.Loss(entropy_cost=0.0)
_DIRECTION, _META = direction(), optax.adam(1e-2)


@dataclasses.dataclass(frozen=True)
class MetaActorCritic:
  """Settings of an actor-critic for discrete actions; a `learner.Algorithm`.

  Attributes:
    knobs: learnt settings: fields of `inner`, or 'learning_rate'; none: the
      agent is a plain actor-critic.
    inner: settings of the loss, as far as they are not learnt.
    outer: settings of the outer loss, of the first head; they stay fixed.
    outer_kl: factor on KL(policy before the k updates, policy after them).
    encoder: [n, ...] -> [n, features]; None: the flat observation.
    condition: width of a layer that reads the knobs; see `heads.Heads`.
    heads: 1 and the number of auxiliary ones. Each has knobs of its own; the
      first acts.
    unroll_length: T, steps per lane and iteration.
    direction: makes a step of a gradient, without its rate.
    learning_rate: factor on that step, if it is not learnt.
    horizon: k, updates between two steps of the knobs.
    meta_optimizer: of the free parameters of the knobs.

  Raises:
    ValueError: if a number is out of range, a knob names no setting, or a layer
      or heads are asked for without knobs.
  """

  knobs: tuple[knobs_lib.Knob, ...] = ()
  inner: actor_critic.Loss = _INNER
  outer: actor_critic.Loss = _OUTER
  outer_kl: float = 0.0
  encoder: nn.Module | None = None
  condition: int = 0
  heads: int = 1
  unroll_length: int = 20
  direction: optax.GradientTransformation = _DIRECTION
  learning_rate: float = 1e-3
  horizon: int = 1
  meta_optimizer: optax.GradientTransformation = _META

  def __post_init__(self) -> None:
    self.inner.check()
    self.outer.check()
    ranges.check_counts(
      heads=self.heads, unroll_length=self.unroll_length, horizon=self.horizon
    )
    ranges.check_counts(least=0, condition=self.condition)
    ranges.check_not_negative(
      learning_rate=self.learning_rate, outer_kl=self.outer_kl
    )
    knobs_lib.initial(self.knobs)
    known = [field.name for field in dataclasses.fields(actor_critic.Loss)]
    unknown = [k.name for k in self.knobs if k.name not in (*known, _RATE)]
    if unknown:
      raise ValueError(f'knobs must be among {[*known, _RATE]}, got {unknown}')
    if not self.knobs and (self.condition or self.heads > 1):
      raise ValueError(
        'condition and heads need knobs, got '
        f'{self.condition=} {self.heads=} {self.knobs=}'
      )

  def learner(
    self,
    observation_space: spaces.Space,
    action_space: spaces.Space,
    num_lanes: int,
  ) -> 'MetaLearner':
    """See `learner.Algorithm`.

    Raises:
      ValueError: if actions are not discrete.
    """
    if not isinstance(action_space, spaces.Discrete):
      raise ValueError(
        f'this actor-critic needs discrete actions, got {action_space}'
      )
    network = heads.Heads(self.encoder, action_space.n, self.condition)
    return MetaLearner(network, self, observation_space, num_lanes)


@flax.struct.dataclass
class MetaState:
  """All that changes.

  Attributes:
    agent: parameters of the network, and the state of their direction.
    free: parameters of the knobs by name, [heads] each.
    meta: state of their optimiser.
    start: `agent` before the batches that are kept.
    kept: the last batches, `actor_critic.Batch`, [k, ...] each.
    count: how many there are, int32.
  """

  # Not annotated by shape: transformations put other things into the leaves.
  agent: Any
  free: Any
  meta: Any
  start: Any
  kept: Any
  count: Any


class Acting(NamedTuple):
  """The part of the state that acting needs.

  Attributes:
    params: of the network.
    settings: that it reads.
  """

  params: PyTree
  settings: Float[Array, 'h e']


@dataclasses.dataclass(frozen=True)
class MetaLearner:
  """See `learner.Learner`.

  Attributes:
    network: policies and values.
    settings: all others.
    observation_space: of a lane.
    num_lanes: n.
  """

  network: heads.Heads
  settings: MetaActorCritic
  observation_space: spaces.Space
  num_lanes: int

  @property
  def unroll_length(self) -> int:
    """T."""
    return self.settings.unroll_length

  def init(self, key: Key[Array, '']) -> MetaState:
    """See `learner.Learner`."""
    chosen, space = self.settings, self.observation_space
    free = knobs_lib.initial(chosen.knobs, (chosen.heads,))
    observation = jnp.zeros((1, *space.shape), space.dtype)
    params = self.network.init(key, observation, self._read(free))
    agent = params, chosen.direction.init(params)
    return MetaState(
      agent,
      free,
      chosen.meta_optimizer.init(free),
      jax.tree.map(jnp.copy, agent),
      self._nothing_kept(),
      jnp.zeros((), jnp.int32),
    )

  def _nothing_kept(self) -> actor_critic.Batch:
    chosen, space = self.settings, self.observation_space
    rows = chosen.horizon, chosen.unroll_length, self.num_lanes
    last = chosen.horizon, self.num_lanes
    zeros = lambda *shape, dtype=jnp.float32: jnp.zeros((*rows, *shape), dtype)
    return actor_critic.Batch(
      observation=zeros(*space.shape, dtype=space.dtype),
      action=zeros(dtype=jnp.int32),
      log_prob=zeros(),
      reward=zeros(),
      terminated=zeros(dtype=bool),
      truncated=zeros(dtype=bool),
      valid=zeros(dtype=bool),
      final=zeros(chosen.heads),
      last_observation=jnp.zeros((*last, *space.shape), space.dtype),
    )

  def params(self, state: MetaState) -> PyTree:
    """See `learner.Learner`."""
    return state.agent[0]

  def acting(self, state: MetaState) -> Acting:
    """See `learner.Learner`."""
    return Acting(state.agent[0], self._read(state.free))

  def initial_memory(self, num_lanes: int) -> PyTree:
    """None."""
    del num_lanes
    return ()

  def act(
    self,
    acting: Acting,
    memory: PyTree,
    observation: Shaped[Array, 'n ...'],
    first: Bool[Array, ' n'],
    key: Key[Array, ''],
  ) -> learner_lib.Action:
    """Draws from the first head; see `learner.Learner`."""
    del first
    out = self.network.apply(acting.params, observation, acting.settings)
    policy = jax.tree.map(lambda x: x[:, 0], out.policy)
    action = policy.sample(key)
    extras = {'log_prob': policy.log_prob(action)}
    return learner_lib.Action(memory, action, extras)

  greedy = act

  def final(
    self, acting: Acting, memory: PyTree, observation: Shaped[Array, 'n ...']
  ) -> Float[Array, 'n h']:
    """Values of all heads; see `learner.Learner`."""
    del memory
    return self.network.apply(acting.params, observation, acting.settings).value

  def _read(self, free: PyTree) -> Float[Array, 'h e']:
    """Knobs as the network reads them: constants, each in [0, 1]."""
    units = [jax.nn.sigmoid(free[knob.name]) for knob in self.settings.knobs]
    if not units:
      return jnp.zeros((self.settings.heads, 0))
    return jax.lax.stop_gradient(jnp.stack(units, -1))

  def _fixed(self, free: PyTree) -> Float[Array, '1 e']:
    """What the network's first head reads for the outer loss."""
    outer = dataclasses.asdict(self.settings.outer)
    known = {
      knob.name: jnp.full(1, knob.unit(outer[knob.name]))
      for knob in self.settings.knobs
      if knob.name in outer
    }
    read = self._read(free)
    columns = [
      known.get(knob.name, read[:1, i])
      for i, knob in enumerate(self.settings.knobs)
    ]
    return jnp.stack(columns, -1) if columns else read[:1]

  def update(
    self, agent: PyTree, free: PyTree, batch: actor_critic.Batch
  ) -> PyTree:
    """One inner update; see `meta.unrolled`."""
    return self._updated(agent, free, batch)[0]

  def _updated(
    self, agent: PyTree, free: PyTree, batch: actor_critic.Batch
  ) -> tuple[PyTree, dict[str, Array]]:
    chosen, (params, state) = self.settings, agent
    learnt = knobs_lib.values(chosen.knobs, free)
    # The heads share parameters, and so the first one's rate.
    rate = learnt.pop(_RATE, jnp.full(1, chosen.learning_rate))[0]
    loss = lambda p: actor_critic.loss(
      self.network,
      p,
      params,
      batch,
      dataclasses.replace(chosen.inner, **learnt),
      self._read(free),
    )
    grads, metrics = jax.grad(loss, has_aux=True)(params)
    step, state = chosen.direction.update(grads, state, params)
    params = jax.tree.map(
      lambda p, s: p - rate.astype(p.dtype) * s, params, step
    )
    return (params, state), metrics

  def outer(
    self,
    agent: PyTree,
    start: PyTree,
    free: PyTree,
    batch: actor_critic.Batch,
    judge: PyTree | None = None,
  ) -> Float[Array, '']:
    """The outer loss after the updates; settings do not enter by themselves.

    Its gradient is a policy gradient, so advantages and targets are constants.

    Args:
      agent: after the updates.
      start: before them.
      free: of the knobs, for what the network reads.
      batch: fresh.
      judge: parameters behind advantages and targets; None: of the agent.
    """
    chosen, fixed = self.settings, self._fixed(free)
    params = _first_head(agent[0])
    judge = _first_head(agent[0] if judge is None else judge)
    own = batch._replace(final=batch.final[..., :1])
    value, _ = actor_critic.loss(
      self.network,
      params,
      jax.lax.stop_gradient(judge),
      own,
      chosen.outer,
      fixed,
    )
    if not chosen.outer_kl:
      return value
    flat = batch.observation.reshape(-1, *self.observation_space.shape)
    weight = batch.valid.reshape(-1).astype(value.dtype)
    before, after = (
      self.network.apply(p, flat, fixed).policy
      for p in (_first_head(start[0]), params)
    )
    kl = before.kl(after)[:, 0]
    return value + chosen.outer_kl * losses.mean(kl, weight)

  def learn(
    self,
    state: MetaState,
    trajectory: learner_lib.Trajectory,
    key: Key[Array, ''],
  ) -> tuple[MetaState, dict[str, Array]]:
    """Moves the knobs if k batches are kept, then learns from this one.

    Metrics: terms of the first head's loss, and its knobs.
    """
    del key
    batch = actor_critic.Batch.of(trajectory)
    if self.settings.knobs:
      state = self._tuned(state, batch)
    agent, metrics = self._updated(state.agent, state.free, batch)
    learnt = knobs_lib.values(self.settings.knobs, state.free)
    return state.replace(agent=agent), metrics | {
      name: x[0] for name, x in learnt.items()
    }

  def _tuned(self, state: MetaState, batch: actor_critic.Batch) -> MetaState:
    """Moves the knobs if it is time, and keeps the batch."""
    due = state.count == self.settings.horizon
    free, meta_state = jax.lax.cond(
      due,
      lambda: self._moved(state, batch),
      lambda: (state.free, state.meta),
    )
    start = jax.tree.map(
      lambda new, old: jnp.where(due | (state.count == 0), new, old),
      state.agent,
      state.start,
    )
    place = jnp.where(due, 0, state.count)
    kept = jax.tree.map(
      lambda all_, one: all_.at[place].set(one), state.kept, batch
    )
    return MetaState(state.agent, free, meta_state, start, kept, place + 1)

  def _moved(
    self, state: MetaState, batch: actor_critic.Batch
  ) -> tuple[PyTree, PyTree]:
    """Knobs after a step along the meta-gradient, and their optimiser."""
    chosen = self.settings
    outer = lambda agent: self.outer(agent, state.start, state.free, batch)
    _, grads = meta.meta_gradient(
      self.update, outer, state.start, state.free, state.kept
    )
    step, meta_state = chosen.meta_optimizer.update(
      grads, state.meta, state.free
    )
    return optax.apply_updates(state.free, step), meta_state


def _first_head(params: PyTree) -> PyTree:
  """Parameters of the first head and of the shared layers."""
  found = dict(params['params'])
  for name in ('policy', 'value'):
    found[name] = jax.tree.map(lambda x: x[:1], found[name])
  return {'params': found}
