"""Models by size."""

from typing import Any

import jax.numpy as jnp

from hpo.optformer import models, relative
from hpo.optformer import vocabulary as vocabulary_lib
from performer.models import attention as attention_lib

__all__ = ['SIZES', 'make']

# (width, layers of each stack, heads, width of a head, d_ff)
SIZES = {
  'tiny': (16, 1, 2, 8, 32),
  'cpu': (128, 3, 4, 32, 512),
  'small': (512, 6, 8, 64, 1024),
  'base': (768, 12, 12, 64, 2048),
}


def make(
  vocabulary: vocabulary_lib.Vocabulary,
  size: str = 'cpu',
  *,
  attention: attention_lib.AttentionFn = relative.Softmax(),
  tied: bool = False,
  fourier: bool = False,
  places: bool = False,
  copies: bool = False,
  dropout: float = 0.0,
  dtype: Any = jnp.float32,
  remat: bool = False,
) -> models.OptFormer:
  """A model for a vocabulary.

  Args:
    vocabulary: gives the tables.
    size: in `SIZES`; 'base' is that of the paper.
    attention: these and the others are attributes of `models.OptFormer`.
    tied: output layer and table of trials are one.
    fourier: rows of bins start as Fourier features.
    places: tokens are told where they stand in their trial.
    copies: earlier trials add to the likelihood of their values.
    dropout: rate.
    dtype: of activations.
    remat: recompute layers in the backward pass.

  Raises:
    ValueError: there is no such size.
  """
  if size not in SIZES:
    raise ValueError(f'size must be one of {sorted(SIZES)}, got {size!r}')
  width, num_layers, num_heads, head_dim, d_ff = SIZES[size]
  ids = vocabulary.trial_ids
  return models.OptFormer(
    text_size=vocabulary.text_size,
    trial_size=ids.size,
    width=width,
    num_layers=num_layers,
    num_heads=num_heads,
    head_dim=head_dim,
    d_ff=d_ff,
    first_bin=ids.first_bin,
    bins=ids.bins,
    shared=vocabulary.is_shared,
    tied=tied,
    fourier=fourier,
    places=places,
    copies=copies,
    first_trial=len(ids.start),
    dropout=dropout,
    dtype=dtype,
    attention=attention,
    remat=remat,
  )
