"""Tables: values by point and by codes, and the files that hold them."""

import numpy as np
import pytest

from hpo import spaces, studies, tabular

SPACE = spaces.Space(
  (
    spaces.Discrete('width', (1, 2, 4), 'LOG'),
    spaces.Categorical('kind', ('p', 'q')),
  )
)
VALUES = np.array([[5.0, 1.0], [2.0, 2.0], [0.0, 9.0]])


def table(goal='MINIMIZE'):
  return tabular.Table(studies.Problem(SPACE, goal, 'toy'), VALUES)


def test_values_by_point_and_by_codes():
  found = table()
  assert found(width=1, kind='q') == 1.0
  assert found(kind='p', width=4) == 0.0
  codes = np.array([[0.0, 0.0], [2.0, 1.0]])
  np.testing.assert_array_equal(found.at(codes), [5.0, 9.0])
  with pytest.raises(ValueError, match="'width' must be one of"):
    found(width=3, kind='p')


def test_the_median_is_0_and_the_best_is_1():
  assert (table().best, table('MAXIMIZE').best) == (0.0, 9.0)
  np.testing.assert_allclose(table().normalized([0, 2, 4]), [1, 0, -1])
  np.testing.assert_allclose(table('MAXIMIZE').normalized([9, 2]), [1, 0])


def test_what_is_no_table():
  real = spaces.Space((spaces.Float('x', 0.0, 1.0),))
  with pytest.raises(ValueError, match='needs listed parameters'):
    tabular.Table(studies.Problem(real), np.zeros(3))
  for wrong in (VALUES.T, VALUES * np.nan):
    with pytest.raises(ValueError, match=r'table of \(3, 2\) points'):
      tabular.Table(studies.Problem(SPACE), wrong)


def test_files(tmp_path):
  names = ('hpolib/naval_propulsion', 'nasbench201/cifar10')
  rng = np.random.default_rng(0)
  runs = {}
  for name, count in zip(names, (4, 3), strict=True):
    shape = tabular.family(name).shape
    runs[name] = rng.uniform(1, 2, (*shape, count)).astype(np.float32)
  runs[names[1]][:, 0, ..., 2] = np.nan
  path = tmp_path / 'tables.npz'
  np.savez(path, **runs)
  losses, accuracies = (tabular.load(path, name) for name in names)
  assert losses.problem.name == names[0]
  assert losses.problem.metric == 'log_val_loss'
  assert losses.problem.goal == 'MINIMIZE'
  means = np.float64(runs[names[0]]).mean(axis=-1)
  np.testing.assert_allclose(losses.values, np.log(means))
  two = np.float64(runs[names[1]])[:, 0, ..., :2].mean(axis=-1)
  np.testing.assert_allclose(accuracies.values[:, 0], two)
  assert accuracies.problem.goal == 'MAXIMIZE'
  with pytest.raises(ValueError, match='must be one of'):
    tabular.load(path, 'hpobench/cars')
  with pytest.raises(FileNotFoundError, match=r'prepare_hpo_tables\.py'):
    tabular.load(tmp_path / 'no.npz', names[0])


def test_files_that_hold_no_table(tmp_path):
  (tmp_path / 'text').write_text('table')
  (tmp_path / 'empty').write_text('')
  (tmp_path / 'cut').write_bytes(b'PK\x03\x04')
  np.save(tmp_path / 'array.npy', np.zeros(3))
  np.savez(tmp_path / 'other.npz', x=np.zeros(3))
  for name in ('text', 'empty', 'cut', 'array.npy', 'other.npz'):
    with pytest.raises(ValueError, match=f'{name} does not hold the table'):
      tabular.load(tmp_path / name, 'nasbench201/cifar10')


def test_there_are_fifteen():
  assert len(tabular.NAMES) == 15
  shapes = {name: f.shape for name, f in tabular.FAMILIES.items()}
  assert shapes['hpobench'] == (10, 10, 3, 10, 10)
  assert shapes['hpolib'] == (2, 2, 4, 3, 3, 6, 2, 6, 6)
  assert shapes['nasbench201'] == (5,) * 6
