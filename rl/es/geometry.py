"""Spaces of parameters: the meaning of a perturbation and of a step.

Directions have k coordinates, theta d numbers; in Euclidean space they are the
same. On a manifold a direction is a tangent vector at theta, and the estimate,
the optimiser's state and its updates are in the coordinates of the tangent
space, which moves along with theta.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import optax
from jaxtyping import Array, Float

__all__ = ['EUCLIDEAN', 'Euclidean', 'Geometry', 'of']


@runtime_checkable
class Geometry(Protocol):
  """The way parameters move; hashable."""

  def size(self, theta_size: int) -> int:
    """k, of d."""
    ...

  def coordinates(self, theta: Float[Array, ' d']) -> Float[Array, ' k']:
    """The parameters of an optimiser; weight decay pulls them to 0."""
    ...

  def perturb(
    self, theta: Float[Array, ' d'], tangents: Float[Array, 'n k']
  ) -> Float[Array, 'n d']:
    """Members, one per tangent."""
    ...

  def step(
    self, theta: Float[Array, ' d'], update: Float[Array, ' k']
  ) -> Float[Array, ' d']:
    """The point after an update; may be nearer than after a perturbation."""
    ...

  def part(self, kept: Sequence[bool], *, free: int) -> 'Geometry':
    """The geometry of some arrays of theta, after further free numbers.

    Args:
      kept: for each array whether it stays; those that go must be free.
      free: how many numbers come before them.

    Raises:
      ValueError: if an array that goes is not free.
    """
    ...


@dataclasses.dataclass(frozen=True)
class Euclidean:
  """Plain vectors: perturbations and updates are added."""

  def size(self, theta_size: int) -> int:
    """See `Geometry`."""
    return theta_size

  def coordinates(self, theta: Float[Array, ' d']) -> Float[Array, ' d']:
    """See `Geometry`."""
    return theta

  def perturb(
    self, theta: Float[Array, ' d'], tangents: Float[Array, 'n d']
  ) -> Float[Array, 'n d']:
    """See `Geometry`."""
    return theta + tangents

  def step(
    self, theta: Float[Array, ' d'], update: Float[Array, ' d']
  ) -> Float[Array, ' d']:
    """See `Geometry`."""
    return optax.apply_updates(theta, update)

  def part(self, kept: Sequence[bool], *, free: int) -> 'Euclidean':
    """See `Geometry`."""
    del kept, free
    return self


EUCLIDEAN = Euclidean()


def of(policy: Any) -> Geometry:
  """The policy's `geometry`; Euclidean if it has none."""
  return getattr(policy, 'geometry', EUCLIDEAN)
