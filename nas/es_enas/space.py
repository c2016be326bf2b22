"""Architectures as integers: what a controller chooses from.

A space is a list of groups of decisions. An architecture is one int32 vector
with a number per decision, the groups one after the other. Its shape is fixed,
so that a population of different architectures is one array.
"""

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from rl import ranges, shuffle

__all__ = ['Arrangement', 'Choices', 'Group', 'Space', 'Subset']


@dataclasses.dataclass(frozen=True)
class Choices:
  """Independent decisions, each one of the same options.

  Attributes:
    name: of the group within its space.
    count: number of decisions.
    options: a decision is in [0, options).

  Raises:
    ValueError: if a number is not positive.
  """

  name: str
  count: int
  options: int

  def __post_init__(self) -> None:
    ranges.check_counts(count=self.count, options=self.options)

  @property
  def log_size(self) -> float:
    """Natural logarithm of the number of different values."""
    return self.count * math.log(self.options)

  def sample(self, key: Key[Array, '']) -> Int[Array, ' count']:
    """Draws uniformly."""
    return _below(key, self.options, (self.count,))

  def is_valid(self, part: Int[Array, ' count']) -> Bool[Array, '']:
    """Whether all decisions are in range."""
    return jnp.all((part >= 0) & (part < self.options))

  def mutate(
    self,
    key: Key[Array, ''],
    part: Int[Array, ' count'],
    position: Int[Array, ''],
  ) -> Int[Array, ' count']:
    """Gives one decision another value, drawn uniformly from the others."""
    if self.options == 1:
      return part
    step = 1 + _below(key, self.options - 1)
    return part.at[position].set((part[position] + step) % self.options)

  def distance(
    self, a: Int[Array, ' count'], b: Int[Array, ' count']
  ) -> Int[Array, '']:
    """Number of decisions that differ."""
    return self.count - _equal_places(a, b, self.options)

  def frequencies(
    self, parts: Int[Array, 'n count'], weights: Float[Array, ' n']
  ) -> Float[Array, 'count options']:
    """Sums the weights of the architectures that choose each option."""
    return _places(parts, weights, self.options)

  def canonical(self, part: Int[Array, ' count']) -> Int[Array, ' count']:
    """The same: every value means something else."""
    return part


@dataclasses.dataclass(frozen=True)
class Subset:
  """Distinct elements of a set, in the order in which they were chosen.

  The order tells nothing about the subset. It is there because an autoregressive
  controller chooses one element after the other.

  Attributes:
    name: of the group within its space.
    count: number of elements that are chosen.
    options: size of the set.

  Raises:
    ValueError: if a number is not positive, or the set is too small.
  """

  name: str
  count: int
  options: int

  def __post_init__(self) -> None:
    ranges.check_counts(count=self.count, options=self.options)
    if self.count > self.options:
      raise ValueError(
        f'{self.name} must choose at most all {self.options} elements, got '
        f'count={self.count}'
      )

  @property
  def log_size(self) -> float:
    """Natural logarithm of the number of different subsets."""
    n, k = self.options, self.count
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)

  def chosen(self, part: Int[Array, ' count']) -> Bool[Array, ' options']:
    """The subset as a mask."""
    return jnp.zeros(self.options, bool).at[part].set(True)

  def sample(self, key: Key[Array, '']) -> Int[Array, ' count']:
    """Draws uniformly from all ordered subsets."""
    order = shuffle.permutations(key, 1, self.options)
    return order[0, : self.count]

  def is_valid(self, part: Int[Array, ' count']) -> Bool[Array, '']:
    """Whether all elements exist and differ."""
    in_range = jnp.all((part >= 0) & (part < self.options))
    return in_range & (jnp.sum(self.chosen(part)) == self.count)

  def mutate(
    self,
    key: Key[Array, ''],
    part: Int[Array, ' count'],
    position: Int[Array, ''],
  ) -> Int[Array, ' count']:
    """Exchanges one element for one that was not chosen, drawn uniformly."""
    if self.count == self.options:
      return part
    free = _below(key, self.options - self.count)
    # The i-th smallest chosen element has part[i] - i free ones below it.
    below = jnp.sort(part) - jnp.arange(self.count)
    return part.at[position].set(free + jnp.sum(below <= free))

  def distance(
    self, a: Int[Array, ' count'], b: Int[Array, ' count']
  ) -> Int[Array, '']:
    """Number of elements of one subset that are not in the other."""
    # See `_equal_places`.
    masks = [self.chosen(part).astype(jnp.float32) for part in (a, b)]
    return self.count - jnp.dot(*masks).astype(jnp.int32)

  def frequencies(
    self, parts: Int[Array, 'n count'], weights: Float[Array, ' n']
  ) -> Float[Array, ' options']:
    """Sums the weights of the architectures that choose each element."""
    each = jnp.broadcast_to(weights[:, None], parts.shape)
    return jnp.zeros(self.options).at[parts].add(each)

  def canonical(self, part: Int[Array, ' count']) -> Int[Array, ' count']:
    """In increasing order: equal subsets become equal vectors."""
    return jnp.sort(part)


@dataclasses.dataclass(frozen=True)
class Arrangement(Subset):
  """Distinct elements of a set, whose order counts; a permutation of all.

  Attributes:
    name: of the group within its space.
    count: number of elements that are chosen.
    options: size of the set.

  Raises:
    ValueError: if a number is not positive, or the set is too small.
  """

  @property
  def log_size(self) -> float:
    """Natural logarithm of the number of different ordered choices."""
    n, k = self.options, self.count
    return math.lgamma(n + 1) - math.lgamma(n - k + 1)

  def mutate(
    self,
    key: Key[Array, ''],
    part: Int[Array, ' count'],
    position: Int[Array, ''],
  ) -> Int[Array, ' count']:
    """Puts another element, drawn uniformly, at one place.

    If the new element was at another place, the two elements change places.
    """
    if self.options == 1:
      return part
    old = part[position]
    new = (old + 1 + _below(key, self.options - 1)) % self.options
    return jnp.where(part == new, old, part).at[position].set(new)

  def distance(
    self, a: Int[Array, ' count'], b: Int[Array, ' count']
  ) -> Int[Array, '']:
    """Number of places that differ."""
    return self.count - _equal_places(a, b, self.options)

  def frequencies(
    self, parts: Int[Array, 'n count'], weights: Float[Array, ' n']
  ) -> Float[Array, 'count options']:
    """Sums the weights of the architectures with each element at each place."""
    return _places(parts, weights, self.options)

  def canonical(self, part: Int[Array, ' count']) -> Int[Array, ' count']:
    """The same: every order means something else."""
    return part


def _below(
  key: Key[Array, ''], count: int, shape: tuple[int, ...] = ()
) -> Int[Array, '...']:
  """Draws from 0..count-1, int32; a third of the time of `jax.random.randint`.

  Probabilities are off by a share of at most count / 2^32.
  """
  bits = jax.random.bits(key, shape, jnp.uint32)
  return (bits % jnp.uint32(count)).astype(jnp.int32)


def _equal_places(
  a: Int[Array, ' count'], b: Int[Array, ' count'], options: int
) -> Int[Array, '']:
  """Number of places with the same option."""
  # An inner product: over all pairs of two lists it is one matrix product, many
  # times as fast as comparisons are on a CPU.
  masks = [jax.nn.one_hot(part, options).ravel() for part in (a, b)]
  return jnp.dot(*masks).astype(jnp.int32)


def _places(
  parts: Int[Array, 'n count'], weights: Float[Array, ' n'], options: int
) -> Float[Array, 'count options']:
  count = parts.shape[1]
  each = jnp.broadcast_to(weights[:, None], parts.shape)
  return jnp.zeros((count, options)).at[jnp.arange(count), parts].add(each)


Group = Choices | Subset


@dataclasses.dataclass(frozen=True)
class Space:
  """All architectures that a controller may propose.

  Attributes:
    groups: groups of decisions; () has one architecture, of no decisions.

  Raises:
    ValueError: if two groups have the same name.
  """

  groups: tuple[Group, ...]

  def __post_init__(self) -> None:
    names = [group.name for group in self.groups]
    if len(set(names)) < len(names):
      raise ValueError(f'groups must have different names, got {names}')

  @property
  def length(self) -> int:
    """D, the number of decisions."""
    return sum(group.count for group in self.groups)

  @property
  def options(self) -> np.ndarray:
    """Number of options of every decision, int [D]."""
    options = [group.options for group in self.groups]
    counts = [group.count for group in self.groups]
    return np.repeat(np.array(options, np.int32), counts)

  @property
  def log_size(self) -> float:
    """Natural logarithm of the number of different architectures."""
    return sum((group.log_size for group in self.groups), 0.0)

  def parts(self, architecture: Int[Array, ' D']) -> dict[str, Array]:
    """The decisions of each group, by its name."""
    ends = np.cumsum([group.count for group in self.groups])[:-1]
    parts = jnp.split(architecture, ends) if self.groups else []
    return dict(zip((g.name for g in self.groups), parts, strict=True))

  def joined(self, parts: Mapping[str, Array]) -> Int[Array, ' D']:
    """The architecture of decisions by group; the inverse of `parts`."""
    found = [jnp.asarray(parts[group.name]) for group in self.groups]
    return jnp.concatenate([jnp.zeros(0, jnp.int32), *found]).astype(jnp.int32)

  def sample(self, key: Key[Array, '']) -> Int[Array, ' D']:
    """Draws an architecture uniformly."""
    keys = jax.random.split(key, max(1, len(self.groups)))
    drawn = zip(self.groups, keys, strict=False)
    return self.joined({group.name: group.sample(k) for group, k in drawn})

  def is_valid(self, architecture: Int[Array, ' D']) -> Bool[Array, '']:
    """Whether an architecture belongs to the space."""
    parts = self.parts(architecture)
    found = [group.is_valid(parts[group.name]) for group in self.groups]
    return functools.reduce(jnp.logical_and, found, jnp.array(True))

  def mutate(
    self, key: Key[Array, ''], architecture: Int[Array, ' D']
  ) -> Int[Array, ' D']:
    """Changes one decision, drawn uniformly from those with an alternative.

    An `Arrangement` may exchange the places of two elements.

    Returns:
      Another architecture; the same only if the space has no other.
    """
    open_groups = [group for group in self.groups if group.log_size > 0]
    if not open_groups:
      return architecture
    position_key, key = jax.random.split(key)
    length = sum(group.count for group in open_groups)
    position = _below(position_key, length)
    parts, start = self.parts(architecture), 0
    for group in open_groups:
      part, inside = parts[group.name], position - start
      mutated = group.mutate(key, part, jnp.clip(inside, 0, group.count - 1))
      here = (inside >= 0) & (inside < group.count)
      parts[group.name] = jnp.where(here, mutated, part)
      start += group.count
    return self.joined(parts)

  def canonical(self, architecture: Int[Array, ' D']) -> Int[Array, ' D']:
    """Subsets in increasing order: equal architectures become equal vectors."""
    parts = self.parts(architecture)
    return self.joined(
      {g.name: g.canonical(parts[g.name]) for g in self.groups}
    )

  def distance(
    self, a: Int[Array, ' D'], b: Int[Array, ' D']
  ) -> Int[Array, '']:
    """Number of decisions by which two architectures differ."""
    a, b = self.parts(a), self.parts(b)
    found = [g.distance(a[g.name], b[g.name]) for g in self.groups]
    return jnp.sum(jnp.array(found, jnp.int32))

  def diversity(
    self,
    architectures: Int[Array, 'n D'],
    valid: Bool[Array, ' n'] | None = None,
  ) -> Float[Array, '']:
    """Mean share of decisions in which two of n architectures differ.

    It follows from how often each option is chosen, in O(n D) steps: two draws
    with replacement choose the same option with the sum of its squared shares.

    Args:
      architectures: of which every pair counts once.
      valid: which of them count; None: all.

    Returns:
      In [0, 1]; 0 when all are the same, or fewer than two count.
    """
    if valid is None:
      valid = jnp.ones(architectures.shape[0], bool)
    weights = valid.astype(jnp.float32)
    count = jnp.maximum(jnp.sum(weights), 1)
    differ = jnp.zeros(())
    for group, part in self._columns(architectures):
      shares = group.frequencies(part, weights) / count
      differ += group.count - jnp.sum(shares**2)
    pairs = differ * count / jnp.maximum(count - 1, 1) / max(1, self.length)
    return jnp.where(count > 1, pairs, 0)

  def _columns(
    self, architectures: Int[Array, 'n D']
  ) -> list[tuple[Group, Int[Array, 'n _']]]:
    parts = jax.vmap(self.parts)(architectures)
    return [(group, parts[group.name]) for group in self.groups]

  def to_json(self, architecture: Sequence[int] | Array) -> dict[str, Any]:
    """Decisions by group, subsets in increasing order, as plain lists.

    Raises:
      ValueError: if the architecture does not belong to the space.
    """
    architecture = jnp.asarray(architecture, jnp.int32)
    self._check_member(architecture)
    parts = self.parts(self.canonical(architecture))
    return {name: np.asarray(part).tolist() for name, part in parts.items()}

  def _check_member(self, architecture: Int[Array, ' n']) -> None:
    if architecture.shape != (self.length,) or not self.is_valid(architecture):
      raise ValueError(f'{architecture} does not belong to {self}')

  def from_json(self, written: Mapping[str, Any]) -> Int[Array, ' D']:
    """The inverse of `to_json`, up to the order of subsets.

    Raises:
      ValueError: if groups are missing or unknown, decisions are not integers or
        out of range, or elements are not distinct.
    """
    names = [group.name for group in self.groups]
    if set(written) != set(names):
      raise ValueError(f'groups must be {names}, got {list(written)}')
    parts = {g.name: _decisions(g, written[g.name]) for g in self.groups}
    architecture = self.joined(parts)
    self._check_member(architecture)
    return architecture


def _decisions(group: Group, written: Any) -> Int[Array, ' count']:
  """Decisions of a group as JSON has them, checked before they are cast."""
  part = np.asarray(written, object)
  whole = all(type(one) is int for one in part.flat)
  if part.shape != (group.count,) or not whole:
    raise ValueError(
      f'{group.name} must be {group.count} integers, got {written}'
    )
  if not all(0 <= one < group.options for one in part):
    raise ValueError(
      f'{group.name} must be in [0, {group.options}), got {written}'
    )
  return jnp.asarray(part.astype(np.int32))
