"""Protein sequences as batches for masked and causal language models."""

import dataclasses
import functools
import importlib.resources
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float, Int

from performer.data import (
  baseline,
  dataset,
  examples,
  masking,
  store,
  vocabulary,
)
from runtime import paths
from runtime.data import indexed

__all__ = ['SAMPLE_SPLITS', 'Proteins', 'sample_file']

SAMPLE_SPLITS = ('train', 'valid', 'test', 'ood')

_TRAIN = 'train'
# First words of the random streams: train masks vary with the run's seed and
# the position in the run, evaluation masks only with the index of the sequence.
_TRAIN_STREAM, _EVAL_STREAM = 0, 1


def sample_file(split: str) -> str:
  """Returns the path of one split of the sample that ships here."""
  folder = importlib.resources.files('performer.data') / 'sample'
  return str(folder / f'{split}.fasta.gz')


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Proteins(dataset.DataSet):
  """A protein data set: one training split and any number of others.

  Batches are dicts of numpy arrays, `tokens` and `targets` int32 [b, l],
  `weights` float32 [b, l] and `mask` bool [b, l], described in
  `performer.data.examples`; l is `max_length`.

  Files are read on first use. A FASTA file is converted once into `cache_dir`
  (see `performer.data.store`); the sample is held in memory. Every sequence is
  used, however short; unusual letters are mapped by `performer.data.vocabulary`.

  Attributes:
    task: `mlm` (hide and predict) or `causal` (predict the next residue).
    max_length: tokens per example, l.
    files: path of the FASTA (plain or gzip) or `.array_record` file of each
      split, one of them named `train`. A single path is split by the hash of
      the sequences: `train` has 90 % of them, `valid` and `test` 5 % each, and
      equal sequences are in one split; related ones may not be. None for the
      sample of UniProt in this package, with the splits `train`, `valid`,
      `test` and `ood`.
    stops: what becomes of a `*` at the end of a line: 'error' or 'drop'.
    masking: `bert` or `protein_lm` (see `performer.data.masking`); None for
      `bert`. Must be None for the causal task.
    concatenate: join all sequences, an end symbol after each, and cut windows
      of `max_length` tokens; otherwise an example is one sequence, cropped to
      its first `max_length` residues, without an end symbol.
    long_sequences: `crop`, or `error` to refuse a file with a sequence over
      `max_length`. Must be `crop` with `concatenate`, which loses no residue.
    cache_dir: folder of converted files; None for the user's cache.
    num_threads: reader threads of the training iterator; 0 reads in step.

  Raises:
    ValueError: an option is unknown, out of range or contradicts another.
  """

  task: str
  max_length: int
  files: Mapping[str, str] | str | None = None
  stops: str = 'error'
  masking: str | None = None
  concatenate: bool = False
  long_sequences: str = 'crop'
  cache_dir: str | None = None
  num_threads: int = 2

  def __post_init__(self) -> None:
    if self.task not in ('mlm', 'causal'):
      raise ValueError(f"task must be 'mlm' or 'causal', got {self.task=}")
    if self.max_length < 2:
      raise ValueError(f'max_length must be at least 2, got {self.max_length=}')
    if self.stops not in ('error', 'drop'):
      raise ValueError(f"stops must be 'error' or 'drop', got {self.stops=}")
    if isinstance(self.files, Mapping):
      dataset.check_splits(self.files, fewest=1)
    if self.masking is not None:
      masking.preset(self.masking)
      if self.task == 'causal':
        raise ValueError(f"masking needs task='mlm', got {self.masking=}")
    if self.long_sequences not in ('crop', 'error'):
      raise ValueError(
        f"long_sequences must be 'crop' or 'error', got {self.long_sequences=}"
      )
    if self.concatenate and self.long_sequences == 'error':
      raise ValueError(
        "long_sequences='error' needs concatenate=False: windows cut sequences"
      )
    if self.num_threads < 0:
      raise ValueError(f'num_threads must be >= 0, got {self.num_threads=}')

  @property
  def vocab_size(self) -> int:
    """Number of token ids."""
    return vocabulary.SIZE

  @property
  def unit(self) -> str:
    """The unit of reported losses."""
    return 'perplexity'

  @property
  def splits(self) -> tuple[str, ...]:
    """Names of the splits other than `train`."""
    return tuple(name for name in self._paths if name != _TRAIN)

  @property
  def codec(self) -> dataset.Codec:
    """Residues after BOS. Models that read single proteins see no end."""
    begin = np.array([vocabulary.BOS], np.int32)
    return dataset.Codec(
      lambda text: np.concatenate([begin, vocabulary.encode(text)]),
      vocabulary.decode,
      stop_token=vocabulary.EOS if self.concatenate else None,
    )

  def num_examples(self, split: str) -> int:
    """Returns the number of sequences, or windows, of a split.

    Raises:
      FileNotFoundError: the file of the split does not exist.
      ValueError: the split is unknown or its file malformed.
    """
    return len(self._source(split))

  def token_counts(self, split: str) -> Int[np.ndarray, '29']:
    """Counts the tokens of a split, before cropping, padding and masking.

    Residues only; with `concatenate` also the end symbols, one per sequence.

    Returns:
      int64 [vocab_size].

    Raises:
      FileNotFoundError: the file of the split does not exist.
      ValueError: the split is unknown or its file malformed.
    """
    summary = self._summary(split)
    counts = np.zeros(vocabulary.SIZE, np.int64)
    counts[: vocabulary.NUM_RESIDUES] = summary.counts
    if self.concatenate:
      counts[vocabulary.EOS] = summary.sequences
    return counts

  def training_examples(self, seed: int) -> indexed.Examples:
    """See `Indexed`: every epoch has its own order, every example its masks."""
    source = self._source(_TRAIN)
    row = indexed.shuffled(len(source), seed)
    return indexed.stacked(
      lambda i: self._example(source[row(i)], (_TRAIN_STREAM, seed, i))
    )

  def evaluation_examples(self, split: str) -> tuple[int, indexed.Examples]:
    """See `Indexed`: file order; masks depend on the example's number alone."""
    source = self._source(split)
    return len(source), indexed.stacked(
      lambda i: self._example(source[i], (_EVAL_STREAM, i))
    )

  def baselines(
    self, *, pseudocount: float = 1.0
  ) -> dict[str, baseline.Unigram | baseline.TokenWise]:
    """Returns the baselines that make sense for the task, by name.

    `empirical baseline` predicts every residue from its frequency among what a
    model has to predict: residues, and end symbols where a causal model meets
    them; never padding or masks. All training residues count, also those that
    cropping hides from a model.

    Masked language models have a second one, which is harder to beat: BERT's
    recipe leaves a tenth of the targets in sight, and copying what stands
    there gains nine points of accuracy without any knowledge of proteins.
    `empirical, copying` is the best prediction from the input token alone.

    Args:
      pseudocount: added to each count, so that a residue absent from a small
        training set (`O` occurs in few proteins) has a finite loss elsewhere.

    Raises:
      FileNotFoundError: the training file does not exist.
      ValueError: the pseudocount is negative or the training file malformed.
    """
    possible = np.arange(vocabulary.SIZE) < vocabulary.NUM_RESIDUES
    possible[vocabulary.EOS] = self.concatenate and self.task == 'causal'
    counts = self.token_counts(_TRAIN)[possible]
    probabilities = np.zeros(vocabulary.SIZE)
    probabilities[possible] = baseline.unigram(
      counts, pseudocount=pseudocount
    ).probabilities
    found = {'empirical baseline': baseline.Unigram(probabilities, 'residues')}
    if self.task == 'mlm':
      how = masking.preset(self.masking or 'bert')
      found['empirical, copying'] = _copying(probabilities, how)
    return found

  @functools.cached_property
  def _paths(self) -> Mapping[str, str]:
    if self.files is None:
      return {split: sample_file(split) for split in SAMPLE_SPLITS}
    if isinstance(self.files, str):
      return dict.fromkeys(dataset.SHARES, str(paths.local(self.files)))
    return {k: str(paths.local(path)) for k, path in self.files.items()}

  def _reading(self, split: str) -> store.Reading:
    share = dataset.SHARES[split] if isinstance(self.files, str) else None
    return store.Reading(self.stops, share)

  @functools.cached_property
  def _cache(self) -> str | None:
    if self.files is None:
      return None
    return str(paths.local(self.cache_dir or paths.user_cache('proteins')))

  @functools.cached_property
  def _opened(self) -> dict[str, Sequence[np.ndarray]]:
    return {}  # Filled by `_source`.

  def _path(self, split: str) -> str:
    if split not in self._paths:
      raise ValueError(f'split must be one of {[*self._paths]}, got {split=}')
    return self._paths[split]

  def _summary(self, split: str) -> store.Summary:
    return store.summarize(self._path(split), self._cache, self._reading(split))

  def _source(self, split: str) -> Sequence[np.ndarray]:
    """Returns the encoded examples of a split, opened on first use."""
    path = self._path(split)
    if split not in self._opened:
      window = self.max_length if self.concatenate else None
      if self._cache is None:
        source = store.load(path, window, self._reading(split))
      else:
        source = store.open_records(
          path, window, self._cache, self._reading(split)
        )
      if self.long_sequences == 'error':
        self._check_longest(split)
      self._opened[split] = source
    return self._opened[split]

  def _check_longest(self, split: str) -> None:
    """Raises if a sequence of the split does not fit."""
    summary = self._summary(split)
    if summary.longest > self.max_length:
      raise ValueError(
        f'{summary.longest_name}: a sequence must have at most'
        f' {self.max_length} residues, got {summary.longest}'
        " (long_sequences='crop' keeps the first ones)"
      )

  def _example(
    self, ids: np.ndarray, stream: tuple[int, ...]
  ) -> indexed.Arrays:
    """Builds one example; `stream` seeds the masks."""
    if self.task == 'causal':
      return examples.causal(ids, self.max_length)
    how = masking.preset(self.masking or 'bert')
    rng = np.random.default_rng(stream)
    return examples.masked(ids, self.max_length, rng, how)


def _copying(
  prior: Float[np.ndarray, '29'], how: masking.Preset
) -> baseline.TokenWise:
  """The posterior of a masked residue given the token in its place.

  Args:
    prior: frequencies of the residues, float64 [29].
    how: masking that replaces residues.
  """
  joint = np.zeros((vocabulary.SIZE, vocabulary.SIZE))
  joint[vocabulary.MASK] = how.mask * prior
  joint[: vocabulary.NUM_STANDARD] = (
    how.random * prior / vocabulary.NUM_STANDARD
  )
  keep = 1 - how.mask - how.random
  joint[np.diag_indices(vocabulary.SIZE)] += keep * prior
  # Inputs that never stand for a residue keep the prior, as a formality.
  seen = joint.sum(axis=1, keepdims=True)
  table = np.where(seen > 0, joint, prior) / np.where(seen > 0, seen, 1)
  return baseline.TokenWise(table, 'residues')
