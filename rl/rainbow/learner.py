"""Rainbow's acting and learning.

Reference: Hessel et al. (2017), arXiv:1710.02298.
"""

import dataclasses
import functools
from typing import Any, NamedTuple

import flax
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Key, PyTree, Shaped

from rl import learner as learner_lib
from rl.envs import spaces
from rl.rainbow import c51, losses, networks
from rl.rainbow import settings as settings_lib
from rl.replay import buffer, iterate

__all__ = ['Acting', 'RainbowLearner', 'RainbowState']


class Acting(NamedTuple):
  """What acting needs.

  Attributes:
    params: of the online network.
    epsilon: how often lanes act at random in training, float32 [n].
  """

  params: PyTree
  epsilon: Float[Array, ' n']


@flax.struct.dataclass
class RainbowState:
  """All that changes.

  Attributes:
    params: of the online network.
    target: of the target network.
    opt_state: of the optimiser.
    replay: `buffer.ReplayState`.
    updates: so far, int32.
    steps: of all lanes together, int32.
  """

  # Not annotated by shape: transformations put other things into the leaves.
  params: Any
  target: Any
  opt_state: Any
  replay: Any
  updates: Any
  steps: Any


@dataclasses.dataclass(frozen=True)
class RainbowLearner:
  """See `learner.Learner`.

  Attributes:
    network: of the value distributions.
    replay: settings of the replay.
    settings: all others.
    num_updates: per iteration.
    observation_space: of a lane.
    action_space: of a lane.
  """

  network: networks.Distributions
  replay: buffer.Replay
  settings: settings_lib.Settings
  num_updates: int
  observation_space: spaces.Space
  action_space: spaces.Discrete

  @property
  def unroll_length(self) -> int:
    """T."""
    return self.settings.unroll_length

  @property
  def _atoms(self) -> Float[Array, ' z']:
    chosen = self.settings
    return c51.support(chosen.v_min, chosen.v_max, chosen.num_atoms)

  @functools.cached_property
  def _optimizer(self) -> optax.GradientTransformation:
    chosen = self.settings
    adam = optax.adam(chosen.learning_rate, eps=chosen.adam_eps)
    if chosen.max_grad_norm is None:
      return adam
    return optax.chain(optax.clip_by_global_norm(chosen.max_grad_norm), adam)

  def init(self, key: Key[Array, '']) -> RainbowState:
    """See `Learner`."""
    space = self.observation_space
    observation = jnp.zeros((1, *space.shape), space.dtype)
    params = self.network.init(key, observation)
    # Each its own buffer: one cannot be donated twice.
    none = lambda: jnp.zeros((), jnp.int32)
    return RainbowState(
      params,
      jax.tree.map(jnp.copy, params),
      self._optimizer.init(params),
      self.replay.init(space, self.action_space),
      none(),
      none(),
    )

  def params(self, state: RainbowState) -> PyTree:
    """See `Learner`."""
    return state.params

  def acting(self, state: RainbowState) -> Acting:
    """See `Learner`."""
    lanes = self.replay.num_lanes
    return Acting(state.params, self.settings.epsilon(state.steps, lanes))

  def initial_memory(self, num_lanes: int) -> PyTree:
    """None."""
    del num_lanes
    return ()

  def _logits(
    self,
    params: PyTree,
    observation: Shaped[Array, 'b ...'],
    key: Key[Array, ''] | None = None,
  ) -> Float[Array, 'b a z']:
    noisy = self.settings.noisy and key is not None
    rngs = {networks.NOISE: key} if noisy else None
    return self.network.apply(params, observation, rngs=rngs)

  def act(
    self,
    acting: Acting,
    memory: PyTree,
    observation: Shaped[Array, 'n ...'],
    first: Bool[Array, ' n'],
    key: Key[Array, ''],
  ) -> learner_lib.Action:
    """The best action, or one at random; see `Learner`."""
    del first
    key, noise_key = jax.random.split(key)
    logits = self._logits(acting.params, observation, noise_key)
    action = self._explore(logits, acting.epsilon, key)
    return learner_lib.Action(memory, action, ())

  def greedy(
    self,
    acting: Acting,
    memory: PyTree,
    observation: Shaped[Array, 'n ...'],
    first: Bool[Array, ' n'],
    key: Key[Array, ''],
  ) -> learner_lib.Action:
    """The best action without noise, nearly always; see `Learner`."""
    del first
    logits = self._logits(acting.params, observation)
    action = self._explore(logits, self.settings.greedy_epsilon, key)
    return learner_lib.Action(memory, action, ())

  def _explore(
    self,
    logits: Float[Array, 'n a z'],
    epsilon: Float[Array, ' n'] | float,
    key: Key[Array, ''],
  ) -> Shaped[Array, ' n']:
    best = jnp.argmax(c51.mean(logits, self._atoms), -1).astype(jnp.int32)
    whether_key, which_key = jax.random.split(key)
    anything = jax.random.randint(
      which_key, best.shape, 0, self.action_space.n, jnp.int32
    )
    whether = jax.random.uniform(whether_key, best.shape) < epsilon
    return jnp.where(whether, anything, best)

  def final(
    self, acting: Acting, memory: PyTree, observation: Shaped[Array, 'n ...']
  ) -> PyTree:
    """Nothing: windows end before a truncation."""
    del acting, memory, observation
    return ()

  def learn(
    self,
    state: RainbowState,
    trajectory: learner_lib.Trajectory,
    key: Key[Array, ''],
  ) -> tuple[RainbowState, dict[str, Array]]:
    """Inserts, then makes the updates due, once there is enough to sample.

    Args:
      state: before.
      trajectory: the next steps.
      key: for this iteration only.

    Returns:
      The state after and the means over the updates; zeros before the first.
    """
    rewards = self._rewards(trajectory.reward)
    replay = self.replay.insert(
      state.replay, trajectory._replace(reward=rewards)
    )
    steps = state.steps + rewards.size
    state = state.replace(replay=replay, steps=steps)
    state, metrics = iterate.updates(
      self._update,
      state,
      key,
      count=self.num_updates,
      min_size=self.settings.min_replay,
    )
    return state, {
      **metrics,
      'epsilon': self.acting(state).epsilon.mean(),
      'replay_size': state.replay.size.astype(jnp.float32),
      'updates': state.updates.astype(jnp.float32),
    }

  def _rewards(self, reward: Float[Array, 'T n']) -> Float[Array, 'T n']:
    reward = reward * self.settings.reward_scale
    bound = self.settings.reward_clip
    return reward if bound is None else jnp.clip(reward, -bound, bound)

  def _update(
    self, state: RainbowState, key: Key[Array, '']
  ) -> tuple[RainbowState, dict[str, Array]]:
    """One batch."""
    sample_key, noise_key = jax.random.split(key)
    batch = self.replay.sample(
      state.replay, sample_key, self.settings.batch_size
    )
    target = optax.periodic_update(
      state.params, state.target, state.updates, self.settings.target_interval
    )
    weights = buffer.importance_weights(
      batch.probability, state.replay.size, self._weight_exponent(state.steps)
    )
    loss = functools.partial(self._loss, target, batch, weights, noise_key)
    grads, (priority, metrics) = jax.grad(loss, has_aux=True)(state.params)
    change, opt_state = self._optimizer.update(
      grads, state.opt_state, state.params
    )
    metrics['grad_norm'] = optax.tree.norm(grads)
    state = state.replace(
      params=optax.apply_updates(state.params, change),
      target=target,
      opt_state=opt_state,
      replay=self.replay.update(state.replay, batch.index, priority),
      updates=state.updates + 1,
    )
    return state, metrics

  def _weight_exponent(self, steps: Array) -> Array | float:
    chosen = self.settings
    first, last = chosen.weight_exponent, chosen.weight_exponent_last
    if last is None:
      return first
    return first + (last - first) * jnp.minimum(steps / chosen.weight_steps, 1)

  def _loss(
    self,
    target: PyTree,
    batch: buffer.Batch,
    weights: Float[Array, ' b'],
    key: Key[Array, ''],
    params: PyTree,
  ) -> tuple[Array, tuple[Array, dict[str, Array]]]:
    atoms = self._atoms
    keys = jax.random.split(key, 3)
    judge = self._logits(target, batch.next_observation, keys[0])
    selector = judge
    if self.settings.double:
      selector = self._logits(params, batch.next_observation, keys[1])
    goal = losses.target(selector, judge, batch.reward, batch.discount, atoms)
    logits = self._logits(params, batch.observation, keys[2])
    each = losses.cross_entropy(logits, batch.action, goal.probability)
    loss = losses.weighted_mean(each, weights)
    metrics = {
      'loss': loss,
      'q': c51.mean(logits, atoms).mean(),
      'target': jnp.sum(goal.probability * atoms, axis=-1).mean(),
      'overflow': goal.overflow.mean(),
      'weight': jnp.mean(weights / weights.max()),
      'priority': each.mean(),
    }
    return loss, (jax.lax.stop_gradient(each), metrics)
