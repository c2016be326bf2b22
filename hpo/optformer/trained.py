"""A trained model with all that its use needs, as one object and as one file."""

import dataclasses
import os
import pathlib

import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from hpo.optformer import models, relative, tokens, vocabulary
from rl import ranges
from runtime import packed

__all__ = ['PUBLISHED', 'SHIPPED', 'Trained', 'load', 'save', 'shipped']

# The file of the model that comes with the package.
SHIPPED = pathlib.Path(__file__).parent / 'weights' / 'optformer.msgpack'
_FORMAT = 3
PUBLISHED = 'designer_recursive_gp'  # The algorithm that the paper imitates.
# Sizes and switches of a model that a file records.
_RECORDED = (
  *('text_size', 'trial_size', 'width', 'num_layers', 'num_heads', 'head_dim'),
  *('d_ff', 'first_bin', 'bins', 'shared', 'tied', 'fourier'),
  *('places', 'first_trial'),
)


@dataclasses.dataclass(frozen=True, eq=False)
class Trained:
  """A model, its parameters, and how studies are written for it.

  Attributes:
    model: the network.
    tokenizer: vocabulary, dialect and lengths that it was trained with.
    variables: its parameters, as Flax's collections.
    projections: random matrices of its attention; Nones without.
    temperature: of its forecasts, fitted on validation studies.
    minimal: whether it knows metadata without names and ranges only.
    knows_pending: whether it was trained with hidden objectives.
    algorithm: name of the one that it imitates, unless a policy or a study names
      another: whose proposals are best differs from model to model.
  """

  model: models.OptFormer
  tokenizer: tokens.Tokenizer
  variables: PyTree
  projections: PyTree = (None, None, None)
  temperature: float = 1.0
  minimal: bool = True
  knows_pending: bool = False
  algorithm: str = PUBLISHED

  def __post_init__(self) -> None:
    ids = self.tokenizer.ids
    if (self.model.first_bin, self.model.bins) != (ids.first_bin, ids.bins):
      raise ValueError(
        'model and vocabulary must have the same bins, got '
        f'{self.model.first_bin=} {self.model.bins=} {ids}'
      )
    ranges.check_positive(temperature=self.temperature)


def save(path: str | os.PathLike[str], trained: Trained) -> None:
  """Writes a trained model to one file.

  Raises:
    ValueError: its attention or vocabulary has settings that the file does not
      record.
  """
  compact = vocabulary.Compact(bins=trained.tokenizer.ids.bins)
  if trained.model.attention != relative.Softmax() or (
    trained.tokenizer.vocabulary != compact
  ):
    raise ValueError(
      'a file holds models with relative.Softmax and vocabulary.Compact, got '
      f'{trained.model.attention} and {type(trained.tokenizer.vocabulary)}'
    )
  maker = trained.tokenizer
  settings = {
    'model': {name: getattr(trained.model, name) for name in _RECORDED},
    'tokenizer': {
      'dialect': maker.dialect,
      'encoder_length': maker.encoder_length,
      'decoder_length': maker.decoder_length,
      'infeasible_token': maker.infeasible_token,
    },
    'pieces': list(compact.pieces),
    'temperature': trained.temperature,
    'minimal': trained.minimal,
    'knows_pending': trained.knows_pending,
    'algorithm': trained.algorithm,
  }
  packed.save(path, settings, trained.variables, form=_FORMAT)


def load(path: str | os.PathLike[str]) -> Trained:
  """Reads what `save` wrote.

  Raises:
    ValueError: the file is not one of `save`, or of another format.
  """
  settings, variables = packed.load(path, form=_FORMAT)
  words = vocabulary.Compact(
    settings['model']['bins'], tuple(settings['pieces'])
  )
  return Trained(
    models.OptFormer(**settings['model']),
    tokens.Tokenizer(words, **settings['tokenizer']),
    jax.tree.map(jnp.asarray, variables),
    temperature=settings['temperature'],
    minimal=settings['minimal'],
    knows_pending=settings['knows_pending'],
    algorithm=settings['algorithm'],
  )


def shipped() -> Trained:
  """The model that comes with the package.

  Raises:
    FileNotFoundError: this checkout has no weights; says where the commands that
      make them are.
  """
  if not SHIPPED.exists():
    raise FileNotFoundError(
      f'{SHIPPED} is missing; the commands that make it are in '
      'hpo/optformer/README.md, section Run'
    )
  return load(SHIPPED)
