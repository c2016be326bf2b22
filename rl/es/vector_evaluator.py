"""Rollouts of simulators: members of a population in lanes, round by round.

Letters: n rows of a population, s sides of a row (2 if mirrored), e episodes of
a member, L lanes. The n s e episodes fill the lanes in rounds; a round ends with
its longest episode. Parameters of a round are regenerated from their key when
it begins, and no more of the population ever exists.
"""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key, PyTree, Shaped

from rl import normalizer as normalizer_lib
from rl import ranges
from rl.envs import checks, protocol
from rl.es import evaluator as evaluator_lib
from rl.es import policies
from rl.es import population as population_lib

__all__ = ['Rollouts', 'VectorEvaluator', 'summarized']


class Rollouts(NamedTuple):
  """Every episode by itself, so that parts can be put together in one order.

  Attributes:
    returns: undiscounted, float32 [e, s, n].
    lengths: in steps, int32 [e, s, n].
    statistics: of observations, leaves [e, s, n, ...]; None if not normalised.
  """

  returns: Float[np.ndarray, 'e s n']
  lengths: Int[np.ndarray, 'e s n']
  statistics: normalizer_lib.Statistics | None


def summarized(
  rollouts: Rollouts, valid: Bool[np.ndarray, ' n'] | None = None
) -> evaluator_lib.Evaluation:
  """Sums up rollouts, as `evaluator.Evaluator.evaluate` returns them.

  Args:
    rollouts: of all episodes; those of lost rows may hold anything.
    valid: which rows came back; None: all.

  Returns:
    The evaluation, in the order of members. Valid are those that came back
    with a finite return.
  """
  episodes, sides, count = rollouts.returns.shape
  valid = np.ones(count, bool) if valid is None else valid
  flat = lambda x: x.reshape(episodes, sides * count, *x.shape[3:])
  total = functools.reduce(np.add, flat(rollouts.returns)) / episodes
  whole = np.tile(valid, sides) & np.isfinite(total)
  statistics = rollouts.statistics
  if statistics is not None:
    statistics = jax.tree.map(lambda x: np.array(flat(x)), statistics)
    for leaf in statistics:
      leaf[:, ~whole] = 0
    statistics = _merged(statistics)
  return evaluator_lib.Evaluation(
    jnp.asarray(total, jnp.float32),
    jnp.asarray(np.where(valid, rollouts.lengths, 0).sum(0).reshape(-1)),
    statistics,
    jnp.asarray(whole),
  )


@jax.jit
def _merged(statistics: normalizer_lib.Statistics) -> normalizer_lib.Statistics:
  """Over episodes, then over members."""
  for _ in range(2):
    statistics = normalizer_lib.merge_all(statistics)
  return statistics


class _Round(NamedTuple):
  """The row, side and episode of every lane in one round."""

  row: Int[np.ndarray, ' L']
  side: Int[np.ndarray, ' L']
  episode: Int[np.ndarray, ' L']
  included: Bool[np.ndarray, ' L']


@dataclasses.dataclass(frozen=True, eq=False)
class VectorEvaluator:
  """An `evaluator.Evaluator` for lanes stepped on the host.

  Lanes of JAX environments do too, such as those of Ray's workers; in one
  process, `jax_evaluator.JaxEvaluator` is faster.

  Its result does not depend on the number of lanes: bit by bit as long as a
  lane is a function of its key and its actions, and the policy's operations
  round alike for every number of lanes, as those of `policies.MLP` do (tested
  on CPUs). The step that ends an episode counts, later ones do not; statistics
  count as `evaluator.Evaluation` says.

  Where a policy's action is not finite its episode ends, unseen by the
  simulator, with a return of NaN: the member is not valid.

  Attributes:
    env: the lanes.
    policy: the policy that acts.
    episodes: e, per member; each has a key of its own.
    max_steps: steps after which episodes are cut; None: only where the lanes
      end them.
    clip: bound of normalised observations; None: no bound.

  Raises:
    ValueError: if a number is not positive.
  """

  env: protocol.VectorEnvironment
  policy: policies.Policy
  episodes: int = 1
  max_steps: int | None = None
  clip: float | None = None
  pure = False

  def __post_init__(self) -> None:
    ranges.check_counts(episodes=self.episodes, max_steps=self.max_steps)
    ranges.check_positive(clip=self.clip)
    if not hasattr(self.env, 'num_lanes'):
      raise ValueError(
        'env must have lanes; a single JAX environment needs JaxEvaluator, '
        f'got {type(self.env).__name__}'
      )

  @property
  def observation_shape(self) -> tuple[int, ...]:
    """See `evaluator.Evaluator`."""
    return self.env.observation_space.shape

  def evaluate(
    self,
    population: population_lib.Population,
    keys: Key[Array, ' keys'],
    normalizer: normalizer_lib.Statistics | None,
  ) -> evaluator_lib.Evaluation:
    """See `evaluator.Evaluator`; members with a finite return are valid."""
    population_lib.check_rows(population, keys.shape[0])
    return summarized(self.rollouts(population, keys, normalizer))

  def close(self) -> None:
    """Does nothing: the lanes are closed by the caller that made them."""

  def rollouts(
    self,
    population: population_lib.Population,
    keys: Key[Array, ' keys'],
    normalizer: normalizer_lib.Statistics | None,
    *,
    start: int = 0,
  ) -> Rollouts:
    """Runs the rows start, ..., start + len(keys) - 1 of a population.

    Args:
      population: with these rows.
      keys: of these rows.
      normalizer: as `evaluator.Evaluator.evaluate` takes it.
      start: the first row.

    Raises:
      ValueError: if the members do not fit the policy.
    """
    population_lib.check_size(population, self.policy.size)
    shape = (keys.shape[0], population.sides, self.episodes)
    total, width = int(np.prod(shape)), self.env.num_lanes
    found = []
    for first in range(0, total, width):
      lanes = np.arange(first, first + width)
      # Lanes that fill up the last round repeat its last episode unseen.
      parts = np.unravel_index(np.minimum(lanes, total - 1), shape)
      what = _Round(*parts, included=lanes < total)
      params = self._params(population, what, start)
      lane_keys = _episode_keys(keys, what.row, what.episode)
      found.append(self._play(params, lane_keys, what.included, normalizer))
    axes = lambda *x: np.moveaxis(
      np.concatenate(x)[:total].reshape(*shape, *x[0].shape[1:]),
      (0, 2),
      (2, 0),
    )
    return Rollouts(*jax.tree.map(axes, *found))

  def _params(
    self, population: population_lib.Population, what: _Round, start: int
  ) -> PyTree:
    """Parameters of the policies in the lanes."""
    rows = start + what.row
    # Aligned to what is drawn together, and as many rows in every round.
    block = population.rows_per_block
    each = population.sides * self.episodes
    most = (self.env.num_lanes - 1) // each + 2
    count = -(-(most + block - 1) // block) * block
    first = int(rows[0]) // block * block
    return self._regenerated(population, first, rows - first, what.side, count)

  @functools.partial(jax.jit, static_argnums=(0, 5))
  def _regenerated(
    self,
    population: population_lib.Population,
    first: Int[Array, ''] | int,
    row: Int[Array | np.ndarray, ' L'],
    side: Int[Array | np.ndarray, ' L'],
    count: int,
  ) -> PyTree:
    drawn = population.members(first, count=count)
    chosen = jax.tree.map(lambda x: x[side, row], drawn)
    return jax.vmap(self.policy.unravel)(chosen)

  @functools.cached_property
  def _env_functions(self) -> tuple[Any, Any]:
    """Reset and step; those of JAX environments compiled."""
    env = self.env
    if env.pure:
      return jax.jit(env.reset), jax.jit(env.step)
    return env.reset, env.step

  def _play(
    self,
    params: PyTree,
    keys: Key[Array, ' L'],
    included: Bool[np.ndarray, ' L'],
    normalizer: normalizer_lib.Statistics | None,
  ) -> Rollouts:
    """One episode in every lane that is included; leaves [L, ...]."""
    lanes = self.env.num_lanes
    reset, step = self._env_functions
    state, observation = reset(keys)
    memory = jax.tree.map(
      lambda x: jnp.broadcast_to(x, (lanes, *jnp.shape(x))),
      self.policy.initial_memory(),
    )
    statistics = None
    if normalizer is not None:
      statistics = normalizer_lib.empty(self.observation_shape, (lanes,))
    alive = counted = included
    returns, lengths = np.zeros(lanes, np.float32), np.zeros(lanes, np.int32)
    time = 0
    while alive.any() and time != self.max_steps:
      memory, action, finite, statistics = self._act(
        params, memory, observation, counted, statistics, normalizer
      )
      returns[alive & ~np.asarray(finite)] = np.nan
      counted = alive & np.asarray(finite)
      state, seen = step(state, np.asarray(action))
      observation = seen.final_observation
      returns += np.where(counted, seen.reward, np.float32(0))
      lengths += counted
      alive = counted & ~np.asarray(seen.terminated | seen.truncated)
      time += 1
    if statistics is not None:
      statistics = _counted(statistics, observation, counted)
    return Rollouts(returns, lengths, jax.device_get(statistics))

  @functools.partial(jax.jit, static_argnums=0)
  def _act(
    self,
    params: PyTree,
    memory: PyTree,
    observation: Shaped[Array | np.ndarray, 'L ...'],
    counted: Bool[Array | np.ndarray, ' L'],
    statistics: normalizer_lib.Statistics | None,
    normalizer: normalizer_lib.Statistics | None,
  ) -> tuple[PyTree, Array, Array, normalizer_lib.Statistics | None]:
    """Counts observations, then acts; also tells which actions are finite."""
    seen = observation
    if normalizer is not None:
      statistics = normalizer_lib.add(statistics, observation, counted)
      seen = normalizer_lib.normalize(normalizer, observation, clip=self.clip)
    memory, action = jax.vmap(self.policy.act)(params, memory, seen)
    finite = jnp.isfinite(action.astype(jnp.float32))
    finite = finite.reshape(finite.shape[0], -1).all(axis=1)
    action = checks.sanitize_action(self.env.action_space, action)
    return memory, action, finite, statistics


_counted = jax.jit(normalizer_lib.add)


@jax.jit
def _episode_keys(
  keys: Key[Array, ' n'],
  row: Int[Array | np.ndarray, ' L'],
  episode: Int[Array | np.ndarray, ' L'],
) -> Key[Array, ' L']:
  return jax.vmap(jax.random.fold_in)(keys[row], episode)
