"""Parameters of a policy as a point of a product of manifolds, for `rl.es`.

A flat vector holds blocks: free ones, orthogonal W [d, d], and P with
orthonormal columns or rows. Two ways to perturb a block that is not free:

  tangent   W exp(sigma S), S skew-symmetric with independent N(0, 1) entries
            above the diagonal, its d (d - 1) / 2 coordinates; P moved along
            `manifolds.stiefel_noise` of N(0, 1) entries. Every member is on the
            manifold.
  ambient   W + sigma E, as if free. At sigma = 0.1 and d = 64 its singular values
            are between 0.1 and 2.2: no bound of the paper holds for it.

Either way theta itself stays on the manifold, and where an estimate leads is
measured by the Riemannian gradient Omega of the Euclidean metric: tangents tend
to 2 Omega as sigma tends to 0 and are halved. So one learning rate serves both
ways and all blocks.

Source: arXiv:2006.11421, Section 3.
"""

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from rl import ranges
from rl.odetoode import manifolds

__all__ = ['PERTURBATIONS', 'Block', 'Manifold', 'unflatten']

PERTURBATIONS = ('tangent', 'ambient')
_KINDS = ('free', 'orthogonal', 'stiefel')


def unflatten(shapes: PyTree, theta: Float[Array, ' n']) -> PyTree:
  """Cuts a vector into arrays, in the order of `jax.tree.leaves`.

  Args:
    shapes: arrays or their shapes.
    theta: their entries.
  """
  leaves, treedef = jax.tree.flatten(shapes)
  ends = list(itertools.accumulate(math.prod(x.shape) for x in leaves))
  starts = [0, *ends[:-1]]
  return treedef.unflatten(
    theta[start:end].reshape(x.shape)
    for start, end, x in zip(starts, ends, leaves, strict=True)
  )


@dataclasses.dataclass(frozen=True)
class Block:
  """One array of the parameters.

  Attributes:
    kind: 'free', 'orthogonal' or 'stiefel'.
    shape: of the array.

  Raises:
    ValueError: if there is no such kind, or the shape does not fit it.
  """

  kind: str
  shape: tuple[int, ...]

  def __post_init__(self) -> None:
    if self.kind not in _KINDS:
      raise ValueError(f'kind must be one of {_KINDS}, got {self.kind!r}')
    ranges.check_counts(least=0, shape=self.shape)
    if self.kind != 'free' and len(self.shape) != 2:
      raise ValueError(f'{self.kind} needs a matrix, got shape {self.shape}')
    if self.kind == 'orthogonal' and self.shape[0] != self.shape[1]:
      raise ValueError(f'orthogonal needs a square, got shape {self.shape}')

  @property
  def size(self) -> int:
    """Entries of the array."""
    return math.prod(self.shape)

  @property
  def coordinates(self) -> int:
    """Number of coordinates of a tangent."""
    if self.kind == 'orthogonal':
      return manifolds.num_coordinates(self.shape[0])
    return self.size

  @property
  def dimension(self) -> int:
    """Dimension of the manifold."""
    if self.kind == 'stiefel':
      rows, columns = max(self.shape), min(self.shape)
      return rows * columns - columns * (columns + 1) // 2
    return self.coordinates

  def perturb(self, value: Array, tangent: Array) -> Array:
    """The point that a tangent of given coordinates leads to."""
    return self._move(value, tangent, 1.0, manifolds.stiefel_noise)

  def step(self, value: Array, tangent: Array) -> Array:
    """The point that an update of given coordinates leads to."""
    # The noise map applied twice is the projection with its skew part doubled.
    noisy = lambda p, e: _halved(p, manifolds.stiefel_noise(p, e))
    return self._move(value, tangent, 0.5, noisy)

  def ambient_step(self, value: Array, update: Array) -> Array:
    """The point that an update of the array leads to, projected."""
    if self.kind == 'orthogonal':
      # Updates point uphill.
      return manifolds.riemannian_update(value, update, -1.0)
    if self.kind == 'stiefel':
      return manifolds.stiefel_update(value, update, -1.0)
    return value + update

  def _move(
    self, value: Array, tangent: Array, scale: float, noise: Any
  ) -> Array:
    if self.kind == 'orthogonal':
      skewed = manifolds.from_coordinates(tangent, self.shape[0])
      return manifolds.move_orthogonal(value, scale * skewed)
    tangent = tangent.reshape(self.shape)
    if self.kind == 'stiefel':
      return manifolds.move_stiefel(value, noise(value, tangent))
    return value + tangent


def _halved(p: Array, delta: Array) -> Array:
  """Halves the part of a tangent within the span of P."""
  product = manifolds.product
  if p.shape[0] >= p.shape[1]:
    return delta - product(p, product(p.T, delta)) / 2
  return delta - product(product(delta, p.T), p) / 2


@dataclasses.dataclass(frozen=True)
class Manifold:
  """A `rl.es.geometry.Geometry` of blocks.

  Attributes:
    blocks: in the order of the flat vector.
    mode: 'tangent' or 'ambient'.
  """

  blocks: tuple[Block, ...]
  mode: str = 'tangent'

  def __post_init__(self) -> None:
    if self.mode not in PERTURBATIONS:
      raise ValueError(
        f'mode must be one of {PERTURBATIONS}, got {self.mode!r}'
      )

  @classmethod
  def of(
    cls,
    shapes: PyTree,
    kinds: Mapping[str, str] | str,
    *,
    perturb: str = 'tangent',
  ) -> 'Manifold':
    """Of parameters by name.

    Args:
      shapes: nested dicts of arrays or their shapes; or one array.
      kinds: of leaves by their name; others, and symmetric ones, are free. A
        string is the kind of every leaf.
      perturb: the mode.

    Raises:
      ValueError: if there is no such kind or mode.
    """
    known = (*_KINDS, 'symmetric')
    named = {'every leaf': kinds} if isinstance(kinds, str) else kinds
    if unknown := {n: kind for n, kind in named.items() if kind not in known}:
      raise ValueError(f'kinds must be of {known}, got {unknown}')
    blocks = []
    for path, leaf in jax.tree_util.tree_flatten_with_path(shapes)[0]:
      kind = kinds
      if not isinstance(kinds, str):
        kind = kinds.get(path[-1].key, 'free') if path else 'free'
      kind = kind if kind in _KINDS else 'free'
      blocks.append(Block(kind, tuple(leaf.shape)))
    return cls(tuple(blocks), perturb)

  def part(self, kept: Sequence[bool], *, free: int) -> 'Manifold':
    """See `Geometry`; an array is a block."""
    found = [Block('free', (free,))]
    for keep, block in zip(kept, self.blocks, strict=True):
      if keep:
        found.append(block)
      elif block.kind != 'free':
        raise ValueError(
          f'arrays that are shared must be free, got {block.kind} of shape '
          f'{block.shape}'
        )
    return dataclasses.replace(self, blocks=tuple(found))

  def size(self, theta_size: int) -> int:
    """See `Geometry`.

    Raises:
      ValueError: if the blocks have more entries, or fewer.
    """
    self._check_size(theta_size)
    if self.mode == 'ambient':
      return theta_size
    return sum(block.coordinates for block in self.blocks)

  def coordinates(self, theta: Float[Array, ' d']) -> Float[Array, ' k']:
    """Free blocks as they are, zeros for the others."""
    parts = [
      value.reshape(-1)
      if block.kind == 'free'
      else jnp.zeros(self._size(block))
      for block, value in zip(self.blocks, self._cut(theta), strict=True)
    ]
    return jnp.concatenate(parts)

  def perturb(
    self, theta: Float[Array, ' d'], tangents: Float[Array, 'n k']
  ) -> Float[Array, 'n d']:
    """See `Geometry`."""
    if self.mode == 'ambient':
      return theta + tangents
    return jax.vmap(lambda t: self._moved(theta, t, Block.perturb))(tangents)

  def step(
    self, theta: Float[Array, ' d'], update: Float[Array, ' k']
  ) -> Float[Array, ' d']:
    """See `Geometry`."""
    if self.mode == 'tangent':
      return self._moved(theta, update, Block.step)
    values, updates = self._cut(theta), self._cut(update)
    return self._joined(Block.ambient_step, values, updates)

  def _moved(self, theta: Array, tangent: Array, move: Any) -> Array:
    sizes = [block.coordinates for block in self.blocks]
    ends = list(itertools.accumulate(sizes))
    parts = [
      tangent[end - size : end] for end, size in zip(ends, sizes, strict=True)
    ]
    return self._joined(move, self._cut(theta), parts)

  def _joined(self, move: Any, values: Any, parts: Any) -> Array:
    moved = itertools.starmap(
      move, zip(self.blocks, values, parts, strict=True)
    )
    return jnp.concatenate([x.reshape(-1) for x in moved])

  def _size(self, block: Block) -> int:
    return block.size if self.mode == 'ambient' else block.coordinates

  def _check_size(self, theta_size: int) -> None:
    entries = sum(block.size for block in self.blocks)
    if theta_size != entries:
      raise ValueError(f'theta must have {entries} entries, got {theta_size}')

  def _cut(self, theta: Array) -> list[Array]:
    self._check_size(theta.size)
    shapes = [jax.ShapeDtypeStruct(b.shape, theta.dtype) for b in self.blocks]
    return unflatten(shapes, theta)
