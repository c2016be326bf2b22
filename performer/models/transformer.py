"""Transformers for sequences of tokens, with any attention mechanism.

Encoder (bidirectional, masked language models) and decoder (causal) are one
module; exact and fast attention share one parameter tree, because the random
matrices of fast attention are arguments, not parameters. Layers are stacked
and run by one scan, so that compilation does not grow with depth.

Architecture of arXiv:2009.14794, Appendix A (protein models): pre-LN blocks,
projections of queries, keys and values without biases, learned positions that
start as sinusoids, an untied output layer.
"""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float, Int, PyTree

from performer.models import attention as attention_lib
from performer.models import dropout as dropout_lib
from performer.models import language_model, layers

__all__ = ['AttentionFn', 'Transformer', 'sinusoids']

AttentionFn = attention_lib.AttentionFn

# The protein models have the exact Gaussian error linear unit.
_ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
  'gelu': layers.gelu,
  'relu': nn.relu,
}


def sinusoids(length: int, width: int) -> Float[np.ndarray, 'l d']:
  """Sinusoidal position codes (arXiv:1706.03762, Section 3.5), float32."""
  rates = 1e4 ** (-np.arange(0, width, 2) / width)
  angles = np.arange(length)[:, None] * rates
  codes = np.zeros((length, width), np.float32)
  codes[:, 0::2] = np.sin(angles)
  codes[:, 1::2] = np.cos(angles[:, : width // 2])
  return codes


class Block(nn.Module):
  """Pre-LN residual block: attention, then an MLP."""

  num_heads: int
  head_dim: int
  d_ff: int
  attention: AttentionFn
  causal: bool
  attention_bias: bool
  dropout: float
  activation: str
  dtype: Any
  train: bool

  @nn.compact
  def __call__(
    self,
    x: Float[Array, 'b l e'],
    piece: layers.Piece,
    projection: PyTree,
    state: PyTree,
  ) -> tuple[Float[Array, 'b l e'], PyTree]:
    """The form that `layers.stacked` asks for."""
    drop = dropout_lib.make(
      self.dropout, train=self.train, positions=piece.positions
    )
    attention = attention_lib.MultiHeadAttention(
      self.num_heads,
      x.shape[-1],
      self.attention,
      causal=self.causal,
      head_dim=self.head_dim,
      use_bias=self.attention_bias,
      dtype=self.dtype,
      name='attention',
    )
    dtype = self.dtype
    h = layers.layer_norm('ln_attention', dtype=dtype)(x)
    h, state = layers.attend(attention, h, piece, projection, state)
    x = x + drop(h)
    h = layers.layer_norm('ln_mlp', dtype=dtype)(x)
    h = layers.dense('mlp_in', self.d_ff, ('embed', 'mlp'), dtype=dtype)(h)
    h = drop(_ACTIVATIONS[self.activation](h))
    h = layers.dense('mlp_out', x.shape[-1], ('mlp', 'embed'), dtype=dtype)(h)
    x = x + drop(h)
    self.sow('intermediates', 'hidden', x)
    return x, state


class Transformer(language_model.LanguageModel):
  """A stack of blocks between a token embedding and an output layer.

  Attributes:
    vocab_size: number of token ids.
    max_length: longest sequence, for the learned positions.
    attention: an attention mechanism such as `performer.attention.Favor`.
    causal: decoder if True, encoder if False.
    num_layers: blocks.
    num_heads: heads per block; must divide `d_model`.
    d_model: width of the residual stream.
    d_ff: width of the MLPs.
    dropout: rate after attention, in and after the MLP, and on embeddings.
    activation: 'gelu' or 'relu'.
    dtype: type of activations; parameters are float32, and so are statistics
      and logits, which are float64 if this is.
    remat: recompute blocks in the backward pass instead of storing them.
    attention_bias: biases in the projections of attention, as many pretrained
      models have; the papers' models do not.

  Raises:
    ValueError: if a size is out of range, the heads do not divide the width,
      or the activation is unknown.
  """

  vocab_size: int
  max_length: int
  attention: AttentionFn
  causal: bool
  num_layers: int
  num_heads: int
  d_model: int
  d_ff: int
  dropout: float = 0.1
  activation: str = 'gelu'
  dtype: Any = jnp.float32
  remat: bool = False
  attention_bias: bool = False

  def __post_init__(self) -> None:
    if self.activation not in _ACTIVATIONS:
      raise ValueError(
        f'activation must be one of {sorted(_ACTIVATIONS)}, '
        f'got {self.activation!r}'
      )
    if not 0 <= self.dropout < 1:
      raise ValueError(f'dropout must be in [0, 1), got {self.dropout=}')
    super().__post_init__()

  def _embed(
    self,
    tokens: Int[Array, 'b l'],
    positions: Int[Array, 'b l'] | None,
    *,
    train: bool,
  ) -> Float[Array, 'b l e']:
    embed = layers.embedding(
      'tokens',
      self.vocab_size,
      self.d_model,
      dtype=self.dtype,
      embedding_init=nn.initializers.normal(1.0),
    )
    codes = self._codes()
    if positions is None:
      codes = codes[: tokens.shape[1]]
    else:
      codes = jnp.take(codes, positions, axis=0, mode='fill')
    drop = dropout_lib.make(self.dropout, train=train, positions=positions)
    return drop(embed(tokens) + codes.astype(self.dtype))

  def _codes(self) -> Float[Array, 'n e']:
    """The codes of all positions; learned, from sinusoids."""
    return self._table('positions', self.max_length)

  def _table(self, name: str, length: int) -> Float[Array, 'n e']:
    return self.param(
      name,
      attention_lib.partitioned(
        lambda key, shape: jnp.asarray(sinusoids(*shape)), 'position', 'embed'
      ),
      (length, self.d_model),
    )

  def _blocks(self, *, train: bool) -> nn.Module:
    blocks = layers.stacked(Block, self.num_layers, remat=self.remat)
    return blocks(
      num_heads=self.num_heads,
      head_dim=self.head_dim,
      d_ff=self.d_ff,
      attention=self.attention,
      causal=self.causal,
      attention_bias=self.attention_bias,
      dropout=self.dropout,
      activation=self.activation,
      dtype=self.dtype,
      train=train,
      name='blocks',
    )

  def _head(self, x: Float[Array, 'b l e']) -> Float[Array, 'b l vocab']:
    x = layers.layer_norm('ln_out', dtype=self.dtype)(x)
    wide = layers.wide(self.dtype)
    return layers.dense(
      'logits', self.vocab_size, ('embed', 'vocab'), dtype=wide
    )(x)
