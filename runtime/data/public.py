"""Public data sets, read with random access by TensorFlow Datasets.

Reading needs the extra `data`. The first use of a set prepares it, which needs
the network and, for most sets, TensorFlow: the extra `prepare`. On a machine
with both, `tfds build NAME --file_format=array_record` prepares it beforehand.
"""

import difflib
from collections.abc import Sequence
from typing import Any

from runtime import optional

__all__ = ['load']

_FORMAT = 'array_record'


def load(
  name: str, splits: Sequence[str], *, data_dir: str | None = None
) -> list[Sequence[dict[str, Any]]]:
  """Opens splits of a public data set, and prepares it on first use.

  Args:
    name: in TensorFlow Datasets, such as `mnist` or `mnist_corrupted/fog`.
    splits: their names, or slices of them such as `train[:10%]`.
    data_dir: folder of data sets; None: $TFDS_DATA_DIR or
      `~/tensorflow_datasets`.

  Returns:
    The examples of each split, dicts by feature, read when they are indexed.

  Raises:
    ImportError: the extra `data` is not installed.
    ValueError: there is no such data set, configuration or split, or the set
      was prepared in a format without random access.
    FileNotFoundError: the set is not prepared, and cannot be prepared here.
  """
  tfds = optional.load('tensorflow_datasets', extra='data')
  try:
    builder = tfds.builder(name, data_dir=data_dir)
  except ValueError as error:
    raise ValueError(
      f'{name!r} must be a public data set; {_near(tfds, name)}'
    ) from error
  stored = builder.info.file_format if builder.is_prepared() else _FORMAT
  command = f'tfds build {name} --file_format={_FORMAT} --data_dir=DIR'
  try:
    return tfds.data_source(
      name,
      split=list(splits),
      data_dir=data_dir,
      builder_kwargs={'file_format': stored},
    )
  except NotImplementedError as error:
    raise ValueError(
      f'{builder.data_path}: {name} must be prepared as {_FORMAT}, which can be'
      f' read in any order, got {stored}; prepare it elsewhere: {command}'
    ) from error
  except (OSError, ImportError) as error:
    raise FileNotFoundError(
      f'{builder.data_path}: {name} is not prepared, and cannot be here:'
      f" {error}\nWith the network and pip install 'attune[prepare]': {command}"
    ) from error


def _near(tfds: Any, name: str) -> str:
  """Suggests known names that are close to an unknown one."""
  known = tfds.list_builders(with_community_datasets=False)
  stem, _, config = name.partition('/')
  if config and stem in known:
    return (
      f'its configurations are {sorted(tfds.builder_cls(stem).builder_configs)}'
    )
  return f'near names: {difflib.get_close_matches(stem, known)}'
