"""A trained model with all that its use needs, as one object and as one file."""

import dataclasses
import os
import pathlib

import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from hpo import spaces, studies
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
  *('places', 'copies', 'first_trial'),
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
    longest_list: values of the longest list of numbers that it was trained with;
      None: it reads lists of any length; see `told`.
    algorithms: names of those that it was trained to imitate; None: not recorded.
  """

  model: models.OptFormer
  tokenizer: tokens.Tokenizer
  variables: PyTree
  projections: PyTree = (None, None, None)
  temperature: float = 1.0
  minimal: bool = True
  knows_pending: bool = False
  algorithm: str = PUBLISHED
  longest_list: int | None = None
  algorithms: tuple[str, ...] | None = None

  def __post_init__(self) -> None:
    ids = self.tokenizer.ids
    if (self.model.first_bin, self.model.bins) != (ids.first_bin, ids.bins):
      raise ValueError(
        'model and vocabulary must have the same bins, got '
        f'{self.model.first_bin=} {self.model.bins=} {ids}'
      )
    ranges.check_positive(temperature=self.temperature)
    ranges.check_counts(longest_list=self.longest_list)
    self.check_algorithm(self.algorithm)

  def check_algorithm(self, name: str) -> None:
    """Refuses an algorithm that the model was not trained to imitate.

    Raises:
      ValueError: the model is known not to know the name.
    """
    if self.algorithms is not None and name not in self.algorithms:
      raise ValueError(
        f'the algorithm must be one that the model imitates, {self.algorithms}, '
        f'got {name!r}'
      )

  def told(self, study: studies.Study) -> studies.Study:
    """A study as the model is told it; codes of points stay as they are.

    The tokens of a list are the places of its values. Beyond the longest list of
    training they mean nothing to the model, so a longer list is told as the whole
    numbers of these places, which spread over the bins as real parameters do.
    """
    if self.longest_list is None:
      return study
    space = study.problem.space
    parameters = tuple(
      spaces.Int(p.name, 0, len(p.values) - 1)
      if isinstance(p, spaces.Discrete) and len(p.values) > self.longest_list
      else p
      for p in space.parameters
    )
    space = dataclasses.replace(space, parameters=parameters)
    problem = dataclasses.replace(study.problem, space=space)
    return dataclasses.replace(study, problem=problem)


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
      'exact': maker.exact,
    },
    'pieces': list(compact.pieces),
    'temperature': trained.temperature,
    'minimal': trained.minimal,
    'knows_pending': trained.knows_pending,
    'algorithm': trained.algorithm,
    'longest_list': trained.longest_list,
    'algorithms': trained.algorithms,
  }
  packed.save(path, settings, trained.variables, form=_FORMAT)


def load(path: str | os.PathLike[str]) -> Trained:
  """Reads what `save` wrote.

  Raises:
    ValueError: the file is not one of `save`, or of another format.
  """
  settings, variables = packed.load(path, form=_FORMAT)
  known = settings.get('algorithms')
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
    # Newer than the format.
    longest_list=settings.get('longest_list'),
    algorithms=None if known is None else tuple(known),
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
