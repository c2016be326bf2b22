"""A task whose best settings flip in the middle of a run.

On a line of cells an agent walks left or right; each step pays where it ends. In
the first half the side that pays changes every few updates, and rewards have no
noise: large steps and much entropy are best, as a policy that is sure of itself
follows too late. In the second half the side stays and rewards are noisy: small
steps and little entropy are best. No constant setting is good in both halves.

The policy is a table and its expected return is known exactly, so a run of
thousands of updates takes a second.
"""

import dataclasses
from typing import Any

import flax
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from hpo import spaces
from hpo.autorl import inner
from rl import ranges

__all__ = ['SPACE', 'DriftMDP', 'DriftState']

SPACE = spaces.Space(
  (
    spaces.Float('learning_rate', 0.01, 10.0, 'LOG'),
    spaces.Float('entropy_cost', 0.001, 1.0, 'LOG'),
  )
)


@flax.struct.dataclass
class DriftState:
  """All that changes.

  Attributes:
    logits: of the policy, float32 [cells, 2].
    updates: so far, int32.
    total: sum of the exact returns before each update, float32.
  """

  # Not annotated by shape: transformations put other things into the leaves.
  logits: Any
  updates: Any
  total: Any


@dataclasses.dataclass(frozen=True)
class DriftMDP:
  """Policy gradients on a line; an `inner.Inner`.

  Attributes:
    length: updates of a whole run; its second half is the noisy one.
    cells: of the line, an odd number; episodes begin in the middle.
    horizon: steps of an episode.
    episodes: in a batch.
    period: updates after which the side changes, in the first half.
    noise: deviation of the rewards in the second half.
    bound: on the absolute value of logits, so that no policy is beyond recovery.

  Raises:
    ValueError: if a number is out of range.
  """

  length: int = 2400
  cells: int = 7
  horizon: int = 6
  episodes: int = 16
  period: int = 40
  noise: float = 6.0
  bound: float = 2.0

  def __post_init__(self) -> None:
    ranges.check_counts(
      length=self.length,
      horizon=self.horizon,
      episodes=self.episodes,
      period=self.period,
    )
    ranges.check_counts(least=3, cells=self.cells)
    ranges.check_not_negative(noise=self.noise)
    ranges.check_positive(bound=self.bound)
    if self.cells % 2 == 0:
      raise ValueError(f'cells must be odd, got {self.cells=}')

  @property
  def steps(self) -> int:
    """See `inner.Inner`."""
    return self.horizon * self.episodes

  def init(self, key: Key[Array, '']) -> DriftState:
    """See `inner.Inner`; draws nothing."""
    del key
    logits = jnp.zeros((self.cells, 2))
    return DriftState(logits, jnp.int32(0), jnp.float32(0))

  def side(self, updates: Int[Array, '']) -> Float[Array, '']:
    """1 if cells on the right pay, -1 if those on the left do."""
    turn = (updates // self.period) % 2
    return jnp.where(self._is_noisy(updates), 1.0, 1.0 - 2.0 * turn)

  def _is_noisy(self, updates: Int[Array, '']) -> Array:
    return updates >= self.length // 2

  @property
  def _pay(self) -> Float[Array, ' cells']:
    """Reward of each cell if the right side pays."""
    return jnp.linspace(-1.0, 1.0, self.cells)

  def exact(
    self, logits: Float[Array, 'cells 2'], side: Float[Array, '']
  ) -> Float[Array, '']:
    """The expected return of an episode, without noise.

    Args:
      logits: of the policy.
      side: see `side`.
    """
    left, right = jax.nn.softmax(logits).T
    middle = jnp.zeros(self.cells).at[self.cells // 2].set(1.0)

    def step(place: Array, _: Any) -> tuple[Array, Array]:
      goes_right, goes_left = place * right, place * left
      place = jnp.pad(goes_right[:-1], (1, 0)) + jnp.pad(goes_left[1:], (0, 1))
      place = place.at[0].add(goes_left[0]).at[-1].add(goes_right[-1])
      return place, jnp.sum(place * self._pay)

    _, pays = jax.lax.scan(step, middle, length=self.horizon)
    return side * jnp.sum(pays)

  def play(
    self,
    logits: Float[Array, 'cells 2'],
    updates: Int[Array, ''],
    key: Key[Array, ''],
  ) -> tuple[Int[Array, 'T e'], Int[Array, 'T e'], Float[Array, 'T e']]:
    """Cells, actions and rewards of a batch of episodes."""
    noise = jnp.where(self._is_noisy(updates), self.noise, 0.0)
    side = self.side(updates)

    def step(place: Array, key: Array) -> tuple[Array, tuple]:
      act_key, noise_key = jax.random.split(key)
      action = jax.random.categorical(act_key, logits[place])
      goes = jnp.clip(place + 2 * action - 1, 0, self.cells - 1)
      reward = side * self._pay[goes]
      reward += noise * jax.random.normal(noise_key, goes.shape)
      return goes, (place, action, reward)

    start = jnp.full(self.episodes, self.cells // 2)
    return jax.lax.scan(step, start, jax.random.split(key, self.horizon))[1]

  def loss(
    self,
    logits: Float[Array, 'cells 2'],
    batch: tuple[Array, Array, Array],
    entropy_cost: Float[Array, ''] | float,
  ) -> Float[Array, '']:
    """Minus the surrogate of the policy gradient, and minus entropy.

    Advantages are rewards to go minus their mean at each step of the batch.
    """
    place, action, reward = batch
    to_go = jnp.cumsum(reward[::-1], 0)[::-1]
    advantage = to_go - jnp.mean(to_go, 1, keepdims=True)
    log_p = jax.nn.log_softmax(logits)
    surrogate = jnp.mean(log_p[place, action] * advantage)
    entropy = -jnp.sum(jnp.exp(log_p) * log_p, -1)
    return -surrogate - entropy_cost * jnp.mean(entropy[place])

  def moved(
    self,
    logits: Float[Array, 'cells 2'],
    grads: Float[Array, 'cells 2'],
    rate: Float[Array, ''] | float,
  ) -> Float[Array, 'cells 2']:
    """A step of descent, within the bound."""
    return jnp.clip(logits - rate * grads, -self.bound, self.bound)

  def update(
    self, state: DriftState, zeta: inner.Zeta, key: Key[Array, '']
  ) -> inner.Update:
    """See `inner.Inner`; the score is the mean return of the batch."""
    batch = self.play(state.logits, state.updates, key)
    grads = jax.grad(self.loss)(state.logits, batch, zeta['entropy_cost'])
    exact = self.exact(state.logits, self.side(state.updates))
    after = DriftState(
      self.moved(state.logits, grads, zeta['learning_rate']),
      state.updates + 1,
      state.total + exact,
    )
    score = jnp.mean(jnp.sum(batch[2], 0))
    return inner.Update(after, score, {'exact': exact})

  def evaluate(
    self, state: DriftState, key: Key[Array, '']
  ) -> Float[Array, '']:
    """See `inner.Inner`: the mean of the exact returns along the run."""
    del key
    return state.total / jnp.maximum(state.updates, 1)
