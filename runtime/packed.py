"""Trained models as one file: settings as JSON, and arrays."""

import json
import os
import pathlib
from typing import Any

import flax.serialization
import jax
import numpy as np
from jaxtyping import PyTree

__all__ = ['load', 'save']


def save(
  path: str | os.PathLike[str],
  settings: dict[str, Any],
  variables: PyTree,
  *,
  form: int,
) -> None:
  """Writes a file.

  Args:
    path: file to write.
    settings: all that tells the model, as JSON holds it.
    variables: a tree of dicts of arrays.
    form: number of the format, which changes with the meaning of the settings.
  """
  content = {
    'settings': json.dumps({'format': form} | settings),
    'variables': jax.tree.map(np.asarray, variables),
  }
  pathlib.Path(path).write_bytes(flax.serialization.msgpack_serialize(content))


def load(
  path: str | os.PathLike[str], *, form: int
) -> tuple[dict[str, Any], PyTree]:
  """Reads what `save` wrote: settings and arrays.

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: the file is not one of `save`, or of another format.
  """
  packed = pathlib.Path(path).read_bytes()
  try:
    content = flax.serialization.msgpack_restore(packed)
    settings = json.loads(content['settings'])
  except (ValueError, KeyError, TypeError) as error:
    raise ValueError(f'{path}: not a file of `save`: {error}') from error
  if settings.pop('format') != form:
    raise ValueError(f'{path}: the file must have format {form}')
  return settings, content['variables']
