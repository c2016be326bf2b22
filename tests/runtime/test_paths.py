import pathlib

import pytest

from runtime import paths


def test_paths_as_users_write_them(monkeypatch, tmp_path):
  monkeypatch.setenv('HOME', str(tmp_path))
  assert paths.local('~/x') == tmp_path / 'x'
  assert paths.local(pathlib.Path('a/b')) == pathlib.Path('a/b')
  with pytest.raises(ValueError, match='gs://bucket/run is a URL'):
    paths.local('gs://bucket/run')
  with pytest.raises(ValueError, match='~nobody_here'):
    paths.local('~nobody_here/x')
