"""One run whose settings a bandit chooses while it learns."""

import dataclasses
from typing import Any

import flax
import jax
import jax.numpy as jnp
from jaxtyping import Array, Key, PyTree

from hpo.autorl import bandits, programs
from hpo.autorl import inner as inner_lib
from rl import ranges

__all__ = ['BanditState', 'BanditTuned']


@flax.struct.dataclass
class BanditState:
  """All that changes.

  Attributes:
    inner: state of the inner loop.
    bandit: state of the bandit.
  """

  # Not annotated by shape: transformations put other things into the leaves.
  inner: Any
  bandit: Any


@dataclasses.dataclass(frozen=True)
class BanditTuned:
  """An inner loop with the settings of an arm; a `programs.Program`.

  Attributes:
    inner: the learner that is tuned.
    arms: settings, by name each: ((('learning_rate', 0.1), ...), ...).
    bandit: chooses among them; None: there is one arm.
    updates: of the inner loop, for each pull, whose score is their mean score.

  Raises:
    ValueError: if the bandit has another number of arms, or arms differ in
      their names.
  """

  inner: inner_lib.Inner
  arms: tuple[tuple[tuple[str, float], ...], ...]
  bandit: bandits.Bandit | None = None
  updates: int = 1

  def __post_init__(self) -> None:
    ranges.check_counts(updates=self.updates)
    count = 1 if self.bandit is None else self.bandit.num_arms
    if len(self.arms) != count:
      raise ValueError(
        f'the bandit has {count} arms, got settings of {len(self.arms)}'
      )
    names = {tuple(sorted(dict(arm))) for arm in self.arms}
    if len(names) > 1:
      raise ValueError(f'arms must set the same names, got {sorted(names)}')

  def init(self, key: Key[Array, '']) -> BanditState:
    """See `programs.Program`."""
    bandit = () if self.bandit is None else self.bandit.init()
    return BanditState(self.inner.init(key), bandit)

  def step(
    self, state: BanditState, key: Key[Array, '']
  ) -> tuple[BanditState, dict[str, Array]]:
    """Pulls an arm; see `programs.Program`."""
    arm = jnp.int32(0)
    if self.bandit is not None:
      arm = self.bandit.select(state.bandit)
    zeta = {
      name: jnp.asarray([dict(a)[name] for a in self.arms], jnp.float32)[arm]
      for name, _ in self.arms[0]
    }

    def update(inner: PyTree, key: Array) -> tuple[PyTree, tuple]:
      found = self.inner.update(inner, zeta, key)
      return found.state, (found.score, dict(found.metrics))

    keys = jax.random.split(key, self.updates)
    inner, (scores, metrics) = jax.lax.scan(update, state.inner, keys)
    bandit = state.bandit
    if self.bandit is not None:
      bandit = self.bandit.update(bandit, arm, jnp.mean(scores))
    steps = jnp.float32(self.updates * self.inner.steps)
    return BanditState(inner, bandit), {
      **{name: jnp.mean(x) for name, x in metrics.items()},
      **zeta,
      'tuned_score': jnp.mean(scores),
      programs.STEPS: steps,
    }

  def evaluate(
    self, state: BanditState, key: Key[Array, '']
  ) -> dict[str, Array]:
    """See `programs.Program`."""
    return {'score': self.inner.evaluate(state.inner, key)}
