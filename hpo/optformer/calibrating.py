"""The temperature of a model's forecasts, fitted to studies it never saw.

Each study is cut at a random trial. The model forecasts that trial from those
before it, with the range of these, exactly as in use.

Reference: arXiv:2205.13320, Appendix D.4: temperatures of 1.1 and 1.5 there.
"""

import dataclasses
from collections.abc import Iterable

import numpy as np
from jaxtyping import Float, Int

from hpo import studies
from hpo.optformer import forecasts, predicting, quantizing
from hpo.optformer import trained as trained_lib

__all__ = ['cut_forecasts', 'fitted']

_LEAST = 3  # Trials before the one that is forecast.


def cut_forecasts(
  trained: trained_lib.Trained,
  validation: Iterable[studies.Study],
  rng: np.random.Generator,
) -> tuple[Float[np.ndarray, 'n q'], Int[np.ndarray, ' n']]:
  """Forecasts of one trial of each study, and the true objectives.

  Args:
    trained: the model; its forecasts have its temperature.
    validation: studies whose trials are completed.
    rng: of the cuts.

  Returns:
    Log probabilities of bins, and the bins; values beyond the range that the
    bins stand for count as the outermost bin.

  Raises:
    ValueError: no study has four trials.
  """
  rows, seen = [], []
  for study in validation:
    if len(study) <= _LEAST:
      continue
    cut = int(rng.integers(_LEAST, len(study)))
    trials = study.trials[: cut + 1]
    forecast = predicting.predict(
      trained, study.problem, trials[:-1], [trials[-1].parameters]
    )
    z = np.clip(forecast.scale.to_scaled(study.gains[cut : cut + 1]), 0, 1)
    rows.append(np.log(np.maximum(forecast.probabilities[0], 1e-300)))
    seen.append(int(quantizing.quantize(z, forecast.bins)[0]))
  if not rows:
    raise ValueError(f'a study needs more than {_LEAST} trials to be cut')
  return np.stack(rows), np.array(seen)


def fitted(
  trained: trained_lib.Trained,
  validation: Iterable[studies.Study],
  *,
  seed: int = 0,
) -> trained_lib.Trained:
  """A model with the temperature of the largest likelihood.

  Args:
    trained: of any temperature, which does not matter.
    validation: some hundred studies that the model was not trained on.
    seed: of the cuts.
  """
  plain = dataclasses.replace(trained, temperature=1.0)
  logits, seen = cut_forecasts(plain, validation, np.random.default_rng(seed))
  temperature = forecasts.fit_temperature(logits, seen)
  return dataclasses.replace(trained, temperature=temperature)
