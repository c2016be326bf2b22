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

from rl import ranges

__all__ = ['Choices', 'Group', 'Space', 'Subset']


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
    return jax.random.randint(key, (self.count,), 0, self.options)

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
    step = jax.random.randint(key, (), 1, self.options)
    return part.at[position].set((part[position] + step) % self.options)

  def distance(
    self, a: Int[Array, ' count'], b: Int[Array, ' count']
  ) -> Int[Array, '']:
    """Number of decisions that differ."""
    return jnp.sum(a != b)

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
    order = jax.random.permutation(key, self.options)
    return order[: self.count].astype(jnp.int32)

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
    draws = jax.random.uniform(key, (self.options,))
    free = jnp.where(self.chosen(part), -1, draws)
    return part.at[position].set(jnp.argmax(free).astype(jnp.int32))

  def distance(
    self, a: Int[Array, ' count'], b: Int[Array, ' count']
  ) -> Int[Array, '']:
    """Number of elements of one subset that are not in the other."""
    return self.count - jnp.sum(self.chosen(a) & self.chosen(b))

  def canonical(self, part: Int[Array, ' count']) -> Int[Array, ' count']:
    """In increasing order: equal subsets become equal vectors."""
    return jnp.sort(part)


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
    """Changes one decision, drawn uniformly; see the groups.

    A decision without an alternative stays: then the architecture does too.
    """
    if not self.length:
      return architecture
    position_key, key = jax.random.split(key)
    position = jax.random.randint(position_key, (), 0, self.length)
    parts, start = self.parts(architecture), 0
    for group in self.groups:
      part, inside = parts[group.name], position - start
      mutated = group.mutate(key, part, jnp.clip(inside, 0, group.count - 1))
      here = (inside >= 0) & (inside < group.count)
      parts[group.name] = jnp.where(here, mutated, part)
      start += group.count
    return self.joined(parts)

  def distance(
    self, a: Int[Array, ' D'], b: Int[Array, ' D']
  ) -> Int[Array, '']:
    """Number of decisions by which two architectures differ."""
    a, b = self.parts(a), self.parts(b)
    found = [g.distance(a[g.name], b[g.name]) for g in self.groups]
    return jnp.sum(jnp.array(found, jnp.int32))

  def diversity(self, architectures: Int[Array, 'n D']) -> Float[Array, '']:
    """Mean share of decisions in which two of n architectures differ.

    Args:
      architectures: at least two.

    Returns:
      In [0, 1]; 0 when all are the same.
    """
    count = architectures.shape[0]
    each = jax.vmap(self.distance, in_axes=(None, 0))
    total = jnp.sum(
      jax.lax.map(lambda a: each(a, architectures), architectures)
    )
    return total / (max(1, self.length) * count * (count - 1))

  def to_json(self, architecture: Sequence[int] | Array) -> dict[str, Any]:
    """Decisions by group, subsets in increasing order, as plain lists.

    Raises:
      ValueError: if the architecture does not belong to the space.
    """
    architecture = jnp.asarray(architecture, jnp.int32)
    if architecture.shape != (self.length,) or not self.is_valid(architecture):
      raise ValueError(f'{architecture} does not belong to {self}')
    parts = self.parts(architecture)
    return {
      g.name: np.asarray(g.canonical(parts[g.name])).tolist()
      for g in self.groups
    }

  def from_json(self, written: Mapping[str, Any]) -> Int[Array, ' D']:
    """The inverse of `to_json`, up to the order of subsets.

    Raises:
      ValueError: if groups are missing or unknown, or decisions out of range.
    """
    names = {group.name for group in self.groups}
    if set(written) != names:
      raise ValueError(f'groups must be {sorted(names)}, got {sorted(written)}')
    for group in self.groups:
      part = np.asarray(written[group.name])
      integers = part.size == 0 or np.issubdtype(part.dtype, np.integer)
      if part.shape != (group.count,) or not integers:
        raise ValueError(
          f'{group.name} must be {group.count} integers, got {part.tolist()}'
        )
    architecture = self.joined(written)
    self.to_json(architecture)
    return architecture
