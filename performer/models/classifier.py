"""An encoder that assigns a sequence to a class.

The sequence is read by a `Transformer`; one vector of it, through a layer of
rectified units, decides the class, as in the models of Long Range Arena.

Reference: arXiv:2011.04006, section 3 and its released code.
"""

from flax import linen as nn
from jaxtyping import Array, Bool, Float

from performer.models import layers, transformer

__all__ = ['Classifier']

_POOLS = ('first', 'mean')


class Classifier(transformer.Transformer, kw_only=True):
  """A Transformer with one target per sequence; further attributes than there.

  Attributes:
    num_classes: number of classes.
    pool: 'first', the vector of the first token, which is the same symbol in
      all sequences; or 'mean', over all tokens but padding.
    qkv_dim: width of queries, keys and values over all heads; None: `d_model`.

  Raises:
    ValueError: as `Transformer`; if the model is causal, a number is out of
      range or the pool is unknown.
  """

  num_classes: int
  pool: str = 'first'
  qkv_dim: int | None = None

  def __post_init__(self) -> None:
    if self.causal:
      raise ValueError('a classifier reads both ways; set causal=False')
    if self.num_classes < 2:
      raise ValueError(
        f'num_classes must be at least 2, got {self.num_classes=}'
      )
    if self.pool not in _POOLS:
      raise ValueError(f'pool must be one of {_POOLS}, got {self.pool!r}')
    width = self.qkv_dim
    if width is not None and (width < 1 or width % self.num_heads):
      raise ValueError(
        f'num_heads must divide qkv_dim, got {self.num_heads=} {self.qkv_dim=}'
      )
    super().__post_init__()

  @property
  def head_dim(self) -> int:
    """Width of one head."""
    return (self.qkv_dim or self.d_model) // self.num_heads

  def _pool(
    self, x: Float[Array, 'b n e'], mask: Bool[Array, 'b l']
  ) -> Float[Array, 'b 1 e']:
    x = layers.layer_norm('ln_out', dtype=self.dtype)(x)
    if self.pool == 'first':
      return x[:, :1]
    # In bfloat16 a sum of a thousand ones would be rounded.
    kept = mask[..., None].astype(layers.wide(self.dtype))
    return (x * kept).sum(1, keepdims=True) / kept.sum(1, keepdims=True)

  def _head(self, x: Float[Array, 'b 1 e']) -> Float[Array, 'b 1 classes']:
    wide = layers.wide(self.dtype)
    h = layers.dense('classes_in', self.d_ff, ('embed', 'mlp'), dtype=wide)(x)
    axes = ('mlp', 'vocab')
    return layers.dense('logits', self.num_classes, axes, dtype=wide)(
      nn.relu(h)
    )
