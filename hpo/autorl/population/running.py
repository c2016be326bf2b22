"""A population in one program: rounds of learning, then exploit and explore."""

from typing import Any

import flax
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, PyTree

from hpo.autorl import inner as inner_lib
from hpo.autorl import traced
from hpo.autorl.population import protocol

__all__ = ['Population', 'Round', 'mean_score', 'play', 'run', 'start']


@flax.struct.dataclass
class Population:
  """All that changes.

  Attributes:
    members: states of the inner loop, leaves [n, ...].
    method: state of the method.
    rounds: so far, int32.
    key: never changes; rounds fold their number into it.
  """

  members: PyTree
  method: PyTree
  rounds: Any
  key: Any


@flax.struct.dataclass
class Round:
  """What happened in a round: a row of schedule and lineage.

  Attributes:
    codes: settings in it, float32 [n, d].
    scores: after it, float32 [n]; NaN: failed.
    parents: int32 [n]; where each member of the next round comes from.
    metrics: of the inner loop by name, [n] each.
  """

  codes: Any
  scores: Any
  parents: Any
  metrics: Any


def start(
  inner: inner_lib.Inner,
  method: protocol.Method,
  key: Key[Array, ''],
  *,
  size: int,
  rounds: int,
) -> Population:
  """A population before its first round; may be traced.

  Args:
    inner: the learner that is tuned.
    method: how.
    key: of everything.
    size: n, members.
    rounds: that there will be at most.
  """
  first, second, third = jax.random.split(key, 3)
  members = jax.vmap(inner.init)(jax.random.split(first, size))
  state = method.init(second, size, rounds)
  return Population(members, state, jnp.int32(0), third)


def play(
  inner: inner_lib.Inner,
  method: protocol.Method,
  population: Population,
  *,
  updates: int,
) -> tuple[Population, Round]:
  """One round; may be traced.

  Args:
    inner: the learner that is tuned.
    method: how.
    population: before the round.
    updates: of the inner loop in the round.
  """
  codes = population.method.codes
  key = jax.random.fold_in(population.key, population.rounds)
  first, second = jax.random.split(key)
  zeta = traced.zeta(method.space, codes)
  keys = jax.random.split(first, len(codes))

  def learn(state: PyTree, zeta: Any, key: Array) -> inner_lib.Update:
    def update(state: PyTree, key: Array) -> tuple[PyTree, tuple]:
      found = inner.update(state, zeta, key)
      return found.state, (found.score, found.metrics)

    keys = jax.random.split(key, updates)
    state, (scores, metrics) = jax.lax.scan(update, state, keys)
    metrics = jax.tree.map(lambda x: x.mean(), metrics)
    return inner_lib.Update(state, inner_lib.sound(scores[-1]), metrics)

  found = jax.vmap(learn)(population.members, zeta, keys)
  after = method.step(population.method, found.score, second)
  members = jax.tree.map(lambda x: x[after.parents], found.state)
  population = population.replace(
    members=members, method=after.state, rounds=population.rounds + 1
  )
  return population, Round(codes, found.score, after.parents, found.metrics)


def mean_score(scores: Float[Array, '*n']) -> Float[Array, '']:
  """The mean score of members that have not failed; 0 where all have.

  Args:
    scores: NaN: the member failed.
  """
  is_sound = ~jnp.isnan(scores)
  total = jnp.sum(jnp.where(is_sound, scores, 0))
  return total / jnp.maximum(jnp.sum(is_sound), 1)


def run(
  inner: inner_lib.Inner,
  method: protocol.Method,
  key: Key[Array, ''],
  *,
  size: int,
  rounds: int,
  updates: int = 1,
) -> tuple[Population, Round]:
  """A whole run as one scan; may be traced, and mapped over keys.

  Returns:
    The population at the end, and all rounds, leaves [rounds, n, ...].
  """
  begin = start(inner, method, key, size=size, rounds=rounds)
  step = lambda population, _: play(inner, method, population, updates=updates)
  return jax.lax.scan(step, begin, length=rounds)
