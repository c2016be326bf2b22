"""What counts as a change of the checkout."""

import subprocess

import pytest

from runtime.record import provenance


@pytest.fixture
def checkout(tmp_path):
  """A repository with one commit."""
  name = ['-c', 'user.name=a', '-c', 'user.email=a@b.c']
  (tmp_path / 'code.py').write_text('x = 1\n')
  for words in (
    ['init', '-q'],
    ['add', '.'],
    [*name, 'commit', '-q', '-m', 'first'],
  ):
    subprocess.run(['git', *words], cwd=tmp_path, check=True)
  return tmp_path


def test_a_clean_checkout(checkout):
  revision, changed = provenance.commit(checkout)
  assert len(revision) == 40
  assert changed is False


@pytest.mark.parametrize(
  ('path', 'counts'),
  [
    ('code.py', True),
    ('docs/other.md', True),
    ('benchmarks/bench.py', True),
    ('docs/results/1/row.json', False),
    ('docs/results.md', False),
    ('benchmarks/results/x.json', False),
  ],
)
def test_results_are_no_changes(checkout, path, counts):
  (checkout / path).parent.mkdir(parents=True, exist_ok=True)
  (checkout / path).write_text('new\n')
  assert provenance.commit(checkout)[1] is counts


def test_from_a_folder_below(checkout):
  (checkout / 'sub').mkdir()
  (checkout / 'code.py').write_text('x = 2\n')
  assert provenance.commit(checkout / 'sub')[1] is True


def test_no_checkout(tmp_path, monkeypatch):
  monkeypatch.setenv('GIT_CEILING_DIRECTORIES', str(tmp_path.parent))
  assert provenance.commit(tmp_path) == (None, None)
