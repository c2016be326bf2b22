"""Attention that returns the values: a bound on how fast a model can be.

A model with it does everything but attend, and learns from single positions.

Reference: arXiv:2009.14794, section 4.1 (the curve X / OPT).
"""

import dataclasses
from typing import ClassVar

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

__all__ = ['Values']


@dataclasses.dataclass(frozen=True)
class Values:
  """Returns the values; queries and keys have no effect and no gradient.

  Attributes:
    redraw_every: None, as there is nothing to redraw.
  """

  redraw_every: ClassVar[None] = None

  def draw(self, key: Array, **kwargs: int | Array) -> None:
    """Returns None: there is no random matrix."""
    del key, kwargs

  def __call__(
    self,
    q: Float[Array, 'b lq h d'],
    k: Float[Array, 'b lk h d'],
    v: Float[Array, 'b lk h v'],
    *,
    projection: None = None,
    causal: bool,
    key_mask: Bool[Array, 'b lk'] | None = None,
  ) -> Float[Array, 'b lk h v']:
    """Returns v, with zeros where a key is masked.

    Raises:
      ValueError: if there are not as many keys as queries, or a projection is
        given.
    """
    del causal
    if projection is not None or q.shape[1] != v.shape[1]:
      raise ValueError(
        'as many queries as values and no projection are needed, '
        f'got {q.shape=} {v.shape=} projection={type(projection).__name__}'
      )
    del k
    return v if key_mask is None else jnp.where(key_mask[..., None, None], v, 0)
