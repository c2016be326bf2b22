"""Attention on a device mesh.

Attention is independent over sequences and heads, so every device can attend
within its share of both without communication. Fast attention can split
positions too; then devices exchange states (`performer.attention.sequence`).
"""

import dataclasses

import jax
from jaxtyping import Array, Bool, Float, Int, PyTree

from performer import attention
from performer.attention import sequence
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
    sequence_axis: mesh axis that splits positions; more than one share needs
      an `attention.Favor`.
  """

  attention: transformer.AttentionFn
  mesh: jax.sharding.Mesh
  batch_axes: tuple[str, ...]
  head_axis: str
  sequence_axis: str = 'sequence'

  @property
  def redraw_every(self) -> int | None:
    """See the mechanism."""
    return self.attention.redraw_every

  def draw(self, key: Array, **kwargs: int | Array) -> Array | None:
    """See the mechanism; every device draws the same matrices."""
    return self.attention.draw(key, **kwargs)

  def __call__(
    self,
    q: Float[Array, 'b l h d'],
    k: Float[Array, 'b l h d'],
    v: Float[Array, 'b l h d'],
    *,
    projection: PyTree,
    causal: bool,
    key_mask: Bool[Array, 'b l'] | None = None,
    segment_ids: Int[Array, 'b l'] | None = None,
  ) -> Float[Array, 'b l h d']:
    """Attends; axes of the mesh must divide the sizes that they split.

    Raises:
      ValueError: if they do not, or if positions are split and the mechanism
        is not `attention.Favor`.
    """
    self._check(q.shape[2], q.shape[1])
    shares = self.mesh.shape[self.sequence_axis]

    def attend(
      q: Array, k: Array, v: Array, projection: PyTree, rows: dict[str, Array]
    ) -> Array:
      options = {'projection': projection, 'causal': causal, **rows}
      if shares == 1:
        return self.attention(q, k, v, **options)
      return sequence.attend(
        self.attention, q, k, v, axis_name=self.sequence_axis, **options
      )

    positions = P(self.batch_axes, self.sequence_axis, self.head_axis)
    per_head = getattr(self.attention, 'per_head', False)
    in_specs = (
      positions,
      positions,
      positions,
      P(self.head_axis) if per_head else P(),
      P(self.batch_axes, self.sequence_axis),
    )
    given = {'key_mask': key_mask, 'segment_ids': segment_ids}
    rows = {name: x for name, x in given.items() if x is not None}
    # Scans inside start from constants, which do not vary over the mesh.
    return jax.shard_map(
      attend,
      mesh=self.mesh,
      in_specs=in_specs,
      out_specs=positions,
      check_vma=False,
    )(q, k, v, projection, rows)

  def _check(self, heads: int, length: int) -> None:
    axes = {'num_heads': (heads, self.head_axis)}
    axes['length'] = (length, self.sequence_axis)
    for name, (size, axis) in axes.items():
      if size % self.mesh.shape[axis]:
        raise ValueError(
          f'{name} must be divisible by mesh axis '
          f'{axis}={self.mesh.shape[axis]}, got {name}={size}'
        )
    split = self.mesh.shape[self.sequence_axis] > 1
    if split and not isinstance(self.attention, attention.Favor):
      raise ValueError(
        'only attention.Favor can split positions over devices, got '
        f'{self.sequence_axis}={self.mesh.shape[self.sequence_axis]} for '
        f'{self.attention}'
      )
