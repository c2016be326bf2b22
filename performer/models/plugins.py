"""Fast attention inside Flax's own attention modules.

`flax.linen.MultiHeadDotProductAttention` and `flax.nnx.MultiHeadAttention` take
the function that attends as an argument. `AttentionFn` is such a function. It
carries the random matrix W as data, so that W can change without compiling
again, and redrawing stays in the hands of the caller:

  favor = attention.Favor(features=256, redraw_every=1000)
  w = favor.draw(key, layer=i, step=step, num_heads=8, head_dim=64)

W is a function of (key, layer, step // redraw_every): call `draw` when
`step % redraw_every == 0` (drawing costs QR factorisations), and keep the last
W for evaluation and decoding. With Linen, W is an argument of the function that
builds the module:

  def apply(params, w, x):
    attend = plugins.AttentionFn(favor, w, causal=True)
    layer = nn.MultiHeadDotProductAttention(8, attention_fn=attend)
    return layer.apply(params, x)

With NNX the adapter is part of the module's state, and is replaced in place:

  layer.attention_fn = nnx.data(plugins.AttentionFn(favor, w, causal=True))

What a linear form cannot do is refused: biases, dropout of attention weights,
sown weights, and masks that differ between queries. Whether such a mask happens
to be causal cannot be known while JAX traces, so the caller says it: `causal`
here, packed sequences as `segment_ids`, and padding as a mask with one row,
[batch, 1, 1, keys].
"""

import contextlib
from collections.abc import Callable
from typing import Any

import flax
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree

__all__ = ['AttentionFn']


@flax.struct.dataclass
class AttentionFn:
  """An `attention_fn` for Flax around `performer.attention.Favor` or `Exact`.

  A pytree: W, key mask and segments are leaves, the rest is static.

  Attributes:
    attention: the mechanism, with the signature of `Favor`.
    projection: its W; None for mechanisms without one.
    key_mask: [b, lk], True = keep; combined with the mask that Flax passes.
    segment_ids: [b, l]: positions attend within runs of equal ids, as many
      queries as keys; Flax's own mask for packed sequences is refused.
    causal: whether query i sees keys 0..i only.
  """

  attention: Callable[..., Array] = flax.struct.field(pytree_node=False)
  projection: PyTree = None
  key_mask: Bool[Array, 'b lk'] | None = None
  segment_ids: Int[Array, 'b lk'] | None = None
  causal: bool = flax.struct.field(pytree_node=False, kw_only=True)

  def __call__(
    self,
    query: Float[Array, '*batch lq h d'],
    key: Float[Array, '*batch lk g d'],
    value: Float[Array, '*batch lk g v'],
    bias: Array | None = None,
    mask: Array | None = None,
    *,
    broadcast_dropout: bool = True,
    dropout_rng: Any = None,
    dropout_rate: float = 0.0,
    deterministic: bool = True,
    dtype: Any = None,
    precision: Any = None,
    module: Any = None,
    qk_attn_weights_einsum: Any = None,
    attn_weights_value_einsum: Any = None,
    is_causal: bool = False,
  ) -> Float[Array, '*batch lq h v']:
    """Attends; called by Flax.

    One query against several keys, as in decoding with Flax's cache, stands
    after all keys that its mask keeps. It costs O(lk): the cache holds keys.
    `performer.models.attention` decodes at a cost that does not depend on lk.

    Args:
      query: unscaled; any number of batch axes.
      key: as many heads as queries, or a divisor (grouped queries).
      value: as keys.
      bias: must be None.
      mask: None, or [*batch, 1, 1, lk] up to broadcasting: nonzero = keep.
      broadcast_dropout: says how weights would be dropped; none are.
      dropout_rng: a key for dropout; not needed, as nothing is dropped.
      dropout_rate: must be 0 unless deterministic.
      deterministic: whether dropout is off.
      dtype: of the inputs, and so of the result; None: their common type.
      precision: of matrix products, as in JAX; exponents of features are
        always computed with the highest.
      module: must be None: there are no attention weights to sow.
      qk_attn_weights_einsum: must be None: no weights are computed.
      attn_weights_value_einsum: must be None.
      is_causal: NNX's flag of a call; the same as `causal` of the adapter.

    Returns:
      Outputs.

    Raises:
      ValueError: if something is asked for that linear attention cannot do, or
        shapes disagree.
    """
    del broadcast_dropout, dropout_rng
    _refuse(
      bias=bias,
      module=module,
      qk_attn_weights_einsum=qk_attn_weights_einsum,
      attn_weights_value_einsum=attn_weights_value_einsum,
    )
    if dropout_rate > 0 and not deterministic:
      raise ValueError(
        'attention weights are implicit and cannot be dropped; set '
        f'dropout_rate=0 and drop the output, got {dropout_rate=}'
      )
    dtype = dtype or jnp.result_type(query, key, value)
    batch, lk = key.shape[:-3], key.shape[-3]
    q, k, v = (
      x.reshape(-1, *x.shape[-3:]).astype(dtype) for x in (query, key, value)
    )
    k, v = _repeat_heads(k, q.shape[2]), _repeat_heads(v, q.shape[2])
    keep = self._keys_to_see(mask, batch, lq=query.shape[-3], lk=lk)
    causal = self.causal or is_causal
    if causal and q.shape[1] == 1 and lk > 1:
      if keep is None:
        raise ValueError(
          'one causal query against several keys needs a mask that says which '
          f'came before, got {query.shape=} {key.shape=}'
        )
      causal = False
    rows = {'key_mask': keep}
    if self.segment_ids is not None:
      rows['segment_ids'] = self.segment_ids
    with _products(precision):
      out = self.attention(
        q, k, v, projection=self.projection, causal=causal, **rows
      )
    return out.reshape(*batch, *out.shape[1:])

  def _keys_to_see(
    self, mask: Array | None, batch: tuple[int, ...], *, lq: int, lk: int
  ) -> Bool[Array, 'b lk'] | None:
    keep = self.key_mask
    if mask is None:
      return keep
    shape = (1,) * (len(batch) + 3 - mask.ndim) + mask.shape
    if shape[-3] != 1 or shape[-2] != 1:
      raise ValueError(
        'linear attention cannot apply a mask that differs between queries or '
        'heads: say causal=True to the adapter, give packed sequences to it as '
        'segment_ids, and padding as a mask of shape [batch, 1, 1, keys]; got '
        f'{mask.shape=} for {lq=} {lk=}'
      )
    mask = mask.reshape(*shape[:-3], shape[-1]).astype(bool)
    mask = jnp.broadcast_to(mask, (*batch, lk)).reshape(-1, lk)
    return mask if keep is None else keep & mask


def _refuse(**given: Any) -> None:
  for name, value in given.items():
    if value is not None:
      raise ValueError(
        f'{name} acts on attention weights, which linear attention does not '
        'have (performer.attention.recover_attention computes them for '
        f'analysis); got {name}={type(value).__name__}'
      )


def _repeat_heads(
  x: Float[Array, 'b l g d'], heads: int
) -> Float[Array, 'b l h d']:
  if heads % x.shape[2]:
    raise ValueError(
      'heads of keys must divide those of queries, '
      f'got {x.shape[2]} and {heads}'
    )
  return jnp.repeat(x, heads // x.shape[2], axis=2)


def _products(precision: Any) -> contextlib.AbstractContextManager:
  """Sets the precision of matrix products that do not choose their own."""
  if precision is None:
    return contextlib.nullcontext()
  if isinstance(precision, jax.lax.Precision):
    precision = precision.name.lower()
  if not isinstance(precision, str):
    raise ValueError(
      'precision must be one for both operands, a name or a '
      f'jax.lax.Precision, got {precision!r}'
    )
  return jax.default_matmul_precision(precision)
