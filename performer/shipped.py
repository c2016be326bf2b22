"""A trained protein model as one file, and the one that comes with the package."""

import dataclasses
import os
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from performer import attention
from performer.data import dataset, proteins
from performer.models import transformer
from runtime import packed

__all__ = ['SHIPPED', 'Trained', 'load', 'save', 'shipped']

# The file of the model that comes with the package.
SHIPPED = pathlib.Path(__file__).parent / 'weights' / 'protein.msgpack'
_FORMAT = 1
# Settings of a model that a file records beside its attention.
_RECORDED = (
  *('vocab_size', 'max_length', 'causal', 'num_layers', 'num_heads'),
  *('d_model', 'd_ff', 'activation', 'attention_bias'),
)


@dataclasses.dataclass(frozen=True, eq=False)
class Trained:
  """A protein language model with all that its use needs.

  Attributes:
    model: the network, with `attention.Favor`.
    params: its parameters.
    projections: random matrices of its attention; None without.
    data: how proteins are read: task and length of the training data.
  """

  model: transformer.Transformer
  params: PyTree
  projections: PyTree
  data: proteins.Proteins

  @property
  def codec(self) -> dataset.Codec:
    """Text to tokens and back."""
    return self.data.codec


def save(path: str | os.PathLike[str], trained: Trained) -> None:
  """Writes a trained model to one file.

  Raises:
    ValueError: its model or attention is of another kind than files hold.
  """
  model, data = trained.model, trained.data
  if type(model) is not transformer.Transformer or not isinstance(
    model.attention, attention.Favor
  ):
    raise ValueError(
      'a file holds transformer.Transformer with attention.Favor, got '
      f'{type(model).__name__} with {type(model.attention).__name__}'
    )
  options = {
    field.name: getattr(model.attention, field.name)
    for field in dataclasses.fields(model.attention)
    if field.init
  }
  settings = {
    'model': {name: getattr(model, name) for name in _RECORDED},
    'attention': {
      name: value if value is None else _plain(name, value)
      for name, value in options.items()
    },
    'data': {
      name: getattr(data, name)
      for name in ('task', 'max_length', 'masking', 'concatenate')
    },
  }
  arrays = {'params': trained.params}
  if trained.projections is not None:
    arrays['projections'] = trained.projections
  packed.save(path, settings, arrays, form=_FORMAT)


def _plain(name: str, value: Any) -> Any:
  """A value as JSON holds it."""
  if isinstance(value, (bool, int, float, str)):
    return value
  try:
    return jnp.dtype(value).name
  except TypeError as error:
    raise ValueError(f'{name} of the attention cannot be recorded') from error


def load(path: str | os.PathLike[str]) -> Trained:
  """Reads what `save` wrote.

  Raises:
    ValueError: the file is not one of `save`, or of another format.
  """
  settings, arrays = packed.load(path, form=_FORMAT)
  arrays = jax.tree.map(jnp.asarray, arrays)
  return Trained(
    transformer.Transformer(
      attention=attention.Favor(**settings['attention']),
      dropout=0.0,
      **settings['model'],
    ),
    arrays['params'],
    arrays.get('projections'),
    proteins.Proteins(**settings['data']),
  )


def shipped() -> Trained:
  """The model that comes with the package.

  Raises:
    FileNotFoundError: this checkout has no weights; names the commands that make
      them.
  """
  if not SHIPPED.exists():
    raise FileNotFoundError(
      f'{SHIPPED} is missing; train a model with `python -m performer.train '
      '--gin_file=configs/performer/protein_shipped.gin --workdir=DIR`, then '
      f'make the file with `python -m performer.pack DIR --output={SHIPPED}`'
    )
  return load(SHIPPED)
