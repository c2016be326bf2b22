"""Learning a distribution of architectures by the score-function gradient."""

import abc
import dataclasses
from collections.abc import Callable
from typing import Any

import flax
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int, Key, PyTree

from nas.es_enas import space as space_lib
from rl import ranges
from rl.es import shaping

__all__ = ['Batch', 'PolicyController', 'State', 'objective']


@flax.struct.dataclass
class State:
  """State of a controller that learns a distribution.

  Attributes:
    params: of the distribution.
    opt_state: of the optimiser.
  """

  params: PyTree
  opt_state: PyTree


@flax.struct.dataclass
class Batch:
  """What an update learns from.

  Attributes:
    architectures: int32 [n, D].
    advantages: [n]; 0 where not valid.
    valid: bool [n].
    log_probs: [n]; of the distribution that proposed them.
  """

  architectures: Any
  advantages: Any
  valid: Any
  log_probs: Any


# Of parameters and one architecture: its log-probability and entropy.
Score = Callable[
  [PyTree, Int[Array, ' D']], tuple[Float[Array, ''], Float[Array, '']]
]


@dataclasses.dataclass(frozen=True)
class PolicyController(abc.ABC):
  """A `base.Controller` that learns a distribution; see its subclasses.

  A generation makes the advantages A = (F - mean) / (std + 1e-8) and ascends
  `objective`. The architectures must come from `propose` of the same state.

  Attributes:
    space: what it proposes from.
    optimizer: gets minus the gradient.
    entropy_weight: of the entropy in the objective.
    clip: of PPO's ratios; None: no ratios, the plain score-function gradient.
    epochs: passes over a generation; more than one needs `clip`.
    minibatches: parts of a pass, which make one update each; more than one needs
      `clip`.

  Raises:
    ValueError: if a number is out of range, or more than one update is made
      without `clip`.
  """

  space: space_lib.Space
  optimizer: optax.GradientTransformation
  entropy_weight: float = 0.01
  clip: float | None = None
  epochs: int = 1
  minibatches: int = 1
  pure = True

  def __post_init__(self) -> None:
    ranges.check_not_negative(entropy_weight=self.entropy_weight)
    ranges.check_positive(clip=self.clip)
    ranges.check_counts(epochs=self.epochs, minibatches=self.minibatches)
    if self.clip is None and self.epochs * self.minibatches > 1:
      raise ValueError(
        'more than one update of a generation needs clip, got clip=None '
        f'epochs={self.epochs} minibatches={self.minibatches}'
      )

  @abc.abstractmethod
  def initial(self, key: Key[Array, '']) -> PyTree:
    """Parameters of the uniform distribution."""

  @abc.abstractmethod
  def sample(self, params: PyTree, key: Key[Array, '']) -> Int[Array, ' D']:
    """Draws an architecture."""

  @abc.abstractmethod
  def score(
    self, params: PyTree, architecture: Int[Array, ' D']
  ) -> tuple[Float[Array, ''], Float[Array, '']]:
    """Log-probability, nats; and the sum of the entropies of its decisions.

    Each entropy is given the decisions before it. The mean of the sum over
    samples is the entropy of the distribution.
    """

  @abc.abstractmethod
  def mode(self, params: PyTree) -> Int[Array, ' D']:
    """The architecture that is held for the best."""

  def init(self, key: Key[Array, ''], count: int) -> State:
    """See `base.Controller`."""
    del count
    params = self.initial(key)
    return State(params, self.optimizer.init(params))

  def propose(
    self, state: State, key: Key[Array, ''], count: int
  ) -> Int[Array, 'count D']:
    """See `base.Controller`."""
    keys = jax.random.split(key, count)
    return jax.vmap(self.sample, in_axes=(None, 0))(state.params, keys)

  def feedback(
    self,
    state: State,
    key: Key[Array, ''],
    architectures: Int[Array, 'n D'],
    scores: Float[Array, ' n'],
    valid: Bool[Array, ' n'],
  ) -> tuple[State, dict[str, Array]]:
    """See `base.Controller`; reports the entropy before the update."""
    each = jax.vmap(self.score, in_axes=(None, 0))
    log_probs, entropies = each(state.params, architectures)
    advantages = shaping.z_score(scores, valid)
    batch = Batch(architectures, advantages, valid, log_probs)
    mean = _mean(entropies, valid)
    if self.epochs * self.minibatches == 1:
      return self._updated(state, batch), {'entropy': mean}
    parts = self._parts(key, batch)
    step = lambda state, part: (self._updated(state, part), None)
    return jax.lax.scan(step, state, parts)[0], {'entropy': mean}

  def _parts(self, key: Key[Array, ''], batch: Batch) -> Batch:
    """The minibatches of all passes, [epochs * minibatches, size, ...].

    A size that does not divide n is rounded up. Rows that fill up the last part are not valid.
    """
    count = batch.valid.shape[0]
    size = -(-count // self.minibatches)
    padded = jnp.arange(size * self.minibatches)
    keys = jax.random.split(key, self.epochs)
    order = jax.vmap(lambda k: jax.random.permutation(k, padded))(keys)
    order = order.reshape(-1, size)
    taken = lambda leaf: jnp.take(leaf, order, 0, mode='clip')
    parts = jax.tree.map(taken, batch)
    return parts.replace(valid=parts.valid & (order < count))

  def _updated(self, state: State, batch: Batch) -> State:
    """One step of the optimiser; none where nothing is valid."""
    loss = lambda params: (
      -objective(self.score, params, batch, self.entropy_weight, self.clip)
    )
    grads = jax.grad(loss)(state.params)
    updates, opt_state = self.optimizer.update(
      grads, state.opt_state, state.params
    )
    moved = State(optax.apply_updates(state.params, updates), opt_state)
    some = jnp.any(batch.valid)
    return jax.tree.map(
      lambda new, old: jnp.where(some, new, old), moved, state
    )

  def best(self, state: State) -> Int[Array, ' D']:
    """See `mode`."""
    return self.mode(state.params)


def _mean(
  values: Float[Array, ' n'], valid: Bool[Array, ' n']
) -> Float[Array, '']:
  total = jnp.sum(jnp.where(valid, values, 0))
  return total / jnp.maximum(jnp.sum(valid), 1)


def objective(
  score: Score,
  params: PyTree,
  batch: Batch,
  entropy_weight: float,
  clip: float | None,
) -> Float[Array, '']:
  """What a controller ascends: mean of A log p(m), plus the weighted entropy.

  Its gradient estimates that of the expected score, up to the scale of the
  advantages. With `clip`, PPO's surrogate takes the place of A log p(m): the
  lesser of r A and r' A, where r = p(m) / p_old(m), and r' is r within
  [1 - clip, 1 + clip].

  Args:
    score: log-probability and entropy of one architecture.
    params: of the distribution.
    batch: of architectures with their advantages.
    entropy_weight: of the entropy.
    clip: of the ratios; None: no ratios.

  References: Williams 1992; arXiv:1707.06347, Eq. 7.
  """
  each = jax.vmap(score, in_axes=(None, 0))
  log_probs, entropies = each(params, batch.architectures)
  if clip is None:
    gains = batch.advantages * log_probs
  else:
    ratios = jnp.exp(log_probs - batch.log_probs)
    clipped = jnp.clip(ratios, 1 - clip, 1 + clip)
    gains = jnp.minimum(ratios * batch.advantages, clipped * batch.advantages)
  return _mean(gains + entropy_weight * entropies, batch.valid)
