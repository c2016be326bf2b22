"""Databases of other libraries, whose faults are told in one line."""

import contextlib
import os
import pathlib
from collections.abc import Iterator
from typing import Any

from runtime import optional

__all__ = ['check_exists', 'told', 'vizier_store']


@contextlib.contextmanager
def told(name: str | os.PathLike[str]) -> Iterator[None]:
  """Errors of SQLAlchemy within become a ValueError that names the database."""
  errors = optional.load('sqlalchemy.exc', extra='optuna')
  try:
    yield
  except errors.SQLAlchemyError as error:
    cause = getattr(error, 'orig', None) or error
    raise ValueError(f'{name} is no database of studies: {cause}') from error


def check_exists(url: str) -> None:
  """Checks that a URL of SQLite names a file, which it would create otherwise.

  Raises:
    FileNotFoundError: there is no such file.
  """
  found = optional.load('sqlalchemy.engine', extra='optuna').make_url(url)
  if found.get_backend_name() != 'sqlite' or found.query:
    return
  if not pathlib.Path(found.database or '').is_file():
    raise FileNotFoundError(f'no such file: {found.database} of {url}')


def vizier_store(path: pathlib.Path) -> Any:
  """The studies in a file of Vizier's service, which is not changed.

  Raises:
    FileNotFoundError: there is no such file.
  """
  if not path.exists():
    raise FileNotFoundError(f'no such file: {path}')
  load = lambda name: optional.load(name, extra='vizier')
  # Vizier adds its tables to files that have none, unless it cannot write.
  url = f'sqlite:///{path.absolute().as_uri()}?mode=ro&uri=true'
  engine = load('sqlalchemy').create_engine(url)
  return load('vizier._src.service.sql_datastore').SQLDataStore(engine)
