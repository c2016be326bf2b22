"""Layers of the encoder and the decoder, in T5 v1.1's form.

RMS norms before each part, gated MLPs, no biases. A layer has the call that
`performer.models.layers.stacked` asks for, so that a stack runs as one scan.

Reference: arXiv:2205.13320, Appendix D.2; arXiv:2002.05202 (gated GELU).
"""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int, PyTree

from hpo.optformer import relative
from performer.models import attention as attention_lib
from performer.models import products

__all__ = [
  'Context',
  'DecoderBlock',
  'EncoderBlock',
  'PerLayer',
  'fourier_features',
  'norm',
  'sinusoids',
]


class Context(NamedTuple):
  """What all layers of a stack share.

  Attributes:
    keys: bias of self-attention, and places in its cache; None without.
    mask: real positions; None: all are.
    memory: activations of the encoder; None: the layers know them already.
    memory_mask: real positions of the encoder.
    before: tokens that the cache holds of each sequence; None: sequences are
      whole, without a cache.
  """

  keys: relative.Keys | None = None
  mask: Bool[Array, 'b l'] | None = None
  memory: Float[Array, 'b s e'] | None = None
  memory_mask: Bool[Array, 'b s'] | None = None
  before: Int[Array, ' b'] | None = None


class PerLayer(NamedTuple):
  """What each layer has of its own, stacked over layers.

  Attributes:
    matrix: random matrix of self-attention; None without.
    cross_matrix: random matrix of attention to the encoder; None without.
    prefix: shared cache of branches; None without.
    cross: summary of the encoder; None: `Context.memory` is summarised.
  """

  matrix: PyTree = None
  cross_matrix: PyTree = None
  prefix: PyTree = None
  cross: PyTree = None


def norm(name: str | None, dtype: Any) -> nn.RMSNorm:
  """RMS norm with statistics in float32."""
  return nn.RMSNorm(
    dtype=dtype,
    scale_init=attention_lib.partitioned(nn.initializers.ones, 'embed'),
    name=name,
  )


def _dense(
  name: str, width: int, axes: tuple[str, str], dtype: Any
) -> nn.Dense:
  init = nn.initializers.variance_scaling(1.0, 'fan_in', 'truncated_normal')
  return nn.Dense(
    width,
    use_bias=False,
    dtype=dtype,
    kernel_init=attention_lib.partitioned(init, *axes),
    dot_general=products.dot_general,
    name=name,
  )


class _Block(nn.Module):
  """Parts of both kinds of layers."""

  num_heads: int
  head_dim: int
  d_ff: int
  attention: attention_lib.AttentionFn
  dropout: float
  dtype: Any

  def _drop(self, x: Array) -> Array:
    """Dropout, if the call has a key for it."""
    return nn.Dropout(self.dropout)(
      x, deterministic=not self.has_rng('dropout')
    )

  def _attention(
    self, name: str, width: int, *, causal: bool
  ) -> attention_lib.MultiHeadAttention:
    normal = nn.initializers.variance_scaling(1.0, 'fan_in', 'normal')
    # T5 divides by sqrt(d) here once, and not in every call.
    small = nn.initializers.variance_scaling(
      1.0 / self.head_dim, 'fan_in', 'normal'
    )
    return attention_lib.MultiHeadAttention(
      self.num_heads,
      width,
      self.attention,
      causal=causal,
      head_dim=self.head_dim,
      dtype=self.dtype,
      kernel_init=normal,
      query_init=small if _takes_bias(self.attention) else normal,
      name=name,
    )

  def _mlp(self, x: Array) -> Array:
    h = norm('ln_mlp', self.dtype)(x)
    gate = _dense('gate', self.d_ff, ('embed', 'mlp'), self.dtype)(h)
    h = _dense('mlp_in', self.d_ff, ('embed', 'mlp'), self.dtype)(h)
    h = self._drop(nn.gelu(gate) * h)
    h = _dense('mlp_out', x.shape[-1], ('mlp', 'embed'), self.dtype)(h)
    return x + self._drop(h)


class EncoderBlock(_Block):
  """Bidirectional self-attention and an MLP."""

  @nn.compact
  def __call__(
    self,
    x: Float[Array, 'b s e'],
    context: Context,
    own: PerLayer,
    state: None,
  ) -> tuple[Float[Array, 'b s e'], None]:
    """The form of `layers.stacked`."""
    del state
    attention = self._attention('attention', x.shape[-1], causal=False)
    h = norm('ln_attention', self.dtype)(x)
    matrix = context.keys if _takes_bias(self.attention) else own.matrix
    h = attention(h, projection=matrix, key_mask=context.mask)
    return self._mlp(x + self._drop(h)), None


class DecoderBlock(_Block):
  """Causal self-attention, attention to the encoder, and an MLP."""

  @nn.compact
  def __call__(
    self,
    x: Float[Array, 'b l e'],
    context: Context,
    own: PerLayer,
    state: PyTree,
  ) -> tuple[Float[Array, 'b l e'], PyTree]:
    """The form of `layers.stacked`.

    Returns:
      Outputs; and after a piece, the state of self-attention and the summary of
      the encoder, if it was made here.
    """
    width = x.shape[-1]
    attention = self._attention('attention', width, causal=True)
    h = norm('ln_attention', self.dtype)(x)
    matrix = own.matrix
    if _takes_bias(self.attention):
      matrix = context.keys._replace(prefix=own.prefix)
    options = {'projection': matrix, 'key_mask': context.mask}
    is_piece = context.before is not None
    if is_piece:
      h, state = attention.extend(h, state=state, **options)
    else:
      h = attention(h, **options)
    x = x + self._drop(h)
    h, cross = self._cross(norm('ln_cross', self.dtype)(x), context, own)
    x = self._mlp(x + self._drop(h))
    return x, (state, cross) if is_piece else None

  def _cross(
    self, x: Float[Array, 'b l e'], context: Context, own: PerLayer
  ) -> tuple[Float[Array, 'b l e'], PyTree]:
    attention = self._attention('cross', x.shape[-1], causal=False)
    options = {'projection': own.cross_matrix}
    if own.cross is not None:
      return attention.read(x, own.cross, **options), None
    options['key_mask'] = context.memory_mask
    if context.before is None:
      return attention(x, context.memory, **options), None
    cross = attention.summarize(context.memory, **options)
    options.pop('key_mask')
    return attention.read(x, cross, **options), cross


def _takes_bias(attention: attention_lib.AttentionFn) -> bool:
  return getattr(attention, 'takes_bias', False)


def sinusoids(positions: Array, width: int) -> Float[Array, '*n e']:
  """Position codes (arXiv:1706.03762) for attention that takes no bias."""
  rates = 1e4 ** (-jnp.arange(0, width, 2) / width)
  angles = positions[..., None] * rates
  codes = jnp.stack([jnp.sin(angles), jnp.cos(angles)], axis=-1)
  return codes.reshape(*angles.shape[:-1], -1)[..., :width]


def fourier_features(bins: int, width: int) -> Float[np.ndarray, 'q e']:
  """Sines and cosines of the middles of bins, with mean square 1.

  Wave lengths grow geometrically from eight bins to twice the range, so that near
  bins get near rows.
  """
  middles = (np.arange(bins) + 0.5) / bins
  waves = np.geomspace(0.5, bins / 8, -(-width // 2))
  angles = 2 * np.pi * middles[:, None] * waves
  codes = np.stack([np.sin(angles), np.cos(angles)], axis=-1)
  codes = np.sqrt(2) * codes.reshape(bins, -1)[:, :width]
  return codes.astype(np.float32)
