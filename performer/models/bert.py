"""BERT with any attention mechanism, for pretrained masked language models.

Protein models are published in this form (ProtBERT, AntiBERTy): post-LN blocks,
learned positions, biases everywhere, a head of its own. `convert_bert` reads
their parameters.

Reference: arXiv:1810.04805, Sections 3 and A.2.
"""

from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int, PyTree

from performer.models import attention as attention_lib
from performer.models import dropout as dropout_lib
from performer.models import language_model, layers

__all__ = ['Bert']


class Block(nn.Module):
  """Post-LN residual block: attention, then an MLP."""

  num_heads: int
  d_ff: int
  attention: attention_lib.AttentionFn
  dropout: float
  epsilon: float
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
    drop = dropout_lib.make(self.dropout, train=self.train, positions=None)
    width, dtype = x.shape[-1], self.dtype
    options = {'dtype': dtype, 'epsilon': self.epsilon}
    attention = attention_lib.MultiHeadAttention(
      self.num_heads,
      width,
      self.attention,
      use_bias=True,
      dtype=dtype,
      name='attention',
    )
    h, state = layers.attend(attention, x, piece, projection, state)
    x = layers.layer_norm('ln_attention', **options)(x + drop(h))
    h = layers.dense('mlp_in', self.d_ff, ('embed', 'mlp'), dtype=dtype)(x)
    h = layers.dense('mlp_out', width, ('mlp', 'embed'), dtype=dtype)(
      layers.gelu(h)
    )
    x = layers.layer_norm('ln_mlp', **options)(x + drop(h)).astype(dtype)
    self.sow('intermediates', 'hidden', x)
    return x, state


class Bert(language_model.LanguageModel):
  """Encoder and head of a masked language model; one segment of text.

  Attributes:
    vocab_size: number of token ids.
    max_length: longest sequence, for the learned positions.
    attention: an attention mechanism such as `performer.attention.Favor`.
    num_layers: blocks.
    num_heads: heads per block; must divide `d_model`.
    d_model: width of the residual stream.
    d_ff: width of the MLPs.
    num_types: kinds of segments that the pretrained model knows; all tokens
      are of the first.
    dropout: rate on embeddings, and after attention and MLP.
    epsilon: of LayerNorms.
    dtype: type of activations; parameters are float32, and so are statistics
      and logits, which are float64 if this is.
    remat: recompute blocks in the backward pass instead of storing them.
    causal: False; BERT reads in both directions.

  Raises:
    ValueError: if a size is out of range, the heads do not divide the width,
      or causal is True.
  """

  vocab_size: int
  max_length: int
  attention: attention_lib.AttentionFn
  num_layers: int
  num_heads: int
  d_model: int
  d_ff: int
  num_types: int = 2
  dropout: float = 0.1
  epsilon: float = 1e-12
  dtype: Any = jnp.float32
  remat: bool = False
  causal: bool = False

  def __post_init__(self) -> None:
    if self.causal:
      raise ValueError(f'a Bert is bidirectional, got {self.causal=}')
    super().__post_init__()

  def _norm(self, name: str) -> nn.LayerNorm:
    return layers.layer_norm(name, dtype=self.dtype, epsilon=self.epsilon)

  def _embed(
    self,
    tokens: Int[Array, 'b l'],
    positions: Int[Array, 'b l'] | None,
    *,
    train: bool,
  ) -> Float[Array, 'b l e']:
    del positions  # Sequences are whole.

    init = nn.initializers.normal(0.02)

    def table(name: str, rows: int, axis: str) -> Array:
      names = attention_lib.partitioned(init, axis, 'embed')
      return self.param(name, names, (rows, self.d_model))

    embed = layers.embedding(
      'tokens',
      self.vocab_size,
      self.d_model,
      dtype=self.dtype,
      embedding_init=init,
    )
    places = table('positions', self.max_length, 'position')
    kinds = table('types', self.num_types, 'type')
    codes = (places[: tokens.shape[1]] + kinds[0]).astype(self.dtype)
    x = self._norm('ln_embed')(embed(tokens) + codes).astype(self.dtype)
    return dropout_lib.make(self.dropout, train=train, positions=None)(x)

  def _blocks(self, *, train: bool) -> nn.Module:
    blocks = layers.stacked(Block, self.num_layers, remat=self.remat)
    return blocks(
      num_heads=self.num_heads,
      d_ff=self.d_ff,
      attention=self.attention,
      dropout=self.dropout,
      epsilon=self.epsilon,
      dtype=self.dtype,
      train=train,
      name='blocks',
    )

  def _head(self, x: Float[Array, 'b l e']) -> Float[Array, 'b l vocab']:
    wide = layers.wide(self.dtype)
    axes = ('embed', 'embed_out')
    x = layers.dense('transform', self.d_model, axes, dtype=wide)(x)
    x = self._norm('ln_transform')(layers.gelu(x))
    return layers.dense(
      'logits', self.vocab_size, ('embed', 'vocab'), dtype=wide
    )(x)
