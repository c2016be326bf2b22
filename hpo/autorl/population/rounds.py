"""A population-based method behind ask and tell, for runs in several processes.

Each round asks for one job per member, which continues the job of its parent up to
the budget of the round. The next round begins when all members have a result.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hpo import spaces
from hpo.autorl import asking
from hpo.autorl.population import protocol
from rl import ranges

__all__ = ['Rounds']


@dataclasses.dataclass(frozen=True)
class Rounds:
  """See the module; an `asking.Method`.

  Attributes:
    method: makes the method for a space, such as `pbt.PBT`.
    size: members, 2 or more.
    rounds: number of rounds.
    interval: steps of a member in a round.
  """

  method: Callable[[spaces.Space], protocol.Method]
  size: int
  rounds: int
  interval: int

  def __post_init__(self) -> None:
    ranges.check_counts(rounds=self.rounds, interval=self.interval)
    ranges.check_counts(least=2, size=self.size)

  def propose(
    self, history: asking.History, count: int
  ) -> list[asking.Proposal]:
    """See `asking.Method`; finished after the last round."""
    records, size = history.records, self.size
    rounds, members = divmod(len(records), size)
    waits = any(r.told is None for r in records[: rounds * size])
    if rounds == self.rounds or waits:
      return []
    method = self.method(history.space)
    state, parents = self._after(method, history, rounds)
    budget = (rounds + 1) * self.interval
    found = []
    for member in range(members, min(size, members + count)):
      codes = np.asarray(state.codes[member], np.float64)
      parent = None
      if rounds:
        parent = (rounds - 1) * size + int(parents[member])
      found.append(
        asking.Proposal(_point(history.space, codes), budget, parent)
      )
    return found

  def _after(
    self, method: protocol.Method, history: asking.History, rounds: int
  ) -> tuple[Any, Any]:
    """State and parents after some rounds, from where the memory ends."""
    key, memory = jax.random.key(history.seed), history.memory
    if 'rounds' not in memory:
      state = method.init(jax.random.fold_in(key, 0), self.size, self.rounds)
      step = jax.jit(method.step)
      memory |= {'rounds': 0, 'found': (state, None), 'step': step}
    while memory['rounds'] < rounds:
      number = memory['rounds']
      rows = history.records[number * self.size : (number + 1) * self.size]
      scores = [np.nan if r.score is None else r.score for r in rows]
      memory['found'] = memory['step'](
        memory['found'][0],
        jnp.float32(jnp.array(scores)),
        jax.random.fold_in(key, number + 1),
      )
      memory['rounds'] = number + 1
    return memory['found']


def _point(space: spaces.Space, codes: np.ndarray) -> dict[str, spaces.Value]:
  """The point of codes in float32, whose rounding may leave the bounds."""
  unit = np.clip(space.to_unit(codes[None]), 0, 1)
  return space.point(space.from_unit(unit)[0])
