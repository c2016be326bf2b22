"""The language model of the SLiM experiments.

Differs from `performer.models.transformer.Transformer` in what the published
runs had: positions are sinusoids, computed and never stored, beside the token's
embedding and not added to it; queries, keys and values have biases; there is no
projection after the heads, no LayerNorm at the end and no dropout; parameters
start as PyTorch's layers do. Memory and parameters do not depend on the length,
so sequences may have any.

Its state in decoding and between pieces is, per layer and sequence, S and z of
M (d + h) numbers (M features per head, d width, h heads), and beside these
the constants c of `performer.attention.sums.state`: h numbers, or h M for kernels
with logarithmic features.

Reference: arXiv:2012.11346, and the models of its experiments.
"""

from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float, Int, PyTree

from performer.models import attention as attention_lib
from performer.models import language_model, layers

__all__ = ['NORMS', 'SlimTransformer', 'position_codes']

NORMS = ('post_branch', 'pre')
_EPSILON = 1e-5  # Of LayerNorm, added to the variance.


def position_codes(
  positions: Int[Array, '*b l'], width: int, dtype: Any
) -> Float[Array, '*b l w']:
  """Sinusoids of absolute positions: all sines, then all cosines.

  Column j is sin(l w_j) with w_j = 10000^(-2j / width), column width / 2 + j
  its cosine. In float32 angles are off by less than 2e-7 times the position.

  Args:
    positions: l, from 0.
    width: of the codes, even.
    dtype: to compute in.

  Returns:
    Codes.
  """
  rates = 1e4 ** (-2 * np.arange(width // 2) / width)
  angles = positions[..., None].astype(dtype) * jnp.asarray(rates, dtype)
  return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)


# Uniform in +- fan_in^(-1/2), as weights of PyTorch's linear layers start.
_kernel_init = nn.initializers.variance_scaling(1 / 3, 'fan_in', 'uniform')


def _bias_init(fan_in: int) -> layers.Initializer:
  """Their biases: uniform in the range of the weights."""
  bound = fan_in**-0.5

  def init(key: Array, shape: tuple[int, ...], dtype: Any) -> Array:
    return jax.random.uniform(key, shape, dtype, -bound, bound)

  return init


def _linear(
  name: str, fan_in: int, features: int, axes: tuple[str, str], dtype: Any
) -> nn.Dense:
  return layers.dense(
    name,
    features,
    axes,
    dtype=dtype,
    kernel_init=_kernel_init,
    bias_init=_bias_init(fan_in),
  )


class SlimBlock(nn.Module):
  """Two residual branches, attention and MLP, each with its LayerNorm."""

  num_heads: int
  d_ff: int
  attention: attention_lib.AttentionFn
  norm: str
  output_projection: bool
  dtype: Any

  @nn.compact
  def __call__(
    self,
    x: Float[Array, 'b l e'],
    piece: layers.Piece,
    projection: PyTree,
    state: PyTree,
  ) -> tuple[Float[Array, 'b l e'], PyTree]:
    """The form that `layers.stacked` asks for."""
    width = x.shape[-1]
    attention = attention_lib.MultiHeadAttention(
      self.num_heads,
      width,
      self.attention,
      causal=True,
      use_bias=True,
      dtype=self.dtype,
      output_projection=self.output_projection,
      kernel_init=_kernel_init,
      bias_init=_bias_init(width),
      name='attention',
    )

    def attend(h: Array) -> tuple[Array, PyTree]:
      return layers.attend(attention, h, piece, projection, state)

    def mlp(h: Array) -> tuple[Array, None]:
      inner, dtype = self.d_ff, self.dtype
      h = _linear('mlp_in', width, inner, ('embed', 'mlp'), dtype)(h)
      h = layers.gelu(h)
      h = _linear('mlp_out', inner, width, ('mlp', 'embed'), dtype)(h)
      return h, None

    x, state = self._branch('ln_attention', attend, x)
    x, _ = self._branch('ln_mlp', mlp, x)
    self.sow('intermediates', 'hidden', x)
    return x, state

  def _branch(
    self, name: str, branch: Callable[[Array], tuple[Array, Any]], x: Array
  ) -> tuple[Float[Array, 'b l e'], Any]:
    # The outputs of a branch may be small beside their mean: two passes.
    norm = layers.layer_norm(
      name, dtype=self.dtype, epsilon=_EPSILON, use_fast_variance=False
    )
    if self.norm == 'pre':
      h, rest = branch(norm(x))
    else:
      h, rest = branch(x)
      h = norm(h)
    return x + h.astype(x.dtype), rest


class SlimTransformer(language_model.LanguageModel):
  """A causal language model for training in sub-linear memory.

  Attributes:
    vocab_size: number of token ids.
    attention: a mechanism such as `performer.attention.Favor(kernel='square',
      projection=False, features=None, kernel_epsilon=1e-6)`, which is that of
      the published runs up to its epsilon.
    num_layers: blocks.
    num_heads: heads per block; must divide `d_model`.
    d_model: width of the residual stream, half of it for positions; a multiple
      of 4.
    d_ff: width of the MLPs.
    norm: 'post_branch', x + LN(branch(x)), as on text; or 'pre',
      x + branch(LN(x)), as on the copying task.
    output_projection: a projection after the heads, which the published models
      do not have.
    dtype: type of activations; parameters are float32, and so are statistics
      and logits, which are float64 if this is.
    max_length: longest sequence; None: any.
    remat: recompute blocks in the backward pass instead of storing them.
    causal: True, always.

  Raises:
    ValueError: if a size is out of range, the heads or 4 do not divide the
      width, or the norm is unknown.
  """

  vocab_size: int
  attention: attention_lib.AttentionFn
  num_layers: int
  num_heads: int
  d_model: int
  d_ff: int
  norm: str = 'post_branch'
  output_projection: bool = False
  dtype: Any = jnp.float32
  max_length: int | None = None
  remat: bool = False
  causal: ClassVar[bool] = True

  def __post_init__(self) -> None:
    if self.norm not in NORMS:
      raise ValueError(f'norm must be one of {NORMS}, got {self.norm!r}')
    if self.d_model % 4:
      raise ValueError(
        'd_model must be a multiple of 4: an embedding, sines and cosines, '
        f'got {self.d_model=}'
      )
    super().__post_init__()

  def _embed(
    self,
    tokens: Int[Array, 'b l'],
    positions: Int[Array, 'b l'] | None,
    *,
    train: bool,
  ) -> Float[Array, 'b l e']:
    del train  # There is no dropout.
    half = self.d_model // 2
    embed = layers.embedding(
      'tokens',
      self.vocab_size,
      half,
      dtype=self.dtype,
      embedding_init=nn.initializers.normal(1.0),
    )
    if positions is None:
      positions = jnp.arange(tokens.shape[1])[None]
    codes = position_codes(positions, half, layers.wide(self.dtype))
    if self.max_length is not None:
      codes = jnp.where((positions < self.max_length)[..., None], codes, np.nan)
    x = embed(tokens)
    codes = jnp.broadcast_to(codes.astype(x.dtype), x.shape)
    return jnp.concatenate([x, codes], axis=-1)

  def _blocks(self, *, train: bool) -> nn.Module:
    del train
    blocks = layers.stacked(SlimBlock, self.num_layers, remat=self.remat)
    return blocks(
      num_heads=self.num_heads,
      d_ff=self.d_ff,
      attention=self.attention,
      norm=self.norm,
      output_projection=self.output_projection,
      dtype=self.dtype,
      name='blocks',
    )

  def _head(self, x: Float[Array, 'b l e']) -> Float[Array, 'b l vocab']:
    wide = layers.wide(self.dtype)
    axes = ('embed', 'vocab')
    return _linear('logits', self.d_model, self.vocab_size, axes, wide)(x)
