"""Rainbow: its settings, acting and learning.

Reference: Hessel et al. (2017), arXiv:1710.02298. The papers of its parts are
  named beside their code.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Key, PyTree, Shaped

from rl import exploration, ranges
from rl import learner as learner_lib
from rl.envs import spaces
from rl.rainbow import c51, networks
from rl.replay import buffer, off_policy

__all__ = ['Acting', 'Rainbow', 'RainbowLearner', 'procgen']


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rainbow(off_policy.Settings):
  """C51 with double Q, dueling streams, n steps and prioritised replay.

  Attributes beside those of `off_policy.Settings`:
    hidden: widths of the value and advantage streams.
    num_atoms: of the distribution.
    v_min: smallest return that it can represent.
    v_max: largest; the metric `overflow` says what did not fit.
    double: whether the online network chooses the action that is bootstrapped
      from, not the target network.
    dueling: whether there are two streams.
    noisy: whether the streams have learnt noise; the lanes share its draw.
    prioritized: whether cross-entropies are priorities; otherwise all steps
      are drawn alike, and the exponents below change nothing.
    priority_exponent: alpha.
    weight_exponent: beta, of the importance weights, at first.
    weight_exponent_last: beta after `weight_steps`; None: as at first.
    weight_steps: of all lanes together, over which beta changes linearly.
    initial_priority: of new steps; None: the largest so far.
    n_step: longest window.
    samples_per_insert: samples drawn per step acted.
    target_interval: updates between copies to the target network.
    epsilon: rate at which lanes act at random while training, with noise too:
      set it to zero where the noise is to explore alone.
    greedy_epsilon: the same rate in evaluation.

  Raises:
    ValueError: if a number is out of range, or nothing reads
      `initial_priority`.
  """

  hidden: tuple[int, ...] = (128, 128)
  num_atoms: int = 51
  v_min: float = -10.0
  v_max: float = 10.0
  double: bool = True
  dueling: bool = True
  noisy: bool = False
  prioritized: bool = True
  priority_exponent: float = 0.5
  weight_exponent: float = 0.4
  weight_exponent_last: float | None = None
  weight_steps: int = 100_000
  initial_priority: float | None = None
  n_step: int = 3
  samples_per_insert: float = 8.0
  batch_size: int = 32
  target_interval: int = 250
  learning_rate: ranges.Real = 2.5e-4
  adam_eps: float = 1e-5
  epsilon: exploration.Epsilon = dataclasses.field(
    default_factory=exploration.Linear
  )
  greedy_epsilon: float = 0.0
  unroll_length: int = 4

  def __post_init__(self) -> None:
    super().__post_init__()
    ranges.check_counts(
      hidden=self.hidden,
      num_atoms=self.num_atoms,
      weight_steps=self.weight_steps,
      n_step=self.n_step,
      target_interval=self.target_interval,
    )
    ranges.check_positive(
      initial_priority=self.initial_priority,
      samples_per_insert=self.samples_per_insert,
    )
    ranges.check_not_negative(
      weight_exponent=self.weight_exponent,
      weight_exponent_last=self.weight_exponent_last,
    )
    ranges.check_shares(greedy_epsilon=self.greedy_epsilon)
    if self.prioritized and self.priority_exponent <= 0:
      raise ValueError(
        'prioritized needs a positive priority_exponent, got '
        f'{self.priority_exponent}'
      )
    if self.initial_priority is not None and not self.prioritized:
      raise ValueError(
        'initial_priority needs prioritized, got '
        f'{self.initial_priority=} {self.prioritized=}'
      )
    c51.support(self.v_min, self.v_max, self.num_atoms)

  def learner(
    self,
    observation_space: spaces.Space,
    action_space: spaces.Space,
    num_lanes: int,
  ) -> 'RainbowLearner':
    """See `learner.Algorithm`.

    Raises:
      ValueError: if actions are not discrete, the replay cannot hold an
        iteration, or an iteration is not a whole number of updates.
    """
    if not isinstance(action_space, spaces.Discrete):
      raise ValueError(f'Rainbow needs discrete actions, got {action_space}')
    samples = self.samples_per_insert * num_lanes * self.unroll_length
    network = networks.Distributions(
      self.encoder,
      action_space.n,
      self.num_atoms,
      self.hidden,
      self.dueling,
      self.noisy,
    )
    return RainbowLearner(
      network=network,
      **self.fit(
        observation_space,
        action_space,
        num_lanes,
        updates=samples / self.batch_size,
        knobs='samples_per_insert / batch_size',
        n_step=self.n_step,
        exponent=self.priority_exponent if self.prioritized else 0.0,
        initial_priority=self.initial_priority if self.prioritized else 1.0,
      ),
    )


class Acting(NamedTuple):
  """The part of the state that acting needs.

  Attributes:
    params: of the online network.
    epsilon: rate at which lanes act at random in training, float32 [n].
  """

  params: PyTree
  epsilon: Float[Array, ' n']


@dataclasses.dataclass(frozen=True, kw_only=True)
class RainbowLearner(off_policy.Learner):
  """See `learner.Learner`.

  Attributes beside those of `off_policy.Learner`:
    network: of the value distributions; the target is a copy of it.
  """

  network: networks.Distributions

  @property
  def _atoms(self) -> Float[Array, ' z']:
    chosen = self.settings
    return c51.support(chosen.v_min, chosen.v_max, chosen.num_atoms)

  def first_params(
    self, key: Key[Array, ''], observation: Shaped[Array, '1 ...']
  ) -> PyTree:
    """See `off_policy.Learner`."""
    return self.network.init(key, observation)

  def judge(self, params: PyTree) -> PyTree:
    """All of them."""
    return params

  def follow(
    self, judge: PyTree, target: PyTree, updates: Shaped[Array, '']
  ) -> PyTree:
    """A copy, in intervals."""
    return optax.periodic_update(
      judge, target, updates, self.settings.target_interval
    )

  def acting(self, state: off_policy.State) -> Acting:
    """See `learner.Learner`."""
    lanes = self.replay.num_lanes
    return Acting(state.params, self.settings.epsilon(state.steps, lanes))

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
    """The best action, or one at random; see `learner.Learner`."""
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
    """The best action without noise, nearly always; see `learner.Learner`."""
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

  def learn(
    self,
    state: off_policy.State,
    trajectory: learner_lib.Trajectory,
    key: Key[Array, ''],
  ) -> tuple[off_policy.State, dict[str, Array]]:
    """See `off_policy.Learner`; adds how often lanes act at random."""
    state, metrics = super().learn(state, trajectory, key)
    return state, metrics | {'epsilon': self.acting(state).epsilon.mean()}

  def _weight_exponent(self, steps: Array) -> Array | float:
    chosen = self.settings
    first, last = chosen.weight_exponent, chosen.weight_exponent_last
    if last is None:
      return first
    return first + (last - first) * jnp.minimum(steps / chosen.weight_steps, 1)

  def loss(
    self,
    params: PyTree,
    state: off_policy.State,
    batch: buffer.Batch,
    key: Key[Array, ''],
  ) -> tuple[Array, tuple[Array, dict[str, Array]]]:
    """Weighted cross-entropies, which are the next priorities too."""
    weights = buffer.importance_weights(
      batch.probability, state.replay.size, self._weight_exponent(state.steps)
    )
    atoms = self._atoms
    keys = jax.random.split(key, 3)
    judge = self._logits(state.target, batch.next_observation, keys[0])
    selector = judge
    if self.settings.double:
      selector = self._logits(params, batch.next_observation, keys[1])
    goal = c51.target(selector, judge, batch.reward, batch.discount, atoms)
    logits = self._logits(params, batch.observation, keys[2])
    each = c51.cross_entropy(logits, batch.action, goal.probability)
    loss = c51.weighted_mean(each, weights)
    metrics = {
      'loss': loss,
      'q': c51.mean(logits, atoms).mean(),
      'target': jnp.sum(goal.probability * atoms, axis=-1).mean(),
      'overflow': goal.overflow.mean(),
      'weight': jnp.mean(weights / weights.max()),
      'priority': each.mean(),
    }
    return loss, (jax.lax.stop_gradient(each), metrics)


def procgen(encoder: nn.Module | None, **changes: Any) -> Rainbow:
  """The published settings for Procgen, 25 M steps in 4 lanes.

  Divide rewards by the game's largest return (`reward_scale`): the support is
  [0, 1], so a game with negative returns needs another `v_min`. With 4 lanes an
  iteration is 16 steps each, and one update.

  Args:
    encoder: the published one has five IMPALA stages of 64 channels.
    **changes: of these settings.

  Returns:
    The settings.

  Reference: arXiv:2106.02229, the code of its authors
    (google/brain_autorl, rl_darts/algorithms/rainbow).
  """
  published = {
    'encoder': encoder,
    'hidden': (512,),
    'v_min': 0.0,
    'v_max': 1.0,
    'priority_exponent': 0.8,
    'weight_exponent': 0.2,
    'initial_priority': 4.0,
    'n_step': 7,
    'reward_clip': 1.0,
    'capacity': 500_000,
    'min_replay': 10_000,
    'samples_per_insert': 4.0,
    'batch_size': 256,
    'target_interval': 500,
    'learning_rate': 5e-5,
    'epsilon': exploration.Powers(),
    'unroll_length': 16,
  }
  return Rainbow(**{**published, **changes})
