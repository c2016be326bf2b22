"""A user's study as the model reads it: order, range, and which trials.

Where the paper is silent, these rules hold:

- Objectives are normalised over the whole study, and only then trials are
  dropped. If all objectives of a study are equal, they lie in the middle.
- If a study is too long, the first 5 trials, the best 10 and the latest that
  fit are kept, in their order.
- If the text of the problem is too long, names and ranges are left out.
- Trials that still run stand at the end. Their objective is the token PENDING,
  the mean of the study (a constant liar), or a draw from the model. If many
  trials run, the latest ones are kept: finished trials have at least half of
  the decoder.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

from hpo import studies
from hpo.optformer import decoding, dialects, quantizing, tokens
from hpo.optformer import trained as trained_lib

__all__ = ['FILLINGS', 'Reading', 'kept_rows', 'metadata', 'reading']

FILLINGS = ('liar', 'sample', 'token')
_FIRST, _BEST = 5, 10


@dataclasses.dataclass(frozen=True, eq=False)
class Reading:
  """A study in the form that the model reads.

  Attributes:
    order: places of the free parameters, as the model sees them.
    legal: number of legal tokens of each, filled up to a bucket e with 0.
    scale: of the objectives.
    best: bin of the best objective; None without any.
    mean: bin of the mean of all objectives; the middle bin without any.
    metadata: ids of the text.
    parameters: tokens of the trials that are kept.
    objectives: ids of the objectives of the trials that are kept.
    most: trials that fit the decoder, the candidate included.
    finished: trials that are kept and do not run; they stand first.
  """

  order: tuple[int, ...]
  legal: Int[np.ndarray, ' e']
  scale: quantizing.ObjectiveRange
  best: int | None
  mean: int
  metadata: Int[np.ndarray, ' s']
  parameters: Int[np.ndarray, 't d']
  objectives: Int[np.ndarray, ' t']
  most: int
  finished: int

  def ids(self, trained: trained_lib.Trained) -> Int[np.ndarray, ' l']:
    """Ids for the decoder, up to the `|` of the last trial."""
    maker = trained.tokenizer
    rows = maker.rows(self.parameters, self.objectives)
    start = np.array(maker.ids.start, np.int32)
    return np.concatenate([start, rows.ravel()])

  def padded(
    self, parameters: Int[np.ndarray, 'n d'], count: int
  ) -> Int[np.ndarray, '1 m e']:
    """Parameters of candidates in the static shape of `decoding.propose`.

    Args:
      parameters: tokens, at most as many rows as there are candidates.
      count: m, number of candidates.
    """
    found = np.zeros((1, count, self.legal.size), np.int32)
    found[0, : len(parameters), : parameters.shape[1]] = parameters
    return found

  def with_trial(
    self, parameters: Int[np.ndarray, ' d'], objective: int
  ) -> 'Reading':
    """Adds a trial that runs; without room, the earliest such one leaves."""
    rows = np.concatenate([self.parameters, parameters[None]])
    objectives = np.append(self.objectives, np.int32(objective))
    excess = max(len(rows) - (self.most - 1), 0)
    dropped = np.arange(self.finished, self.finished + excess)
    return dataclasses.replace(
      self,
      parameters=np.delete(rows, dropped, axis=0),
      objectives=np.delete(objectives, dropped),
    )


def kept_rows(
  gains: Float[np.ndarray, ' t'], most: int
) -> Int[np.ndarray, ' k']:
  """The trials of a long study that are kept, in order.

  Args:
    gains: values to be maximised; NaN where there is none.
    most: trials that fit.

  Returns:
    Numbers of trials: all if they fit. If fewer than 15 fit, a third each are
    first, best and latest ones.
  """
  count = len(gains)
  if count <= most:
    return np.arange(count)
  few = most < _FIRST + _BEST
  first, best = (most // 3, most // 3) if few else (_FIRST, _BEST)
  ranked = np.argsort(-np.where(np.isnan(gains), -np.inf, gains), kind='stable')
  kept = dict.fromkeys([*range(first), *ranked[:best].tolist()])
  for latest in range(count - 1, -1, -1):
    if len(kept) == most:
      break
    kept[latest] = None
  return np.array(sorted(kept), np.int64)


def reading(
  trained: trained_lib.Trained,
  study: studies.Study,
  order: Sequence[int],
  *,
  scale: quantizing.ObjectiveRange | None = None,
  room: int = 1,
  max_tokens: int | None = None,
) -> Reading:
  """Prepares a study without its running trials.

  Args:
    trained: the model that will read.
    study: of any length.
    order: places of the free parameters.
    scale: of the objectives; None: from the completed trials.
    room: trials that will be added, the candidate included; finished trials
      leave them half of the decoder at most.
    max_tokens: of the decoder; None: as in training.

  Raises:
    ValueError: the decoder is too short for one trial.
  """
  maker = trained.tokenizer
  if max_tokens is not None:
    maker = dataclasses.replace(maker, decoder_length=max_tokens)
  order = tuple(order)
  most = _max_trials(maker, len(order))
  done = study.take(study.statuses != studies.PENDING)
  if scale is None:
    scale = quantizing.ObjectiveRange.of(done.gains)
  known = done.gains[done.statuses == studies.COMPLETED]
  bins = quantizing.quantize(scale.to_scaled(known), maker.ids.bins)
  kept = done.take(kept_rows(done.gains, max(most - room, most // 2)))
  parameters = tuple(study.problem.space.parameters[i] for i in order)
  legal = np.zeros(decoding.bucket(len(order)), np.int32)
  legal[: len(order)] = maker.legal(parameters)
  return Reading(
    order,
    legal,
    scale,
    int(bins.max()) if bins.size else None,
    round(float(bins.mean())) if bins.size else maker.ids.bins // 2,
    metadata(trained, study.problem, order),
    maker.parameters(kept, order),
    maker.objectives(kept, scale),
    most,
    len(kept),
  )


def _max_trials(maker: tokens.Tokenizer, num_parameters: int) -> int:
  most = maker.max_trials(num_parameters)
  if most < 1:
    raise ValueError(
      f'a trial of {num_parameters} parameters needs {num_parameters + 3} '
      f'tokens, got a decoder of {maker.decoder_length}'
    )
  return most


def metadata(
  trained: trained_lib.Trained, problem: studies.Problem, order: tuple[int, ...]
) -> Int[np.ndarray, ' s']:
  """Ids of the text of a problem, without names and ranges if it is too long.

  What is then still too long is read all the same.

  Args:
    trained: the model that will read.
    problem: what is optimised.
    order: places of the free parameters.
  """
  maker, minimal = trained.tokenizer, trained.minimal
  if not minimal:
    text = dialects.by_name(maker.dialect).metadata(problem, order)
    minimal = len(maker.vocabulary.encode(text)) > maker.encoder_length
  return maker.metadata(problem, order, minimal=minimal, longer=True)
