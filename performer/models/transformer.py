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

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int, PyTree

from performer.attention import state as state_lib
from performer.models import attention as attention_lib

__all__ = ['AttentionFn', 'Transformer', 'sinusoids']

AttentionFn = attention_lib.AttentionFn

# Gaussian error linear unit in its exact form, as in the protein models.
_ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
  'gelu': lambda x: nn.gelu(x, approximate=False),
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
  d_ff: int
  attention: AttentionFn
  causal: bool
  attention_bias: bool
  dropout: float
  activation: str
  dtype: Any
  train: bool
  decode: bool

  @nn.compact
  def __call__(
    self,
    x: Float[Array, 'b l e'],
    mask: Bool[Array, 'b l'],
    projection: PyTree,
    state: state_lib.State | None,
  ) -> tuple[Float[Array, 'b l e'], state_lib.State | None]:
    """The form that `nn.scan` asks for: (carry, inputs) -> (carry, outputs)."""
    drop = nn.Dropout(self.dropout, deterministic=not self.train)
    attend = attention_lib.MultiHeadAttention(
      self.num_heads,
      x.shape[-1],
      self.attention,
      causal=self.causal,
      use_bias=self.attention_bias,
      dtype=self.dtype,
      name='attention',
    )
    h = _layer_norm('ln_attention')(x)
    if self.decode:
      h, state = attend.extend(
        h, projection=projection, key_mask=mask, state=state
      )
    else:
      h = attend(h, projection=projection, key_mask=mask)
    x = x + drop(h)
    h = _layer_norm('ln_mlp')(x)
    init = nn.initializers.xavier_uniform()
    h = nn.Dense(
      self.d_ff,
      dtype=self.dtype,
      kernel_init=attention_lib.partitioned(init, 'embed', 'mlp'),
      bias_init=attention_lib.partitioned(nn.initializers.zeros, 'mlp'),
      name='mlp_in',
    )(h)
    h = drop(_ACTIVATIONS[self.activation](h))
    h = nn.Dense(
      x.shape[-1],
      dtype=self.dtype,
      kernel_init=attention_lib.partitioned(init, 'mlp', 'embed'),
      bias_init=attention_lib.partitioned(nn.initializers.zeros, 'embed'),
      name='mlp_out',
    )(h)
    x = x + drop(h)
    self.sow('intermediates', 'hidden', x)
    return x, state


def _layer_norm(name: str) -> nn.LayerNorm:
  # Statistics in float32 whatever the activations are.
  return nn.LayerNorm(
    dtype=jnp.float32,
    scale_init=attention_lib.partitioned(nn.initializers.ones, 'embed'),
    bias_init=attention_lib.partitioned(nn.initializers.zeros, 'embed'),
    name=name,
  )


class Transformer(nn.Module):
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
    dtype: type of activations; parameters, statistics and logits are float32.
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
    names = ('vocab_size', 'max_length', 'num_layers', 'num_heads', 'd_ff')
    sizes = {name: getattr(self, name) for name in (*names, 'd_model')}
    if min(sizes.values()) < 1:
      raise ValueError(
        f'sizes of a Transformer must be at least 1, got {sizes}'
      )
    if self.d_model % self.num_heads:
      raise ValueError(
        f'num_heads must divide d_model, got {self.num_heads=} {self.d_model=}'
      )
    if self.activation not in _ACTIVATIONS:
      raise ValueError(
        f'activation must be one of {sorted(_ACTIVATIONS)}, '
        f'got {self.activation!r}'
      )
    if not 0 <= self.dropout < 1:
      raise ValueError(f'dropout must be in [0, 1), got {self.dropout=}')
    super().__post_init__()

  @property
  def head_dim(self) -> int:
    """Width of one head."""
    return self.d_model // self.num_heads

  def draw_projections(self, key: Array, step: int | Array) -> PyTree:
    """The random matrices of all layers at a training step.

    Args:
      key: a typed key; the same one during the whole run.
      step: training step; the matrices change every `attention.redraw_every`.

    Returns:
      float32 [layers, m, d] ([layers, h, m, d] if drawn per head), or None if
      the attention needs none.
    """

    def draw(layer: Array) -> PyTree:
      return self.attention.draw(
        key,
        layer=layer,
        step=step,
        num_heads=self.num_heads,
        head_dim=self.head_dim,
      )

    return jax.vmap(draw)(jnp.arange(self.num_layers))

  def __call__(
    self,
    tokens: Int[Array, 'b l'],
    *,
    mask: Bool[Array, 'b l'],
    projections: PyTree,
    train: bool = False,
  ) -> Float[Array, 'b l vocab']:
    """Maps tokens to logits.

    Args:
      tokens: ids in [0, vocab_size).
      mask: True where a token is real and may be attended to.
      projections: what `draw_projections` returned.
      train: apply dropout; needs an rng named 'dropout'.

    Returns:
      Logits, float32.

    Raises:
      ValueError: if the sequence is longer than `max_length`.
    """
    length = tokens.shape[1]
    if length > self.max_length:
      raise ValueError(
        'the sequence must not be longer than the positions of the model, '
        f'got {length=} max_length={self.max_length}'
      )
    logits, _ = self._run(tokens, mask, projections, train=train)
    return logits

  def extend(
    self,
    tokens: Int[Array, 'b l'],
    *,
    positions: Int[Array, 'b l'],
    mask: Bool[Array, 'b l'],
    projections: PyTree,
    state: state_lib.State | None = None,
    at: Int[Array, 'b'] | None = None,
  ) -> tuple[Float[Array, 'b n vocab'], state_lib.State]:
    """Continues sequences; see `performer.models.decoding`.

    Args:
      tokens: the next piece of each sequence; one token or many.
      positions: of the tokens in their sequences, from 0. The logits of a
        position that the model does not have are NaN.
      mask: False = not part of the sequence.
      projections: the same at every call.
      state: what the previous piece returned; None before the first.
      at: index into the piece of the token whose logits are wanted; None: all.

    Returns:
      Logits, float32, of l tokens or (with `at`) of one, and the states of all
      layers, stacked.

    Raises:
      ValueError: if the model or its attention cannot decode.
    """
    return self._run(
      tokens,
      mask,
      projections,
      positions=positions,
      state=state,
      at=at,
      decode=True,
    )

  @nn.compact
  def _run(
    self,
    tokens: Array,
    mask: Array,
    projections: PyTree,
    *,
    positions: Array | None = None,
    state: state_lib.State | None = None,
    at: Array | None = None,
    train: bool = False,
    decode: bool = False,
  ) -> tuple[Array, state_lib.State | None]:
    x = self._embed(tokens, positions)
    x = nn.Dropout(self.dropout, deterministic=not train)(x)
    blocks = self._blocks(train=train, decode=decode)
    x, state = blocks(x, mask, projections, state)
    if at is not None:
      x = jnp.take_along_axis(x, at[:, None, None], axis=1)
    x = _layer_norm('ln_out')(x)
    logits = nn.Dense(
      self.vocab_size,
      dtype=jnp.float32,
      kernel_init=attention_lib.partitioned(
        nn.initializers.xavier_uniform(), 'embed', 'vocab'
      ),
      bias_init=attention_lib.partitioned(nn.initializers.zeros, 'vocab'),
      name='logits',
    )(x)
    return logits, state

  def _embed(
    self, tokens: Int[Array, 'b l'], positions: Int[Array, 'b l'] | None
  ) -> Float[Array, 'b l e']:
    embed = nn.Embed(
      self.vocab_size,
      self.d_model,
      dtype=self.dtype,
      embedding_init=attention_lib.partitioned(
        nn.initializers.normal(1.0), 'vocab', 'embed'
      ),
      name='tokens',
    )
    codes = self.param(
      'positions',
      attention_lib.partitioned(
        lambda key, shape: jnp.asarray(sinusoids(*shape)), 'position', 'embed'
      ),
      (self.max_length, self.d_model),
    )
    if positions is None:
      codes = codes[: tokens.shape[1]]
    else:
      codes = jnp.take(codes, positions, axis=0, mode='fill')
    return embed(tokens) + codes.astype(self.dtype)

  def _blocks(self, *, train: bool, decode: bool) -> nn.Module:
    block = nn.remat(Block, prevent_cse=False) if self.remat else Block
    layers = nn.scan(
      block,
      length=self.num_layers,
      variable_axes={'params': 0, 'intermediates': 0},
      split_rngs={'params': True, 'dropout': True},
      in_axes=(nn.broadcast, 0, 0),
      metadata_params={nn.PARTITION_NAME: 'layers'},
    )
    return layers(
      num_heads=self.num_heads,
      d_ff=self.d_ff,
      attention=self.attention,
      causal=self.causal,
      attention_bias=self.attention_bias,
      dropout=self.dropout,
      activation=self.activation,
      dtype=self.dtype,
      train=train,
      decode=decode,
      name='blocks',
    )
