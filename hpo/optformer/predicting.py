"""Forecasts of the objective at given points of a study.

Reference: arXiv:2205.13320, Section 4.4 and Appendix D.4 (temperature).
"""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from hpo import spaces, studies
from hpo.optformer import forecasts, histories, quantizing
from hpo.optformer import trained as trained_lib
from hpo.optformer import views as views_lib
from rl import ranges

__all__ = ['predict']


def predict(
  trained: trained_lib.Trained,
  problem: studies.Problem,
  trials: Iterable[studies.Trial],
  points: Sequence[Mapping[str, spaces.Value]],
  *,
  scale: quantizing.ObjectiveRange | None = None,
  max_tokens: int | None = None,
  views: int = 1,
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
    views: of the study, whose forecasts are averaged; see `views`.

  Returns:
    A forecast for each point, at the temperature of the model.

  Raises:
    ValueError: a trial or point is not legal, nothing is free, or there is no
      view.
  """
  ranges.check_counts(views=views)
  problem = dataclasses.replace(
    problem, algorithm=problem.algorithm or trained.algorithm
  )
  study = trained.told(studies.Study.of(problem, trials))
  order = problem.space.free
  if not order or not points:
    raise ValueError(
      'forecasts need points and a free parameter, '
      f'got {len(points)} points and {len(order)} free parameters'
    )
  read = histories.reading(
    trained, study, order, scale=scale, max_tokens=max_tokens
  )
  seen = views_lib.drawn(
    trained, study.problem, read, views, np.random.default_rng(0)
  )
  asked = trained.told(
    studies.Study.of(
      problem, [studies.Trial(point, None, 'PENDING') for point in points]
    )
  )
  given = trained.tokenizer.parameters(asked, order)
  found = views_lib.log_probabilities(trained, read, seen, given)
  return forecasts.Forecasts(np.exp(found), read.scale, problem.sign)
