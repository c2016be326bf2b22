"""Attention on a device mesh.

Attention is independent over sequences and heads, so every device can attend
within its share of both and no communication is needed.
"""

import dataclasses

import jax
from jaxtyping import Array, Bool, Float

from performer.models import transformer

__all__ = ['MeshAttention']

P = jax.sharding.PartitionSpec


@dataclasses.dataclass(frozen=True)
class MeshAttention:
  """Runs an attention mechanism on each device's sequences and heads.

  Attributes:
    attention: the mechanism.
    mesh: the devices.
    batch_axes: mesh axes that split batches.
    head_axis: mesh axis that splits heads.
  """

  attention: transformer.AttentionFn
  mesh: jax.sharding.Mesh
  batch_axes: tuple[str, ...]
  head_axis: str

  @property
  def redraw_every(self) -> int | None:
    """As the mechanism."""
    return self.attention.redraw_every

  def draw(self, key: Array, **kwargs: int | Array) -> Array | None:
    """As the mechanism; every device draws the same matrices."""
    return self.attention.draw(key, **kwargs)

  def __call__(
    self,
    q: Float[Array, 'b l h d'],
    k: Float[Array, 'b l h d'],
    v: Float[Array, 'b l h d'],
    *,
    projection: Array | None,
    causal: bool,
    key_mask: Bool[Array, 'b l'] | None = None,
  ) -> Float[Array, 'b l h d']:
    """Attends; the heads must divide by the size of `head_axis`.

    Raises:
      ValueError: if they do not.
    """
    heads, shares = q.shape[2], self.mesh.shape[self.head_axis]
    if heads % shares:
      raise ValueError(
        f'num_heads must divide by mesh axis {self.head_axis}={shares}, '
        f'got num_heads={heads}'
      )

    def attend(
      q: Array, k: Array, v: Array, projection: Array | None, mask: Array | None
    ) -> Array:
      return self.attention(
        q, k, v, projection=projection, causal=causal, key_mask=mask
      )

    sequences = P(self.batch_axes, None, self.head_axis)
    per_head = projection is not None and projection.ndim == 3
    in_specs = (
      sequences,
      sequences,
      sequences,
      P(self.head_axis) if per_head else P(),
      P(self.batch_axes),
    )
    # Scans inside start from constants, which do not vary over the mesh.
    return jax.shard_map(
      attend,
      mesh=self.mesh,
      in_specs=in_specs,
      out_specs=sequences,
      check_vma=False,
    )(q, k, v, projection, key_mask)
