"""Rollouts of JAX environments: all episodes of a generation in one program.

Letters: n rows of a population, b of them in a block, e episodes of a member,
s sides of a row (2 if mirrored), m = s b lanes.

Blocks, and episodes in them, are computed one after the other (`lax.map`),
members of a block together (`vmap`), so that a block's parameters stay in the
cache and no more of the population ever exists. Over a mesh each device takes
its blocks, and regenerates their directions itself: only returns and statistics
are gathered.

An episode draws what a lane of `rl.envs.lanes` with its key draws: strategies
take the same steps in one program, in lanes and on Ray, up to rounding.

Statistics are gathered for each episode and merged in one place, in the order
of the members: merged inside blocks, their last digits would depend on blocks.
That holds 2 p e observations at once, p members.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Key, PyTree

from rl import normalizer as normalizer_lib
from rl import ranges
from rl.envs import checks, protocol
from rl.envs import lanes as lanes_lib
from rl.es import evaluator as evaluator_lib
from rl.es import policies
from rl.es import population as population_lib

__all__ = ['JaxEvaluator']


def _automatic(mesh: jax.sharding.Mesh) -> jax.sharding.Mesh:
  """The same devices; arguments of any sharding may go in."""
  types = (jax.sharding.AxisType.Auto,) * len(mesh.axis_names)
  return jax.sharding.Mesh(mesh.devices, mesh.axis_names, axis_types=types)


def _gathered(
  run: Callable[..., PyTree], axes: tuple[str, ...], *arguments: PyTree
) -> PyTree:
  """Results of all devices on each, so that sums of them have one order."""
  gather = lambda x: jax.lax.all_gather(x, axes, tiled=True)
  return jax.tree.map(gather, run(*arguments))


def _flat(x: Array, *, count: int) -> Array:
  """[blocks, e, s, b, ...] to [e, s count, ...], members in order."""
  blocks, episodes, sides, size, *rest = x.shape
  x = jnp.moveaxis(x, 0, 2).reshape(episodes, sides, blocks * size, *rest)
  return x[:, :, :count].reshape(episodes, sides * count, *rest)


def _kept(valid: Bool[Array, ' p'], x: Array) -> Array:
  """[e, p, ...], with 0 for the members that are not valid."""
  return jnp.where(valid.reshape(-1, *[1] * (x.ndim - 2)), x, 0)


class _Carry(NamedTuple):
  """The state of m episodes; all but `time` with an axis of lanes."""

  time: Array
  state: PyTree
  observation: Array
  memory: PyTree
  alive: Array
  returns: Array
  lengths: Array
  statistics: normalizer_lib.Statistics | None


@dataclasses.dataclass(frozen=True)
class JaxEvaluator:
  """An `evaluator.Evaluator` for environments in JAX.

  Its result does not depend on the mesh or the block size: bit by bit as long
  as the policy's and the environment's operations round alike for every number
  of lanes, as those of `policies.MLP` do (tested on CPUs).

  Attributes:
    env: the environment.
    policy: the policy that acts.
    episodes: e, per member; each has a key of its own.
    max_steps: steps after which episodes are cut; None: the environment's own
      limit.
    clip: bound of normalised observations; None: no bound.
    mesh: devices to spread blocks over, along all its axes; None: one device.
    block: b, a power of two; None: as many as fit `cache_bytes`, and no more
      than give work to every device.
    cache_bytes: size of a block's parameters.

  Raises:
    ValueError: if a number is not positive, b is not a power of two or env has
      lanes.
  """

  env: protocol.Environment
  policy: policies.Policy
  episodes: int = 1
  max_steps: int | None = None
  clip: float | None = None
  mesh: jax.sharding.Mesh | None = None
  block: int | None = None
  cache_bytes: int = population_lib.CACHE_BYTES
  pure = True

  def __post_init__(self) -> None:
    ranges.check_counts(
      episodes=self.episodes,
      max_steps=self.max_steps,
      block=self.block,
      cache_bytes=self.cache_bytes,
    )
    ranges.check_positive(clip=self.clip)
    if hasattr(self.env, 'num_lanes'):
      raise ValueError(
        'env must be a single JAX environment; lanes and simulators need '
        f'backends.Lanes or VectorEvaluator, got {type(self.env).__name__}'
      )
    ranges.check_counts(**{'max_steps of env': self.env.max_steps})
    if self.block and self.block & (self.block - 1):
      raise ValueError(f'block must be a power of two, got {self.block}')

  @property
  def observation_shape(self) -> tuple[int, ...]:
    """See `evaluator.Evaluator`."""
    return self.env.observation_space.shape

  @functools.partial(jax.jit, static_argnums=0)
  def evaluate(
    self,
    population: population_lib.Population,
    keys: Key[Array, ' keys'],
    normalizer: normalizer_lib.Statistics | None,
  ) -> evaluator_lib.Evaluation:
    """See `evaluator.Evaluator`; members with a finite return are valid."""
    count = keys.shape[0]
    population_lib.check_rows(population, count)
    population_lib.check_size(population, self.policy.size)
    block, blocks = self._blocks(population, count)
    # Blocks that fill up the last ones repeat the last key and are cut off.
    slots = jnp.arange(block * blocks)
    repeated = jnp.minimum(slots, count - 1)
    starts = jnp.arange(0, block * blocks, block)
    parts = (starts, keys[repeated].reshape(blocks, block))
    run = functools.partial(self._run, count=count)
    if self.mesh is not None:
      spec = jax.sharding.PartitionSpec
      mesh = _automatic(self.mesh)
      split = spec(mesh.axis_names)
      run = functools.partial(_gathered, run, mesh.axis_names)
      # The loop's initial values are equal on all devices, its results not.
      run = jax.shard_map(
        run,
        mesh=mesh,
        in_specs=(spec(), spec(), split),
        out_specs=spec(),
        check_vma=False,
      )
    returns, lengths, statistics = run(population, normalizer, parts)
    # [blocks, e, s, b] to [e, s n].
    flat = functools.partial(_flat, count=count)
    returns, lengths = flat(returns), flat(lengths)
    # Added one by one: the order of a sum could depend on the number of lanes.
    returns = functools.reduce(jnp.add, list(returns)) / self.episodes
    lengths = jnp.sum(lengths, axis=0)
    valid = jnp.isfinite(returns)
    if statistics is not None:
      statistics = jax.tree.map(flat, statistics)
      statistics = jax.tree.map(functools.partial(_kept, valid), statistics)
      for _ in range(2):
        statistics = normalizer_lib.merge_all(statistics)
    return evaluator_lib.Evaluation(returns, lengths, statistics, valid)

  def close(self) -> None:
    """Nothing is held."""

  def _blocks(
    self, population: population_lib.Population, count: int
  ) -> tuple[int, int]:
    """Size and number of blocks; the number divides by the devices."""
    devices = 1 if self.mesh is None else self.mesh.size
    block = self.block
    if block is None:
      fits = population_lib.rows_in_cache(
        population.sides * self.policy.size, self.cache_bytes
      )
      share = 1 << (-(-count // devices) - 1).bit_length()
      block = min(max(fits, population.rows_per_block), share)
    return block, -(-count // (block * devices)) * devices

  def _run(
    self,
    population: population_lib.Population,
    normalizer: normalizer_lib.Statistics | None,
    parts: tuple[Array, Array],
    *,
    count: int,
  ) -> tuple[Array, Array, normalizer_lib.Statistics | None]:
    """Returns, lengths, statistics of all episodes, [blocks, e, s, b]."""

    def one(part: tuple) -> tuple:
      start, keys = part
      size = keys.shape[0]
      members = population.members(start, count=size)
      included = start + jnp.arange(size) < count
      return self._block(members, population.sides, keys, included, normalizer)

    return jax.lax.map(one, parts)

  def _block(
    self,
    members: PyTree,
    sides: int,
    keys: Key[Array, ' b'],
    included: Bool[Array, ' b'],
    normalizer: normalizer_lib.Statistics | None,
  ) -> tuple[Array, Array, normalizer_lib.Statistics | None]:
    """Results of one block, [e, s, b]; excluded members take no step."""
    size = keys.shape[0]
    flat = lambda x: x.reshape(sides * size, *x.shape[2:])
    params = jax.vmap(self.policy.unravel)(jax.tree.map(flat, members))
    limit = min(self.env.max_steps, self.max_steps or self.env.max_steps)

    def episode(index: Array) -> tuple:
      first, episode_keys = self._start(
        keys, index, included, sides, normalizer
      )
      last = jax.lax.while_loop(
        lambda carry: (carry.time < limit) & jnp.any(carry.alive),
        lambda carry: self._advance(params, episode_keys, normalizer, carry),
        first,
      )
      return last.returns, last.lengths, last.statistics

    found = jax.lax.map(episode, jnp.arange(self.episodes))
    axes = lambda x: x.reshape(x.shape[0], sides, size, *x.shape[2:])
    return jax.tree.map(axes, found)

  def _start(
    self,
    keys: Key[Array, ' b'],
    episode: Array,
    included: Bool[Array, ' b'],
    sides: int,
    normalizer: normalizer_lib.Statistics | None,
  ) -> tuple[_Carry, Key[Array, ' m']]:
    """First states, the same for both members of a pair; keys of episodes."""
    keys = jax.vmap(lambda key: jax.random.fold_in(key, episode))(keys)
    start = lambda key: self.env.reset(lanes_lib.reset_key(key, 0))
    state, observation = jax.vmap(start)(keys)
    copy = lambda x: jnp.concatenate([x] * sides)
    state, observation, keys, alive = jax.tree.map(
      copy, (state, observation, keys, included)
    )
    lanes = alive.shape
    memory = jax.tree.map(
      lambda x: jnp.broadcast_to(x, (*lanes, *jnp.shape(x))),
      self.policy.initial_memory(),
    )
    statistics = None
    if normalizer is not None:
      none = normalizer_lib.empty(self.observation_shape, lanes)
      statistics = normalizer_lib.add(none, observation, alive)
    carry = _Carry(
      time=jnp.zeros((), jnp.int32),
      state=state,
      observation=observation,
      memory=memory,
      alive=alive,
      returns=jnp.zeros(lanes),
      lengths=jnp.zeros(lanes, jnp.int32),
      statistics=statistics,
    )
    return carry, keys

  def _advance(
    self,
    params: PyTree,
    keys: Key[Array, ' m'],
    normalizer: normalizer_lib.Statistics | None,
    carry: _Carry,
  ) -> _Carry:
    """One step of all lanes; those that ended go on and do not count.

    Actions are made to fit their space; one that is not finite ends its episode
    with a return of NaN.
    """
    seen = carry.observation
    if normalizer is not None:
      seen = normalizer_lib.normalize(normalizer, seen, clip=self.clip)
    memory, action = jax.vmap(self.policy.act)(params, carry.memory, seen)
    finite = jnp.isfinite(action.astype(jnp.float32))
    counted = carry.alive & finite.reshape(finite.shape[0], -1).all(axis=1)
    action = checks.sanitize_action(self.env.action_space, action)
    draw = jax.vmap(lambda key: lanes_lib.step_key(key, carry.time))
    state, step = jax.vmap(self.env.step)(carry.state, action, draw(keys))
    statistics = carry.statistics
    if statistics is not None:
      statistics = normalizer_lib.add(statistics, step.observation, counted)
    lost = carry.alive & ~counted
    return _Carry(
      time=carry.time + 1,
      state=state,
      observation=step.observation,
      memory=memory,
      alive=counted & ~step.terminated,
      returns=jnp.where(
        lost, jnp.nan, carry.returns + jnp.where(counted, step.reward, 0)
      ),
      lengths=carry.lengths + counted,
      statistics=statistics,
    )
