"""Forecasts of the objective at given points of a study.

Reference: arXiv:2205.13320, Section 4.4 and Appendix D.4 (temperature).
"""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from scipy import special

from hpo import spaces, studies
from hpo.optformer import decoding, forecasts, histories, quantizing
from hpo.optformer import trained as trained_lib

__all__ = ['predict']


def predict(
  trained: trained_lib.Trained,
  problem: studies.Problem,
  trials: Iterable[studies.Trial],
  points: Sequence[Mapping[str, spaces.Value]],
  *,
  scale: quantizing.ObjectiveRange | None = None,
  max_tokens: int | None = None,
) -> forecasts.Forecasts:
  """Forecasts of the values of points, each given the same trials.

  Args:
    trained: the model.
    problem: what is optimised. Its algorithm is that of the trials; without a
      name, it is that of the model, as in suggestions.
    trials: so far; those that still run do not count.
    points: to forecast, at least one.
    scale: of the objectives, in the sign that is maximised; None: from the
      trials, with room on both sides.
    max_tokens: of the decoder; None: as in training.

  Returns:
    A forecast for each point, at the temperature of the model.

  Raises:
    ValueError: a trial or point is not legal, or nothing is free.
  """
  problem = dataclasses.replace(
    problem, algorithm=problem.algorithm or trained.algorithm
  )
  study = studies.Study.of(problem, trials)
  order = problem.space.free
  if not order or not points:
    raise ValueError(
      'forecasts need points and a free parameter, '
      f'got {len(points)} points and {len(order)} free parameters'
    )
  read = histories.reading(
    trained, study, order, scale=scale, max_tokens=max_tokens
  )
  history = decoding.advance(
    trained.model,
    trained.variables,
    read.metadata,
    read.ids(trained),
    read.legal,
    projections=trained.projections,
  )
  asked = studies.Study.of(
    problem, [studies.Trial(point, None, 'PENDING') for point in points]
  )
  given = trained.tokenizer.parameters(asked, order)
  count = decoding.bucket(len(points))
  found = decoding.propose(
    trained.model,
    trained.variables,
    history.prefix,
    jnp.asarray(read.legal[None]),
    jnp.asarray(read.padded(given, count)),
    jax.random.key(0)[None],
    star=trained.tokenizer.ids.star,
    count=count,
    projections=trained.projections,
    temperature=jnp.float32(1.0),
  )
  logits = np.float64(found.objective[0, : len(points)]) / trained.temperature
  probabilities = special.softmax(logits, axis=1)
  return forecasts.Forecasts(probabilities, read.scale, problem.sign)
