"""Warns, once, when queries and keys have grown too large for their features.

Random features estimate entries of the attention matrix with a relative error
that grows like exp(|x + y|^2) / m. Training goes on when it passes 100 %, but
attention is then no longer what the user asked for, and nothing else says so.
"""

import functools
from collections.abc import Mapping

import jax
import numpy as np
from absl import logging
from jaxtyping import Array, Float, PyTree

from performer import attention
from performer import learner as learner_lib
from performer.attention.analysis import pair_errors
from performer.data import dataset
from performer.models import language_model
from runtime import loop as loop_lib
from runtime.devices import mesh as mesh_lib

__all__ = ['estimator', 'predicted_errors', 'watch']

# Queries and keys per sequence that are looked at.
_SAMPLE = 32


def estimator(model: language_model.LanguageModel) -> attention.Favor | None:
  """The mechanism whose errors can be predicted, if the model uses one.

  Args:
    model: the language model, with its attention for one device.

  Returns:
    The `Favor` that attends at the model's full length, if it estimates the
    softmax kernel; None for exact attention and for other kernels.
  """
  mechanism = model.attention
  if isinstance(mechanism, attention.Auto):
    length = model.max_length
    if length is None:
      return mechanism.favor
    mechanism = mechanism.choose(length, length, causal=model.causal)
  if not isinstance(mechanism, attention.Favor):
    return None
  return mechanism if mechanism.kernel in pair_errors.SUPPORTED else None


def predicted_errors(
  model: language_model.LanguageModel,
  favor: attention.Favor,
  params: PyTree,
  projections: PyTree,
  batch: Mapping[str, Array],
) -> Float[Array, ' layers']:
  """The relative error to expect of a typical entry, by layer.

  Args:
    model: the language model, as it runs.
    favor: its mechanism; see `estimator`.
    params: its parameters.
    projections: its random matrices.
    batch: 'tokens' and 'mask', [b, l].

  Returns:
    Float32; 1 is 100 %. Padding is left out.
  """
  mask = batch['mask']
  _, variables = model.apply(
    {'params': params},
    batch['tokens'],
    mask=mask,
    projections=projections,
    mutable=['intermediates'],
  )
  seen = variables['intermediates']['blocks']['attention']

  def of_layer(qk: tuple[Array, Array]) -> Array:
    sample = pair_errors.take_sample(
      *qk,
      causal=model.causal,
      key_mask=mask,
      query_mask=mask,
      size=_SAMPLE,
    )
    return pair_errors.predicted_error(favor, sample)

  return jax.lax.map(of_layer, (seen['queries'][0], seen['keys'][0]))


def watch(
  evaluator: loop_lib.Evaluator,
  learner: learner_lib.Learner,
  data: dataset.DataSet,
  split: str,
  *,
  mesh: jax.sharding.Mesh,
  batch_size: int,
) -> loop_lib.Evaluator:
  """Adds the warning to an evaluator; scores and steps stay as they are.

  At each evaluation, until it has warned, one batch is looked at.

  Args:
    evaluator: of the split.
    learner: learner whose model is evaluated.
    data: has the split.
    split: its name.
    mesh: the devices.
    batch_size: sequences at a time, over all devices.

  Returns:
    The evaluator; the one given where there is nothing to predict.
  """
  favor = estimator(learner.model)
  if favor is None:
    return evaluator
  index, count = mesh_lib.process_slice(mesh, batch_size)
  predict = jax.jit(
    functools.partial(predicted_errors, learner.spread_model, favor),
    out_shardings=mesh_lib.replicated(mesh),
  )
  warned = False

  def run(state: learner_lib.TrainState) -> dict[str, float]:
    nonlocal warned
    if not warned:
      batch = next(
        iter(
          data.eval_batches(
            split,
            batch_size=batch_size,
            process_index=index,
            process_count=count,
          )
        )
      )
      placed = mesh_lib.place_batch(mesh, batch)
      errors = np.asarray(predict(state.eval_params, state.projections, placed))
      warned = _warn(favor, errors)
    return dict(evaluator(state))

  return run


def _warn(favor: attention.Favor, errors: np.ndarray) -> bool:
  """Logs one line if an error is above 100 %; tells whether it did."""
  worst = int(np.nanargmax(errors)) if np.isfinite(errors).any() else 0
  if not errors[worst] > 1:
    return False
  if jax.process_index() == 0:
    logging.warning(
      'to keep random features accurate, see "How large are your norms?" in '
      "performer/README.md, or set KERNEL = 'relu', which does not estimate "
      'softmax: queries and keys are now so large that a typical entry of the '
      'attention of layer %d has a predicted relative error of %.0f %% '
      '(kernel %s, r = %d)',
      worst,
      100 * min(errors[worst], 1e6),
      favor.kernel,
      favor.features,
    )
  return True
