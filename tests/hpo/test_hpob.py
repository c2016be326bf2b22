"""HPO-B: files of its layout, and nearest points."""

import json

import numpy as np
import pytest

from hpo import hpob

POINTS = {
  '5860': {
    '14951': {
      'X': [[0.0, 0.0], [0.5, 0.5], [1.0, 0.2]],
      'y': [[0.1], [0.7], [0.4]],
    }
  },
  '4796': {'3549': {'X': [[0.25]], 'y': [[0.5]]}},
}
STARTS = {
  '5860': {'14951': {'test0': [0, 2], 'test1': [1, 0]}},
  '4796': {'3549': {'test0': [0]}},
}


def write(folder, points=POINTS, starts=STARTS):
  folder.mkdir(exist_ok=True)
  (folder / hpob.POINTS).write_text(json.dumps(points))
  (folder / hpob.STARTS).write_text(json.dumps(starts))
  return folder


def test_problems_are_read(tmp_path):
  folder = write(tmp_path)
  assert hpob.names(folder) == ('4796/3549', '5860/14951')
  pool = hpob.load(folder, '5860/14951')
  assert pool.problem.goal == 'MAXIMIZE'
  assert pool.problem.space.names == ('x0', 'x1')
  np.testing.assert_array_equal(pool.values, [0.1, 0.7, 0.4])
  np.testing.assert_array_equal(pool.starts['test1'], [1, 0])
  codes = np.array([[0.2, 0.1], [0.6, 0.6], [0.9, 0.1]])
  np.testing.assert_array_equal(pool.nearest(codes), [0, 1, 2])


@pytest.mark.parametrize(
  ('entry', 'message'),
  [
    ({'X': [[0.0]]}, 'needs numbers X and y'),
    ({'X': [[0.0], [0.1, 0.2]], 'y': [1, 2]}, 'needs numbers X and y'),
    ({'X': [[2.0]], 'y': [0.5]}, r'X \[n, d\] in \[0, 1\]'),
    ({'X': [[0.5]], 'y': [0.5, 0.6]}, r'points.shape=\(1, 1\)'),
    ({'X': [[0.5]], 'y': [float('nan')]}, 'finite y'),
  ],
)
def test_what_is_malformed(tmp_path, entry, message):
  folder = write(tmp_path, {'4796': {'3549': entry}})
  with pytest.raises(ValueError, match=f'{hpob.POINTS}: 4796/3549.*{message}'):
    hpob.load(folder, '4796/3549')


@pytest.mark.parametrize(
  ('entry', 'message'),
  [
    ({'test0': [3]}, r'test0 of 4796/3549 must list places in 0..0, got \[3\]'),
    ({'test0': ['a']}, 'test0 .* must list places'),
    ({'test0': [0.5]}, 'test0 .* must list places'),
    ({'test0': 0}, 'test0 .* must list places'),
    ([0], "no data set '3549'"),
  ],
)
def test_starts_that_are_malformed(tmp_path, entry, message):
  folder = write(tmp_path, starts={'4796': {'3549': entry}})
  with pytest.raises(ValueError, match=f'{hpob.STARTS}: {message}'):
    hpob.load(folder, '4796/3549')


def test_what_is_missing(tmp_path):
  with pytest.raises(FileNotFoundError, match=hpob.POINTS):
    hpob.names(tmp_path / 'no')
  with pytest.raises(
    ValueError, match="no data set '1' of search space '5860'"
  ):
    hpob.load(write(tmp_path / 'a'), '5860/1')
  for text, message in (('{', 'is no JSON'), ('{"5860": 3}', 'must hold data')):
    (tmp_path / 'a' / hpob.POINTS).write_text(text)
    hpob._read.cache_clear()
    with pytest.raises(ValueError, match=message):
      hpob.names(tmp_path / 'a')
