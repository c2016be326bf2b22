"""Rollouts of simulators: members of a population in lanes, round by round.

Letters: n pairs (or thetas), s sides of a pair (2 if mirrored), e episodes of a
member, L lanes. The n s e episodes fill the lanes in rounds; a round ends with
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

__all__ = ['Rollouts', 'VectorEvaluator', 'check_candidates', 'summarized']


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
  """Of members: what `evaluator.Evaluator.evaluate` returns.

  Args:
    rollouts: of all episodes; those of lost directions may hold anything.
    valid: which directions came back; None: all.

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
  """What the lanes of one round do; direction, side and episode of each."""

  direction: Int[np.ndarray, ' L']
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
    policy: what acts in them.
    episodes: e, per member; each has a key of its own.
    max_steps: where episodes are cut; None: only where the lanes end them.
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
    candidates: evaluator_lib.Perturbations | Float[Array, 'n d'],
    keys: Key[Array, ' keys'],
    normalizer: normalizer_lib.Statistics | None,
  ) -> evaluator_lib.Evaluation:
    """See `evaluator.Evaluator.evaluate`; what is finite is valid.

    Raises:
      ValueError: if the number of parameters is not the policy's, or there are
        more or fewer keys than thetas.
    """
    return summarized(self.rollouts(candidates, keys, normalizer))

  def rollouts(
    self,
    candidates: evaluator_lib.Perturbations | Float[Array, 'n d'],
    keys: Key[Array, ' keys'],
    normalizer: normalizer_lib.Statistics | None,
    *,
    start: int = 0,
  ) -> Rollouts:
    """Runs the directions start, ..., start + len(keys) - 1 of a population.

    Args:
      candidates: a population, or only the thetas of these keys.
      keys: of these directions or thetas.
      normalizer: as `evaluator.Evaluator.evaluate` takes it.
      start: the first direction.

    Raises:
      ValueError: as `evaluate`.
    """
    check_candidates(candidates, keys.shape[0], self.policy.size)
    sides = _sides(candidates)
    shape = (keys.shape[0], sides, self.episodes)
    total, width = int(np.prod(shape)), self.env.num_lanes
    found = []
    for first in range(0, total, width):
      lanes = np.arange(first, first + width)
      # Lanes that fill up the last round repeat its last episode unseen.
      parts = np.unravel_index(np.minimum(lanes, total - 1), shape)
      what = _Round(*parts, included=lanes < total)
      params = self._params(candidates, what, start)
      lane_keys = _episode_keys(keys, what.direction, what.episode)
      found.append(self._play(params, lane_keys, what.included, normalizer))
    axes = lambda *x: np.moveaxis(
      np.concatenate(x)[:total].reshape(*shape, *x[0].shape[1:]),
      (0, 2),
      (2, 0),
    )
    return Rollouts(*jax.tree.map(axes, *found))

  def _params(self, candidates: Any, what: _Round, start: int) -> PyTree:
    """Of the policies in the lanes."""
    if not isinstance(candidates, evaluator_lib.Perturbations):
      return self._unraveled(jnp.asarray(candidates)[what.direction])
    directions = start + what.direction
    # Aligned to what is drawn together, and as many rows in every round.
    block = candidates.directions.rows_per_block(candidates.size)
    each = _sides(candidates) * self.episodes
    most = (self.env.num_lanes - 1) // each + 2
    rows = -(-(most + block - 1) // block) * block
    first = int(directions[0]) // block * block
    return self._regenerated(
      candidates, first, directions - first, what.side, rows
    )

  @functools.partial(jax.jit, static_argnums=0)
  def _unraveled(self, thetas: Float[Array, 'L d']) -> PyTree:
    return jax.vmap(self.policy.unravel)(thetas)

  @functools.partial(jax.jit, static_argnums=(0, 5))
  def _regenerated(
    self,
    population: evaluator_lib.Perturbations,
    first: Int[Array, ''] | int,
    row: Int[Array | np.ndarray, ' L'],
    side: Int[Array | np.ndarray, ' L'],
    rows: int,
  ) -> PyTree:
    drawn = evaluator_lib.members(population, first, count=rows)
    return jax.vmap(self.policy.unravel)(drawn[side, row])

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
    """Counts what the lanes see, then acts; and which actions are finite."""
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


def _sides(candidates: Any) -> int:
  if isinstance(candidates, evaluator_lib.Perturbations):
    return 1 + candidates.mirrored
  return 1


@jax.jit
def _episode_keys(
  keys: Key[Array, ' n'],
  direction: Int[Array | np.ndarray, ' L'],
  episode: Int[Array | np.ndarray, ' L'],
) -> Key[Array, ' L']:
  return jax.vmap(jax.random.fold_in)(keys[direction], episode)


def check_candidates(candidates: Any, count: int, size: int) -> None:
  """Rejects what does not fit the keys or the policy.

  Args:
    candidates: as `evaluator.Evaluator.evaluate` takes them.
    count: how many keys there are.
    size: parameters of the policy.

  Raises:
    ValueError: naming the numbers.
  """
  thetas = candidates
  if isinstance(candidates, evaluator_lib.Perturbations):
    thetas = candidates.theta[None]
  elif thetas.shape[0] != count:
    raise ValueError(
      f'there must be a key per theta, got {count} keys for {thetas.shape}'
    )
  if thetas.shape[1] != size:
    raise ValueError(f'the policy has {size} parameters, got {thetas.shape[1]}')
