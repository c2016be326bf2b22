"""Genotypes from files."""

import os
import pathlib

from nas.rl_darts import genotype

__all__ = ['genotype_file']


def genotype_file(path: str | os.PathLike[str]) -> genotype.Genotype:
  """The genotype that a file holds, such as `report/genotype.json` of a search.

  Args:
    path: of a JSON file.

  Raises:
    ValueError: if the file does not exist or holds no genotype, naming it.
  """
  path = pathlib.Path(path)
  if not path.is_file():
    raise ValueError(f'there is no file of a genotype at {path}')
  try:
    return genotype.Genotype.from_json(path.read_text())
  except ValueError as error:
    raise ValueError(f'{path}: {error}') from error
