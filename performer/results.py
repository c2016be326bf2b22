"""The report of a trained language model: scores and attention."""

import math
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from performer import attention
from performer.attention.analysis import recovery
from performer.data import dataset
from performer.models import language_model
from runtime.record import pictures as pictures_lib

__all__ = ['attention_maps', 'draw_attention', 'score_rows']

Scores = Mapping[str, float]

# Residues in the attention picture: more cannot be told apart.
_PICTURE_LENGTH = 96
_PICTURE_PANELS = 8


def score_rows(
  data: dataset.DataSet, scores: Mapping[str, Scores], *, batch_size: int
) -> list[dict[str, Any]]:
  """The final table: a model beside the baselines, on every split.

  Args:
    data: the data set; the baselines are fitted on its training split.
    scores: split -> 'accuracy' (0..1) and 'perplexity' of the model.
    batch_size: sequences at a time for the baselines; the result does not
      depend on it.

  Returns:
    One row per predictor; accuracies in percent, bits per token where those are
    the unit of the data, and perplexities of words where tokens are their parts.
  """
  predictors: dict[str, Mapping[str, Scores]] = {'model': scores}
  for name, fitted in data.baselines().items():
    predictors[name] = {
      split: vars(
        fitted.evaluate(data.eval_batches(split, batch_size=batch_size))
      )
      for split in scores
    }
  lengths = {split: data.tokens_per_word(split) for split in scores}
  return [
    {'predictor': name}
    | {
      f'{split} {column}': value
      for split in scores
      for column, value in _columns(
        found[split], data.unit, lengths[split]
      ).items()
    }
    for name, found in predictors.items()
  ]


def _columns(
  scores: Scores, unit: str, tokens_per_word: float | None
) -> dict[str, float]:
  """The columns of a table for the scores of one split."""
  shown = {'acc. %': 100 * scores['accuracy'], 'perpl.': scores['perplexity']}
  if unit == 'bits':
    shown['bits'] = math.log2(scores['perplexity'])
  if tokens_per_word is not None:
    # Infinite where Python's own power would raise OverflowError.
    with np.errstate(over='ignore'):
      power = np.power(scores['perplexity'], tokens_per_word)
    shown['word perpl.'] = float(power)
  return shown


def attention_maps(
  model: language_model.LanguageModel,
  params: PyTree,
  projections: PyTree,
  batch: Mapping[str, np.ndarray],
  *,
  length: int,
) -> Float[Array, 'layers h l l']:
  """The attention matrices of the first sequence of a batch.

  Args:
    model: the language model.
    params: its parameters.
    projections: its random matrices, as `draw_projections` returns them.
    batch: 'tokens' and 'mask', [b, max_length].
    length: number of positions to look at.

  Returns:
    Rows are queries; row i sums to 1 over the keys that it sees. A mechanism
    that chooses by length is the one of the model's full length.

  Reference: arXiv:2009.14794, Appendix C.4.
  """
  if isinstance(model.attention, attention.Auto):
    full = model.max_length
    chosen = model.attention.choose(full, full, causal=model.causal)
    model = model.clone(attention=chosen)
    if isinstance(chosen, attention.Exact):
      projections = None
  tokens, mask = (
    jnp.asarray(batch[k][:1, :length]) for k in ('tokens', 'mask')
  )
  params, projections = jax.tree.map(jnp.asarray, (params, projections))
  _, variables = model.apply(
    {'params': params},
    tokens,
    mask=mask,
    projections=projections,
    mutable=['intermediates'],
  )
  seen = variables['intermediates']['blocks']['attention']
  return jnp.stack(
    [
      recovery.recover_attention(
        model.attention,
        seen['queries'][0][layer],
        seen['keys'][0][layer],
        projection=jax.tree.map(lambda w, i=layer: w[i], projections),
        causal=model.causal,
        key_mask=mask,
      )[0]
      for layer in range(model.num_layers)
    ]
  )


def draw_attention(
  model: language_model.LanguageModel,
  data: dataset.DataSet,
  params: PyTree,
  projections: PyTree,
  path: pathlib.Path,
) -> None:
  """Draws the attention of some heads to the first sequence of a split.

  Args:
    model: the language model, with its attention for one device.
    data: its first split is looked at.
    params: parameters of the model, on the host.
    projections: its random matrices, on the host.
    path: PNG file to write.
  """
  batch = next(iter(data.eval_batches(data.splits[0], batch_size=1)))
  length = min(int(batch['mask'][0].sum()), _PICTURE_LENGTH)
  maps = np.asarray(
    attention_maps(model, params, projections, batch, length=length)
  )
  panels = [
    (layer, head)
    for layer in range(maps.shape[0])
    for head in range(maps.shape[1])
  ][:_PICTURE_PANELS]
  pictures_lib.heatmaps(
    [maps[panel] for panel in panels],
    [f'layer {layer}, head {head}' for layer, head in panels],
    path,
  )
