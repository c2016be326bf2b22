"""HPO-B: tuning problems that were evaluated at a set of points each.

The files are those of its version 3, which no package holds; give their folder:

  meta-test-dataset.json    by search space and data set: X, points in [0, 1]^d, and y,
                            accuracies, which are maximised
  bo-initializations.json   by search space, data set and name: numbers of the points
                            that a run begins with

The true value is known at these points alone (the discrete protocol): a suggestion
counts as the nearest of them. Results of the continuous protocol, whose values are
those of fitted surrogates, are not comparable.

Reference: Pineda Arango et al. 2021, arXiv:2106.06257.
"""

import dataclasses
import functools
import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from hpo import spaces, studies

__all__ = ['POINTS', 'STARTS', 'Pool', 'load', 'names']

POINTS, STARTS = 'meta-test-dataset.json', 'bo-initializations.json'


@dataclasses.dataclass(frozen=True, eq=False)
class Pool:
  """A problem whose values are known at some points.

  Attributes:
    problem: over the unit cube; to be maximised.
    points: float64 [n, d].
    values: float64 [n].
    starts: by name, numbers of the points that a run begins with.
  """

  problem: studies.Problem
  points: Float[np.ndarray, 'n d']
  values: Float[np.ndarray, 'n']
  starts: Mapping[str, Int[np.ndarray, 's']]

  def nearest(self, codes: Float[np.ndarray, 'm d']) -> Int[np.ndarray, 'm']:
    """Numbers of the nearest points, in Euclidean distance."""
    gaps = [((self.points - row) ** 2).sum(axis=1) for row in codes]
    return np.argmin(gaps, axis=1)


def names(folder: str | os.PathLike[str]) -> tuple[str, ...]:
  """Names of all problems, as '5860/14951', in order.

  Raises:
    FileNotFoundError: the folder lacks a file.
    ValueError: a file is malformed.
  """
  content = _read(_path(folder, POINTS))
  return tuple(
    f'{space}/{data}'
    for space in sorted(content)
    for data in sorted(content[space])
  )


def load(folder: str | os.PathLike[str], name: str) -> Pool:
  """Reads a problem.

  Args:
    folder: of the files.
    name: in `names`.

  Raises:
    FileNotFoundError: the folder lacks a file.
    ValueError: there is no such problem, or it is malformed; names the file.
  """
  space, _, data = name.partition('/')
  path = _path(folder, POINTS)
  found = _entry(path, space, data)
  try:
    points = np.array(found['X'], np.float64)
    values = np.array(found['y'], np.float64).reshape(-1)
  except (KeyError, TypeError, ValueError) as error:
    raise ValueError(
      f'{path}: {name} needs numbers X and y: {error}'
    ) from error
  inside = points.ndim == 2 and ((points >= 0) & (points <= 1)).all()
  if not inside or len(points) != len(values) or not np.isfinite(values).all():
    raise ValueError(
      f'{path}: {name} needs X [n, d] in [0, 1] and finite y [n], '
      f'got {points.shape=} {values.shape=}'
    )
  begins = _path(folder, STARTS)
  starts = {
    key: _rows(f'{begins}: {key} of {name}', listed, len(points))
    for key, listed in _entry(begins, space, data).items()
  }
  columns = [f'x{place}' for place in range(points.shape[1])]
  cube = spaces.Space([spaces.Float(column, 0.0, 1.0) for column in columns])
  problem = studies.Problem(cube, 'MAXIMIZE', space, 'accuracy')
  return Pool(problem, points, values, starts)


def _path(folder: str | os.PathLike[str], name: str) -> pathlib.Path:
  return pathlib.Path(folder) / name


def _rows(what: str, listed: Any, count: int) -> Int[np.ndarray, 's']:
  """Numbers of points, of which there are so many."""
  is_place = lambda row: type(row) is int and 0 <= row < count
  if not isinstance(listed, list) or not all(map(is_place, listed)):
    raise ValueError(f'{what} must list places in 0..{count - 1}, got {listed}')
  return np.array(listed, np.int64)


def _entry(path: pathlib.Path, space: str, data: str) -> Mapping[str, Any]:
  found = _read(path).get(space, {}).get(data)
  if not isinstance(found, dict):
    raise ValueError(f'{path}: no data set {data!r} of search space {space!r}')
  return found


@functools.lru_cache(maxsize=2)
def _read(path: pathlib.Path) -> dict[str, Any]:
  """The files are large, and asked for problem after problem."""
  with open(path, encoding='utf-8') as stream:
    try:
      content = json.load(stream)
    except ValueError as error:
      raise ValueError(f'{path} is no JSON: {error}') from error
  is_map = lambda found: isinstance(found, dict)
  if not is_map(content) or not all(map(is_map, content.values())):
    raise ValueError(f'{path} must hold data sets by search space')
  return content
