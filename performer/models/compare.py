"""Measures how outputs change when a Transformer's attention is exchanged.

The error of one layer's attention is measured on the same queries, keys and
values; the error of the residual stream, which later layers amplify, by running
the whole model with either mechanism.

Reference: arXiv:2009.14794, section D.1 (errors that grow with the layers).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree

from performer.attention import exact
from performer.models import language_model

__all__ = ['LayerErrors', 'layer_errors']


class LayerErrors(NamedTuple):
  """Relative errors in the Euclidean norm over unmasked positions.

  Attributes:
    attention: [layers], of attention outputs from the same activations.
    hidden: [layers], of the residual stream after each block.
    logits: of the logits.
  """

  attention: Float[Array, ' layers']
  hidden: Float[Array, ' layers']
  logits: Float[Array, '']

  def __str__(self) -> str:
    rows = ['layer  attention  hidden']
    rows += [
      f'{i:5d}  {float(a):9.2%}  {float(h):6.2%}'
      for i, (a, h) in enumerate(zip(self.attention, self.hidden, strict=True))
    ]
    return '\n'.join([*rows, f'logits: {float(self.logits):.2%}'])


def layer_errors(
  model: language_model.LanguageModel,
  params: PyTree,
  tokens: Int[Array, 'b l'],
  *,
  mask: Bool[Array, 'b l'],
  projections: PyTree,
) -> LayerErrors:
  """Compares a model with itself under exact attention.

  Args:
    model: with the mechanism to judge.
    params: its parameters.
    tokens: ids.
    mask: True where a token is real.
    projections: random matrices, `model.draw_projections`.

  Returns:
    Relative errors.
  """
  reference = model.clone(attention=exact.Exact())
  logits, seen = _run(reference, params, tokens, mask, None)
  other_logits, other = _run(model, params, tokens, mask, projections)
  layers = []
  for i in range(model.num_layers):
    q, k, v = (seen[name][i] for name in ('queries', 'keys', 'values'))
    w = _layer(projections, i)
    options = {'causal': model.causal, 'key_mask': mask}
    truth = reference.attention(q, k, v, projection=None, **options)
    found = model.attention(q, k, v, projection=w, **options)
    layers.append(_relative(found, truth, mask))
  hidden = [
    _relative(found, truth, mask)
    for found, truth in zip(other['hidden'], seen['hidden'], strict=True)
  ]
  return LayerErrors(
    jnp.stack(layers),
    jnp.stack(hidden),
    _relative(other_logits, logits, mask),
  )


def _layer(projections: PyTree, index: int) -> PyTree:
  return jax.tree.map(lambda w: w[index], projections)


def _run(
  model: language_model.LanguageModel,
  params: PyTree,
  tokens: Array,
  mask: Array,
  projections: PyTree,
) -> tuple[Array, dict[str, Array]]:
  """Logits, and the values that blocks sow, stacked over layers."""
  logits, variables = model.apply(
    {'params': params},
    tokens,
    mask=mask,
    projections=projections,
    mutable=['intermediates'],
  )
  blocks = variables['intermediates']['blocks']
  seen = {name: values[0] for name, values in blocks['attention'].items()}
  return logits, seen | {'hidden': blocks['hidden'][0]}


def _relative(
  found: Float[Array, 'b l *rest'],
  truth: Float[Array, 'b l *rest'],
  mask: Bool[Array, 'b l'],
) -> Float[Array, '']:
  keep = mask.reshape(*mask.shape, *[1] * (truth.ndim - 2))
  found, truth = (
    jnp.where(keep, x.astype(jnp.float32), 0.0) for x in (found, truth)
  )
  return jnp.linalg.norm((found - truth).ravel()) / jnp.linalg.norm(
    truth.ravel()
  )
