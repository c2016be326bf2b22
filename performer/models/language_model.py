"""The interface of language models for training, chunks and decoding.

A model is an embedding, a stack of equal layers, and a map to logits. All that
crosses positions in it is attention, so a causal model with linear attention
can read a sequence in pieces, and hand a state of constant size from one to the
next.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int, PyTree

from performer.attention.sums import state as state_lib
from performer.models import attention as attention_lib
from performer.models import layers

__all__ = ['LanguageModel']


class LanguageModel(nn.Module):
  """Base class of language models; subclasses add their layers.

  Subclasses have the attributes `vocab_size`, `max_length` (None: sequences of
  any length), `attention` (a mechanism such as `performer.attention.Favor`),
  `causal`, `num_layers`, `num_heads`, `d_model`, `d_ff` and `dtype`, and the
  methods `_embed`, `_blocks` and `_head`.

  Raises:
    ValueError: if a size is out of range, the heads do not divide the width, or
      `attention` is a class.
  """

  def __post_init__(self) -> None:
    names = ('vocab_size', 'num_layers', 'num_heads', 'd_model', 'd_ff')
    sizes = {name: getattr(self, name) for name in names}
    if self.max_length is not None:
      sizes['max_length'] = self.max_length
    if min(sizes.values()) < 1:
      raise ValueError(
        f'sizes of a {type(self).__name__} must be at least 1, got {sizes}'
      )
    if self.d_model % self.num_heads:
      raise ValueError(
        f'num_heads must divide d_model, got {self.num_heads=} {self.d_model=}'
      )
    if isinstance(self.attention, type):
      raise ValueError(
        f'attention must be an object, got the class {self.attention.__name__}: '
        f'are its parentheses missing, as in {self.attention.__name__}()?'
      )
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

  def empty_state(self, batch: int) -> state_lib.State:
    """The state before the first token, which `extend` takes for None.

    Args:
      batch: number of sequences.

    Returns:
      Sums of zero, of all layers, stacked in front.

    Raises:
      ValueError: if the batch is empty, or the model or its attention has no
        state.
    """
    if batch < 1:
      raise ValueError(f'batch must be at least 1, got {batch=}')
    if not self.causal:
      raise ValueError('only a causal model has a state; set causal=True')
    state = attention_lib.linear_method(self.attention, 'empty_state')(
      batch=batch,
      num_heads=self.num_heads,
      head_dim=self.head_dim,
      dtype=self.dtype,
    )
    return jax.tree.map(
      lambda x: jnp.broadcast_to(x, (self.num_layers, *x.shape)), state
    )

  def __call__(
    self,
    tokens: Int[Array, 'b l'],
    *,
    mask: Bool[Array, 'b l'],
    projections: PyTree,
    train: bool = False,
  ) -> Float[Array, 'b t vocab']:
    """Maps tokens to logits.

    Args:
      tokens: ids in [0, vocab_size).
      mask: True where a token is real and may be attended to.
      projections: result of `draw_projections`.
      train: apply dropout, if the model has any; needs an rng named 'dropout'.

    Returns:
      Logits of the targets, float32 (float64 for float64): of all tokens in a
      language model.

    Raises:
      ValueError: if the sequence is longer than `max_length`.
    """
    length = tokens.shape[1]
    if self.max_length is not None and length > self.max_length:
      raise ValueError(
        'the sequence must not be longer than the positions of the model, '
        f'got {length=} max_length={self.max_length}'
      )
    logits, _ = self._run(tokens, layers.Piece(mask), projections, train=train)
    return logits

  def extend(
    self,
    tokens: Int[Array, 'b l'],
    *,
    positions: Int[Array, 'b l'],
    mask: Bool[Array, 'b l'],
    projections: PyTree,
    state: PyTree = None,
    at: Int[Array, 'b'] | None = None,
    train: bool = False,
  ) -> tuple[Float[Array, 'b n vocab'], PyTree]:
    """Continues sequences: decoding, or training on one piece after another.

    Pieces of any lengths, in order, give what one call on the whole gives.

    Args:
      tokens: the next piece of each sequence; one token or many.
      positions: of the tokens in their sequences, from 0. The logits of a
        position that the model does not have are NaN.
      mask: False = not part of the sequence.
      projections: the same at every call.
      state: result of the previous piece; None before the first.
      at: index into the piece of the token whose logits are wanted; None: all.
      train: apply dropout, if the model has any; needs an rng named 'dropout'.
        With one key, masks depend on rows and positions alone and not on how
        sequences are cut; they differ from those of `__call__`.

    Returns:
      Logits, float32 (float64 for float64), of l tokens or (with `at`) of one,
      and the states of all layers, stacked.

    Raises:
      ValueError: if the model or its attention has no state.
    """
    return self._run(
      tokens,
      layers.Piece(mask, positions),
      projections,
      state=state,
      at=at,
      train=train,
    )

  @nn.compact
  def _run(
    self,
    tokens: Array,
    piece: layers.Piece,
    projections: PyTree,
    *,
    state: PyTree = None,
    at: Array | None = None,
    train: bool = False,
  ) -> tuple[Array, PyTree]:
    x = self._embed(tokens, piece.positions, train=train)
    x, state = self._blocks(train=train)(x, piece, projections, state)
    if at is not None:
      x = jnp.take_along_axis(x, at[:, None, None], axis=1)
    return self._head(self._pool(x, piece.mask)), state

  def _embed(
    self, tokens: Array, positions: Array | None, *, train: bool
  ) -> Float[Array, 'b l e']:
    """Activations before the first layer; positions None: from 0."""
    raise NotImplementedError

  def _blocks(self, *, train: bool) -> nn.Module:
    """The layers, made by `layers.stacked`."""
    raise NotImplementedError

  def _pool(
    self, x: Float[Array, 'b n e'], mask: Bool[Array, 'b l']
  ) -> Float[Array, 'b t e']:
    """The activations that have logits, one for each target: here all."""
    del mask
    return x

  def _head(self, x: Float[Array, 'b l e']) -> Float[Array, 'b l vocab']:
    """Logits of the activations after the last layer."""
    raise NotImplementedError
