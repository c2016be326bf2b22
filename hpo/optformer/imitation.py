"""How well a model imitates: its loss beside the smallest possible one.

The references are in nats per parameter token, as the metric `param_loss` is.
`losses` has the policy's own, trial by trial, to be set beside `floors.floor`.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float, Int, PyTree

from hpo import studies
from hpo.optformer import (
  legality,
  models,
  places,
  quantizing,
  relative,
  tokens,
)
from hpo.optformer import trained as trained_lib
from hpo.optformer.behaviours import floors

__all__ = ['References', 'losses', 'references']


class References(NamedTuple):
  """Losses with which the loss of a model is compared.

  Attributes:
    floor: loss of the algorithm itself, which no model can beat on average;
      None if it has no closed form.
    uniform: loss of a model that knows nothing but the legal tokens.
  """

  floor: float | None
  uniform: float

  def closed(self, loss: float) -> float | None:
    """The share of the gap between the two that a loss has closed."""
    if self.floor is None:
      return None
    return (self.uniform - loss) / (self.uniform - self.floor)


def references(
  found: Sequence[studies.Study], bins: int = quantizing.NUM_BINS
) -> References:
  """The references of studies, such as those of a split.

  Args:
    found: of algorithms with published settings, all trials completed.
    bins: Q.
  """
  uniform, tokens, lowest = 0.0, 0, 0.0
  is_known = True
  for study in found:
    counts = quantizing.legal_counts(study.problem.space.parameters, bins)
    uniform += len(study) * np.log(counts).sum()
    tokens += study.codes.size
    floor = floors.floor(study, bins)
    is_known &= floor is not None
    lowest += 0.0 if floor is None else floor.sum()
  return References(lowest / tokens if is_known else None, uniform / tokens)


def losses(
  trained: trained_lib.Trained,
  found: Sequence[studies.Study],
  *,
  batch_size: int = 16,
) -> list[Float[np.ndarray, ' t']]:
  """What each trial's parameters cost the policy, in nats.

  The policy is the one that suggests: legal tokens alone have a chance. Objectives
  are scaled by the whole study, as in training.

  Args:
    trained: the model.
    found: studies whose `problem.algorithm` is the one that is imitated.
    batch_size: studies at once.

  Returns:
    By study, the negative log-likelihood of each trial that fits the decoder,
    given those before it.
  """
  plain = tokens.NO_AUGMENTATION
  plain = dataclasses.replace(plain, minimal=float(trained.minimal))
  rng = np.random.default_rng(0)
  costs = []
  for start in range(0, len(found), batch_size):
    some = found[start : start + batch_size]
    # The last batch is filled up, so that one program serves all.
    rows = [*some, *[some[-1]] * (batch_size - len(some))]
    examples = [trained.tokenizer.example(study, rng, plain) for study in rows]
    batch = {
      name: np.stack([x[name] for x in examples]) for name in examples[0]
    }
    by_token = _token_losses(
      trained.model, trained.variables, trained.projections, batch
    )
    by_token = np.float64(by_token)[: len(some)]
    costs += map(_by_trial, by_token, batch['slots'])
  return costs


@functools.partial(jax.jit, static_argnums=0)
def _token_losses(
  model: models.OptFormer,
  variables: PyTree,
  projections: PyTree,
  batch: dict[str, Array],
) -> Float[Array, 'b l']:
  logits = model.apply(
    variables,
    batch['metadata'],
    batch['tokens'],
    legal=places.legal_codes(batch, model.first_trial),
    projections=projections,
  )
  end = model.first_bin + model.bins
  legal = legality.is_legal(batch['legal'], model.bins)
  logits = jnp.where(legal, logits[..., model.first_bin : end], relative.HIDDEN)
  # Other targets than parameters are looked up anywhere, and left out.
  rows = jnp.clip(batch['targets'] - model.first_bin, 0, model.bins - 1)
  found = jnp.take_along_axis(nn.log_softmax(logits), rows[..., None], -1)
  return jnp.where(batch['slots'] == tokens.PARAMETER, -found[..., 0], 0)


def _by_trial(
  costs: Float[np.ndarray, ' l'], slots: Int[np.ndarray, ' l']
) -> Float[np.ndarray, ' t']:
  """Sums over the parameters of each trial; a `*` ends them."""
  trial = np.cumsum(slots == tokens.STAR)
  is_parameter = slots == tokens.PARAMETER
  return np.bincount(trial[is_parameter], costs[is_parameter])
