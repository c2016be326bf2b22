"""Multi-head attention around any attention mechanism, with O(1) decoding.

The parameters are those of `flax.linen.MultiHeadDotProductAttention`, name by
name and shape by shape; see `performer.models.convert`. The random matrix W of
fast attention is an argument of every call, and so is the state of decoding: a
sum over the keys seen so far, whose size does not depend on their number.

Reference: arXiv:2009.14794, Algorithm 1 and section B.1.
"""

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int, PyTree

from performer.models import products

__all__ = ['AttentionFn', 'MultiHeadAttention', 'linear_method', 'partitioned']


@runtime_checkable
class AttentionFn(Protocol):
  """The part of `Favor`, `Exact` and `Auto` that a model needs."""

  redraw_every: int | None

  def draw(
    self,
    key: Array,
    *,
    layer: int | Array,
    step: int | Array,
    num_heads: int,
    head_dim: int,
  ) -> PyTree:
    """The random matrix of a layer at a training step."""

  def __call__(
    self,
    q: Float[Array, 'b lq h d'],
    k: Float[Array, 'b lk h d'],
    v: Float[Array, 'b lk h v'],
    *,
    projection: PyTree,
    causal: bool,
    key_mask: Bool[Array, 'b lk'] | None = None,
  ) -> Float[Array, 'b lq h v']:
    """Attends."""


def partitioned(init: Callable[..., Array], *axes: str) -> Callable[..., Any]:
  """Gives an initialiser the names of its array's logical axes."""
  return nn.with_logical_partitioning(init, axes)


class MultiHeadAttention(nn.Module):
  """Self-attention, causal or not, and cross-attention.

  Attributes:
    num_heads: h.
    width: of the output; also of queries over all heads, unless `head_dim`.
    attention: a mechanism such as `performer.attention.Favor`.
    causal: whether row i sees keys 0..i only.
    head_dim: width d of one head; None: width / num_heads.
    use_bias: whether the projections have biases.
    dtype: of activations; parameters are float32.
    output_projection: whether there is a fourth projection, of the heads' joint
      outputs; without it these are the output.
    kernel_init: of the projections' kernels, as matrices.
    query_init: of the queries' kernel; None: as the others.
    bias_init: of their biases.

  Raises:
    ValueError: if the heads do not divide the width, or without an output
      projection do not make it up.
  """

  num_heads: int
  width: int
  attention: AttentionFn
  causal: bool = False
  head_dim: int | None = None
  use_bias: bool = False
  dtype: Any = jnp.float32
  output_projection: bool = True
  kernel_init: Callable[..., Array] = nn.initializers.xavier_uniform()
  query_init: Callable[..., Array] | None = None
  bias_init: Callable[..., Array] = nn.initializers.zeros

  def setup(self) -> None:
    """Makes the projections."""
    if self.head_dim is None and self.width % self.num_heads:
      raise ValueError(
        'num_heads must divide width, or give head_dim, '
        f'got {self.num_heads=} {self.width=}'
      )
    size = self.head_dim or self.width // self.num_heads
    if not self.output_projection and size * self.num_heads != self.width:
      raise ValueError(
        'without an output projection num_heads * head_dim must be width, '
        f'got {self.num_heads=} {self.head_dim=} {self.width=}'
      )

    def inward(init: Callable[..., Array]) -> nn.Module:
      return nn.DenseGeneral(
        (self.num_heads, size),
        use_bias=self.use_bias,
        dtype=self.dtype,
        dot_general=products.dot_general,
        kernel_init=partitioned(init, 'embed', 'heads', 'kv'),
        bias_init=partitioned(self.bias_init, 'heads', 'kv'),
      )

    self.query = inward(self.query_init or self.kernel_init)
    self.key, self.value = inward(self.kernel_init), inward(self.kernel_init)
    if self.output_projection:
      self.out = nn.DenseGeneral(
        self.width,
        axis=(-2, -1),
        use_bias=self.use_bias,
        dtype=self.dtype,
        dot_general=products.dot_general,
        kernel_init=partitioned(self.kernel_init, 'heads', 'kv', 'embed'),
        bias_init=partitioned(self.bias_init, 'embed'),
      )

  def __call__(
    self,
    x: Float[Array, 'b l e'],
    source: Float[Array, 'b s f'] | None = None,
    *,
    projection: PyTree,
    key_mask: Bool[Array, 'b s'] | None = None,
    segment_ids: Int[Array, 'b l'] | None = None,
  ) -> Float[Array, 'b l w']:
    """Attends from x to itself, or to a source.

    Args:
      x: sequences that ask.
      source: sequences that are asked; None: x itself.
      projection: W of `attention.draw`; None for mechanisms without one.
      key_mask: True = keep this position of what is asked.
      segment_ids: positions see those of their own segment only; for
        mechanisms that know packed sequences.

    Returns:
      Outputs.

    Raises:
      ValueError: if a causal module gets a source.
    """
    if source is not None and self.causal:
      raise ValueError(
        'attention to a source is bidirectional, got a source and causal=True'
      )
    q, k, v = self._inputs(x, x if source is None else source)
    packed = {} if segment_ids is None else {'segment_ids': segment_ids}
    out = self.attention(
      q,
      k,
      v,
      projection=projection,
      causal=self.causal,
      key_mask=key_mask,
      **packed,
    )
    return self._join(out)

  def extend(
    self,
    x: Float[Array, 'b l e'],
    *,
    projection: PyTree,
    key_mask: Bool[Array, 'b l'] | None = None,
    state: PyTree = None,
  ) -> tuple[Float[Array, 'b l w'], PyTree]:
    """Continues causal self-attention: prefill, or one step of decoding.

    Calls on consecutive pieces give what one call on the whole gives.

    Args:
      x: the next piece of each sequence; one position or many.
      projection: the same W at every call.
      key_mask: False = not part of the sequence: padding of a prompt, or
        sequences that have ended. The state passes them by.
      state: result of the previous piece; None before the first.

    Returns:
      Outputs, and the state after the piece, of a size without l.

    Raises:
      ValueError: if the module is not causal or its mechanism has no state.
    """
    if not self.causal:
      raise ValueError(
        'only causal attention can be continued; set causal=True'
      )
    advance = linear_method(self.attention, 'extend')
    out, state = advance(
      *self._inputs(x, x), projection=projection, key_mask=key_mask, state=state
    )
    return self._join(out), state

  def summarize(
    self,
    source: Float[Array, 'b s f'],
    *,
    projection: PyTree,
    key_mask: Bool[Array, 'b s'] | None = None,
  ) -> PyTree:
    """Sums a source once, for any number of calls of `read`.

    Args:
      source: sequences that will be asked.
      projection: W.
      key_mask: True = keep.

    Returns:
      A state; for linear attention its size does not depend on the length of
      the source.

    Raises:
      ValueError: if the mechanism has no state.
    """
    absorb = linear_method(self.attention, 'summarize')
    k, v = self.key(source), self.value(source)
    return absorb(k, v, projection=projection, key_mask=key_mask)

  def read(
    self,
    x: Float[Array, 'b l e'],
    state: PyTree,
    *,
    projection: PyTree,
  ) -> Float[Array, 'b l w']:
    """Attends from x to the source of a state.

    Args:
      x: sequences that ask.
      state: result of `summarize`.
      projection: the W of `summarize`.

    Returns:
      What a call with the source itself gives.

    Raises:
      ValueError: if the mechanism has no state.
    """
    ask = linear_method(self.attention, 'read')
    return self._join(ask(self.query(x), state, projection=projection))

  def _join(self, out: Float[Array, 'b l h d']) -> Float[Array, 'b l w']:
    if self.output_projection:
      return self.out(out)
    return out.reshape(*out.shape[:2], -1).astype(self.dtype)

  def _inputs(self, x: Array, source: Array) -> tuple[Array, Array, Array]:
    q, k, v = self.query(x), self.key(source), self.value(source)
    for name, value in (('queries', q), ('keys', k), ('values', v)):
      self.sow('intermediates', name, value)
    return q, k, v


def linear_method(attention: AttentionFn, name: str) -> Callable[..., Any]:
  """A method that only mechanisms with a state have.

  Args:
    attention: the mechanism.
    name: of the method: 'extend', 'summarize', 'read' or 'empty_state'.

  Returns:
    The bound method.

  Raises:
    ValueError: if the mechanism does not have it.
  """
  method = getattr(attention, name, None)
  if method is None:
    raise ValueError(
      'this needs a mechanism with a state of constant size, such as Favor, '
      f'got {type(attention).__name__}, which has no `{name}`'
    )
  return method
