"""A study to arrays of one static shape, for training and for decoding.

The decoder reads `start`, then the trials, each as D parameter tokens, `*`, an
objective token and `|`. With n0 start tokens, trial t has its parameters at
n0 + t (D + 3) + [0, D), then `*`, the objective and `|`; the last trial has no
`|`. An example is a dict of arrays, with l decoder and s encoder tokens:

| key | dtype, shape | content |
|---|---|---|
| `metadata` | int32 [s] | text of the problem; id 0 fills up |
| `tokens` | int32 [l] | what the decoder reads |
| `targets` | int32 [l] | the next token |
| `weights` | float32 [l] | 1 on parameters and known objectives, else 0 |
| `slots` | int32 [l] | kind of the target: NONE, PARAMETER, STAR, OBJECTIVE, BAR |
| `legal` | int32 [l] | code of the legal bins of a parameter or objective, else 0 |

Reference: arXiv:2205.13320, Equations 2 and 15, Appendices A.2 and D.3.
"""

import dataclasses
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from hpo import spaces, studies
from hpo.optformer import dialects, legality, quantizing
from hpo.optformer import vocabulary as vocabulary_lib
from rl import ranges
from runtime.data import indexed

__all__ = [
  'BAR',
  'NONE',
  'NO_AUGMENTATION',
  'OBJECTIVE',
  'PARAMETER',
  'STAR',
  'Augmentation',
  'Tokenizer',
  'is_usable',
]

NONE, PARAMETER, STAR, OBJECTIVE, BAR = range(5)


@dataclasses.dataclass(frozen=True)
class Augmentation:
  """Random changes of a training study that leave its meaning as it is.

  Attributes:
    permute: shuffle the parameters, alike in metadata and trials.
    sizes: bounds of the size s of the objective's range in [0, 1]; it starts
      uniformly in [0, 1 - s] (Equation 15). None: [0.2, 0.8], as in inference.
    minimal: probability of metadata without names and ranges; published: 1 for
      generated studies, 0.1 for others.
    prefixes: probability of training on a random number of first trials, so
      that the range of the objective is that of a young study; published: 0.
    pending: probability that a trial's objective is hidden, as that of a trial
      that still runs; published: 0.
  """

  permute: bool = True
  sizes: tuple[float, float] | None = (0.3, 1.0)
  minimal: float = 1.0
  prefixes: float = 0.0
  pending: float = 0.0

  def __post_init__(self) -> None:
    for name in ('minimal', 'prefixes', 'pending'):
      if not 0 <= getattr(self, name) <= 1:
        raise ValueError(
          f'{name} must be in [0, 1], got {name}={getattr(self, name)}'
        )
    if self.sizes is not None and not 0 < self.sizes[0] <= self.sizes[1] <= 1:
      raise ValueError(f'sizes must ascend in (0, 1], got {self.sizes}')


NO_AUGMENTATION = Augmentation(permute=False, sizes=None)


@dataclasses.dataclass(frozen=True)
class Tokenizer:
  """Studies to arrays.

  Attributes:
    vocabulary: ids of text and of trials.
    dialect: of the text; its name is in `dialects.DIALECTS`.
    encoder_length: s; longer metadata is refused.
    decoder_length: l; of longer studies the first trials are kept.
    infeasible_token: whether infeasible trials have a token of their own, for
      data that has such trials; otherwise they count as the worst completed one.
    exact: whether whole numbers have only the bins on which they fall; see
      `legality.codes`; published: False.

  Raises:
    ValueError: a length is not positive, or there is no such dialect.
  """

  vocabulary: vocabulary_lib.Vocabulary
  dialect: str = 'neurips22'
  encoder_length: int = 256
  decoder_length: int = 1024
  infeasible_token: bool = True
  exact: bool = False

  def __post_init__(self) -> None:
    dialects.by_name(self.dialect)
    ranges.check_counts(
      encoder_length=self.encoder_length, decoder_length=self.decoder_length
    )

  @property
  def ids(self) -> vocabulary_lib.TrialIds:
    """Ids of trials."""
    return self.vocabulary.trial_ids

  def max_trials(self, num_parameters: int) -> int:
    """Trials that fit the decoder."""
    used = self.decoder_length - len(self.ids.start) + 1
    return used // (num_parameters + 3)

  def metadata(
    self,
    problem: studies.Problem,
    order: Sequence[int],
    *,
    minimal: bool = False,
    longer: bool = False,
  ) -> Int[np.ndarray, ' s']:
    """Ids of the text of a problem; see `dialects.Dialect.metadata`.

    Args:
      problem: what is told.
      order: places of the parameters.
      minimal: whether names and ranges are left out.
      longer: whether a text that is too long takes a multiple of the length.

    Raises:
      ValueError: the text is too long.
    """
    dialect = dialects.by_name(self.dialect)
    text = dialect.metadata(problem, order, minimal=minimal)
    ids = self.vocabulary.encode(text)
    length = self.encoder_length
    if longer:
      length *= -(-len(ids) // length)
    if len(ids) > length:
      raise ValueError(
        f'the metadata must fit {length} encoder tokens, got {len(ids)}: {text}'
      )
    return _filled(np.array(ids, np.int32), length, 0)

  def legal(
    self, parameters: tuple[spaces.Parameter, ...]
  ) -> Int[np.ndarray, ' d']:
    """Codes of the legal tokens of parameters; see `legality`."""
    return legality.codes(parameters, self.ids.bins, exact=self.exact)

  def parameters(
    self, study: studies.Study, order: Sequence[int]
  ) -> Int[np.ndarray, 't d']:
    """Tokens, not ids, of the parameters of all trials."""
    kept = tuple(study.problem.space.parameters[i] for i in order)
    codes = study.codes[:, list(order)]
    return quantizing.parameter_tokens(kept, codes, self.ids.bins)

  def objectives(
    self, study: studies.Study, scale: quantizing.ObjectiveRange
  ) -> Int[np.ndarray, ' t']:
    """Ids of the objectives of all trials.

    Raises:
      ValueError: a value lies beyond the range that [0, 1] stands for.
    """
    completed = study.statuses == studies.COMPLETED
    known = study.gains[completed]
    worst = known.min() if known.size else scale.low
    gains = np.where(completed, study.gains, worst)
    z = np.where(completed, scale.to_scaled(gains), 0.0)
    if not self.infeasible_token:
      infeasible = study.statuses == studies.INFEASIBLE
      z = np.where(infeasible, np.clip(scale.to_scaled(gains), 0, 1), z)
      completed = completed | infeasible
    found = self.ids.first_bin + quantizing.quantize(z, self.ids.bins)
    pending = study.statuses == studies.PENDING
    other = np.where(pending, self.ids.pending, self.ids.infeasible)
    return np.where(completed, found, other).astype(np.int32)

  def rows(
    self,
    parameters: Int[np.ndarray, 't d'],
    objectives: Int[np.ndarray, ' t'],
  ) -> Int[np.ndarray, 't n']:
    """Ids of trials, n = d + 3 each: parameters, `*`, objective, `|`."""
    count, width = parameters.shape
    rows = np.empty((count, width + 3), np.int32)
    rows[:, :width] = parameters + self.ids.first_bin
    rows[:, width] = self.ids.star
    rows[:, width + 1] = objectives
    rows[:, width + 2] = self.ids.bar
    return rows

  def example(
    self,
    study: studies.Study,
    rng: np.random.Generator,
    augmentation: Augmentation = NO_AUGMENTATION,
  ) -> indexed.Arrays:
    """The arrays described above.

    Args:
      study: with at least one free parameter.
      rng: of the augmentation.
      augmentation: what to change.

    Raises:
      ValueError: metadata or one trial does not fit, or values are not legal.
    """
    space = study.problem.space
    order = space.free
    if not order:
      raise ValueError(f'all parameters of {space.names} are fixed')
    if augmentation.permute:
      order = tuple(rng.permutation(order).tolist())
    study = self._kept(study, len(order), rng, augmentation)
    minimal = bool(rng.uniform() < augmentation.minimal)
    share = _share(rng, augmentation.sizes)
    study = _hidden(study, rng.uniform(size=len(study)) < augmentation.pending)
    # Of what is visible: a hidden extreme must not show in the others' bins.
    scale = quantizing.ObjectiveRange.of(study.gains, **share)
    objectives = self.objectives(study, scale)
    kept = tuple(space.parameters[i] for i in order)
    legal = self.legal(kept)
    rows = self.rows(self.parameters(study, order), objectives)
    metadata = self.metadata(study.problem, order, minimal=minimal)
    return {'metadata': metadata, **self._decoder(rows, objectives, legal)}

  def _kept(
    self,
    study: studies.Study,
    num_parameters: int,
    rng: np.random.Generator,
    augmentation: Augmentation,
  ) -> studies.Study:
    most = min(self.max_trials(num_parameters), len(study))
    if most < 1:
      raise ValueError(
        'a study needs a trial, and a decoder that holds one, got '
        f'{len(study)} trials, {num_parameters=} {self.decoder_length=}'
      )
    if rng.uniform() < augmentation.prefixes:
      most = int(rng.integers(1, most + 1))
    return study.take(slice(most))

  def _decoder(
    self,
    rows: Int[np.ndarray, 't n'],
    objectives: Int[np.ndarray, ' t'],
    legal: Int[np.ndarray, ' d'],
  ) -> indexed.Arrays:
    count, width = rows.shape
    start, length = self.ids.start, self.decoder_length
    sequence = np.concatenate([np.array(start, np.int32), rows.ravel()[:-1]])
    # What the target of each input position is: those of the start before it.
    lead = len(start) - 1
    slots = np.tile([PARAMETER] * (width - 3) + [STAR, OBJECTIVE, BAR], count)
    counts = np.tile([*legal, 0, self.ids.bins, 0], count)
    weights = (slots == PARAMETER) | (slots == OBJECTIVE)
    weights.reshape(count, width)[:, -2] = objectives != self.ids.pending
    found = {
      'tokens': _filled(sequence, length, self.ids.pad),
      'targets': _filled(sequence[1:], length, self.ids.pad),
    }
    for name, values, dtype in (
      ('weights', weights, np.float32),
      ('slots', slots, np.int32),
      ('legal', counts, np.int32),
    ):
      values = np.concatenate([np.zeros(lead, dtype), values[:-1]])
      found[name] = _filled(values.astype(dtype), length, 0)
    return found

  def parse(
    self, sequence: Int[np.ndarray, ' l'], legal: Int[np.ndarray, ' d']
  ) -> tuple[Int[np.ndarray, 't d'], Int[np.ndarray, ' t']]:
    """Reads a sequence strictly.

    Args:
      sequence: ids: `start`, then trials; `|` after the last is allowed, and so
        is filling behind it.
      legal: code of the legal tokens of each parameter.

    Returns:
      Parameter tokens, and ids of the objectives.

    Raises:
      ValueError: an id is not legal where it stands; names place and id.
    """
    ids, start = self.ids, len(self.ids.start)
    body = np.trim_zeros(sequence[start:] - ids.pad, 'b') + ids.pad
    width = len(legal) + 3
    if len(body) % width == width - 1:
      body = np.append(body, ids.bar)
    if tuple(sequence[:start]) != ids.start or len(body) % width:
      raise ValueError(
        f'a sequence must be {ids.start} and trials of {width} tokens, '
        f'got {sequence.tolist()}'
      )
    rows = body.reshape(-1, width)
    bins = rows - ids.first_bin
    good = np.empty(rows.shape, bool)
    tokens, known = bins[:, :-3], np.arange(len(legal))
    allowed = np.asarray(legality.is_legal(jnp.asarray(legal), ids.bins))
    good[:, :-3] = (tokens >= 0) & (tokens < ids.bins)
    good[:, :-3] &= allowed[known, np.clip(tokens, 0, ids.bins - 1)]
    good[:, -3] = rows[:, -3] == ids.star
    good[:, -2] = (bins[:, -2] >= 0) & (bins[:, -2] < ids.bins)
    good[:, -2] |= np.isin(rows[:, -2], (ids.pending, ids.infeasible))
    good[:, -1] = rows[:, -1] == ids.bar
    if not good.all():
      trial, place = np.argwhere(~good)[0]
      raise ValueError(
        f'id {rows[trial, place]} is not legal at place {place} of trial {trial}'
      )
    return bins[:, :-3], rows[:, -2]


def is_usable(
  study: studies.Study, *, least: int = 10, bins: int = quantizing.NUM_BINS
) -> bool:
  """Whether a study is fit to learn from.

  Args:
    study: of any length.
    least: completed trials that it must have.
    bins: Q.

  Returns:
    False for young studies, constant objectives, spaces with nothing free and
    parameters that list more values than there are bins.
  """
  known = study.values[study.statuses == studies.COMPLETED]
  lists = (getattr(p, 'values', ()) for p in study.problem.space.parameters)
  return bool(
    known.size >= least
    and known.min() < known.max()
    and study.problem.space.free
    and max(map(len, lists)) <= bins
  )


def _share(
  rng: np.random.Generator, sizes: tuple[float, float] | None
) -> dict[str, float]:
  """The part of [0, 1] that objectives take; none: that of inference."""
  if sizes is None:
    return {}
  size = rng.uniform(*sizes)
  return {'size': size, 'start': rng.uniform(0, 1 - size)}


def _hidden(
  study: studies.Study, rows: Bool[np.ndarray, ' t']
) -> studies.Study:
  """The study with some trials that seem to run still."""
  return dataclasses.replace(
    study,
    values=np.where(rows, np.nan, study.values),
    statuses=np.where(rows, studies.PENDING, study.statuses).astype(np.int8),
  )


def _filled(
  values: Int[np.ndarray, ' n'] | Float[np.ndarray, ' n'],
  length: int,
  fill: int,
) -> np.ndarray:
  found = np.full(length, fill, values.dtype)
  found[: values.size] = values
  return found
