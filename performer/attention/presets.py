"""`Favor` by a name, or as a plain function of the projection given.

References: arXiv:2009.14794, sections 4.2 to 4.4 and D, and its released code;
arXiv:2006.03555.
"""

import types
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from performer.attention import checks
from performer.attention import favor as favor_lib
from performer.attention.kernels import table

__all__ = ['PRESETS', 'favor_attention', 'preset']

# Those of the papers, and those we recommend.
PRESETS: Mapping[str, Mapping[str, Any]] = types.MappingProxyType(
  {
    # Unbiased, least variance of the simple positive features at r = 256.
    'default': {},
    # The published softmax Performer: 256 positive orthogonal features.
    'paper': {'kernel': 'softmax_pos'},
    # Its predecessor, FAVOR.
    'favor': {'kernel': 'softmax_trig'},
    # Smaller variance for a small bias, which a model in training learns.
    'train_fast': {'kernel': 'softmax_pos_reg'},
    # The published generalised Performer: no projection, so r = d.
    'relu_det': {'kernel': 'relu', 'projection': False, 'features': None},
    # The same with 256 orthogonal rows.
    'relu_proj': {'kernel': 'relu'},
  }
)


def preset(name: str, **changes: Any) -> favor_lib.Favor:
  """Makes the attention of a preset.

  Args:
    name: a key of `PRESETS`.
    **changes: options of `options.Options` that replace those of the preset.

  Returns:
    The attention.

  Raises:
    ValueError: if there is no such preset, or as `Favor`.
  """
  checks.check_choice('preset', name, PRESETS)
  return favor_lib.Favor(**(dict(PRESETS[name]) | changes))


def favor_attention(
  q: Float[Array, 'b lq h d'],
  k: Float[Array, 'b lk h d'],
  v: Float[Array, 'b lk h v'],
  projection: Float[Array, '... m d'],
  *,
  kernel: str = 'softmax_hyp',
  causal: bool,
  key_mask: Bool[Array, 'b lk'] | None = None,
  chunk: int = 64,
) -> Float[Array, 'b lq h v']:
  """Attends with a given projection: `Favor` as a plain function.

  Args:
    q: queries, unscaled.
    k: keys.
    v: values.
    projection: W, [m, d] or [h, m, d]; its gradient is 0.
    kernel: a name in `attention.KERNELS`.
    causal: whether row i sees keys 0..i only (i included).
    key_mask: True = keep.
    chunk: positions per chunk.

  Returns:
    Outputs in the dtype of v.

  Raises:
    ValueError: as `Favor` and its call.
  """
  if projection is None or jnp.ndim(projection) not in (2, 3):
    raise ValueError(
      'projection must be [m, d] or [h, m, d], '
      f'got {None if projection is None else jnp.shape(projection)}'
    )
  features = projection.shape[-2] * table.get(kernel).copies
  favor = favor_lib.Favor(kernel=kernel, features=features, chunk=chunk)
  return favor(q, k, v, projection=projection, causal=causal, key_mask=key_mask)
