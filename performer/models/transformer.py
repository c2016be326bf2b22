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
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int

__all__ = ['AttentionFn', 'Transformer', 'sinusoids']

# Gaussian error linear unit in its exact form, as in the protein models.
_ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
  'gelu': lambda x: nn.gelu(x, approximate=False),
  'relu': nn.relu,
}


@runtime_checkable
class AttentionFn(Protocol):
  """What a model needs of `performer.attention.Favor` or `Exact`."""

  redraw_every: int | None

  def draw(
    self,
    key: Array,
    *,
    layer: int | Array,
    step: int | Array,
    num_heads: int,
    head_dim: int,
  ) -> Array | None:
    """The random matrix of a layer at a training step."""

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
    """Attends."""


def sinusoids(length: int, width: int) -> Float[np.ndarray, 'l d']:
  """Sinusoidal position codes (arXiv:1706.03762, Section 3.5), float32."""
  rates = 1e4 ** (-np.arange(0, width, 2) / width)
  angles = np.arange(length)[:, None] * rates
  codes = np.zeros((length, width), np.float32)
  codes[:, 0::2] = np.sin(angles)
  codes[:, 1::2] = np.cos(angles[:, : width // 2])
  return codes


def _partitioned(init: Callable[..., Array], *axes: str) -> Callable[..., Any]:
  return nn.with_logical_partitioning(init, axes)


class SelfAttention(nn.Module):
  """Multi-head self-attention around an attention function."""

  num_heads: int
  attention: AttentionFn
  causal: bool
  dtype: Any

  @nn.compact
  def __call__(
    self,
    x: Float[Array, 'b l e'],
    mask: Bool[Array, 'b l'],
    projection: Array | None,
  ) -> Float[Array, 'b l e']:
    """Attends within each sequence; `mask` marks the keys to see."""
    width = x.shape[-1]
    init = nn.initializers.xavier_uniform()
    q, k, v = (
      nn.DenseGeneral(
        (self.num_heads, width // self.num_heads),
        use_bias=False,
        dtype=self.dtype,
        kernel_init=_partitioned(init, 'embed', 'heads', 'kv'),
        name=name,
      )(x)
      for name in ('query', 'key', 'value')
    )
    self.sow('intermediates', 'queries', q)
    self.sow('intermediates', 'keys', k)
    out = self.attention(
      q, k, v, projection=projection, causal=self.causal, key_mask=mask
    )
    return nn.DenseGeneral(
      width,
      axis=(-2, -1),
      use_bias=False,
      dtype=self.dtype,
      kernel_init=_partitioned(init, 'heads', 'kv', 'embed'),
      name='out',
    )(out)


class Block(nn.Module):
  """Pre-LN residual block: attention, then an MLP."""

  num_heads: int
  d_ff: int
  attention: AttentionFn
  causal: bool
  dropout: float
  activation: str
  dtype: Any
  train: bool

  @nn.compact
  def __call__(
    self,
    x: Float[Array, 'b l e'],
    mask: Bool[Array, 'b l'],
    projection: Array | None,
  ) -> tuple[Float[Array, 'b l e'], None]:
    """The form that `nn.scan` asks for: (carry, inputs) -> (carry, nothing)."""
    drop = nn.Dropout(self.dropout, deterministic=not self.train)
    attend = SelfAttention(
      self.num_heads, self.attention, self.causal, self.dtype, name='attention'
    )
    x = x + drop(attend(_layer_norm('ln_attention')(x), mask, projection))
    h = _layer_norm('ln_mlp')(x)
    init = nn.initializers.xavier_uniform()
    h = nn.Dense(
      self.d_ff,
      dtype=self.dtype,
      kernel_init=_partitioned(init, 'embed', 'mlp'),
      bias_init=_partitioned(nn.initializers.zeros, 'mlp'),
      name='mlp_in',
    )(h)
    h = drop(_ACTIVATIONS[self.activation](h))
    h = nn.Dense(
      x.shape[-1],
      dtype=self.dtype,
      kernel_init=_partitioned(init, 'mlp', 'embed'),
      bias_init=_partitioned(nn.initializers.zeros, 'embed'),
      name='mlp_out',
    )(h)
    return x + drop(h), None


def _layer_norm(name: str) -> nn.LayerNorm:
  # Statistics in float32 whatever the activations are.
  return nn.LayerNorm(
    dtype=jnp.float32,
    scale_init=_partitioned(nn.initializers.ones, 'embed'),
    bias_init=_partitioned(nn.initializers.zeros, 'embed'),
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

  def draw_projections(self, key: Array, step: int | Array) -> Array | None:
    """The random matrices of all layers at a training step.

    Args:
      key: a typed key; the same one during the whole run.
      step: training step; the matrices change every `attention.redraw_every`.

    Returns:
      float32 [layers, m, d] ([layers, h, m, d] if drawn per head), or None if
      the attention needs none.
    """

    def draw(layer: Array) -> Array | None:
      return self.attention.draw(
        key,
        layer=layer,
        step=step,
        num_heads=self.num_heads,
        head_dim=self.head_dim,
      )

    return jax.vmap(draw)(jnp.arange(self.num_layers))

  @nn.compact
  def __call__(
    self,
    tokens: Int[Array, 'b l'],
    *,
    mask: Bool[Array, 'b l'],
    projections: Array | None,
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
    x = self._embed(tokens)
    x = nn.Dropout(self.dropout, deterministic=not train)(x)
    x, _ = self._blocks(train)(x, mask, projections)
    x = _layer_norm('ln_out')(x)
    return nn.Dense(
      self.vocab_size,
      dtype=jnp.float32,
      kernel_init=_partitioned(
        nn.initializers.xavier_uniform(), 'embed', 'vocab'
      ),
      bias_init=_partitioned(nn.initializers.zeros, 'vocab'),
      name='logits',
    )(x)

  def _embed(self, tokens: Int[Array, 'b l']) -> Float[Array, 'b l e']:
    embed = nn.Embed(
      self.vocab_size,
      self.d_model,
      dtype=self.dtype,
      embedding_init=_partitioned(
        nn.initializers.normal(1.0), 'vocab', 'embed'
      ),
      name='tokens',
    )
    positions = self.param(
      'positions',
      _partitioned(
        lambda key, shape: jnp.asarray(sinusoids(*shape)), 'position', 'embed'
      ),
      (self.max_length, self.d_model),
    )
    return embed(tokens) + positions[: tokens.shape[1]].astype(self.dtype)

  def _blocks(self, train: bool) -> nn.Module:
    block = nn.remat(Block, prevent_cse=False) if self.remat else Block
    layers = nn.scan(
      block,
      length=self.num_layers,
      variable_axes={'params': 0, 'intermediates': 0},
      split_rngs={'params': True, 'dropout': True},
      in_axes=(nn.broadcast, 0),
      metadata_params={nn.PARTITION_NAME: 'layers'},
    )
    return layers(
      num_heads=self.num_heads,
      d_ff=self.d_ff,
      attention=self.attention,
      causal=self.causal,
      dropout=self.dropout,
      activation=self.activation,
      dtype=self.dtype,
      train=train,
      name='blocks',
    )
