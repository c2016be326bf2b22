import sys

import pytest

from runtime import optional


def test_a_missing_library_names_the_extra(monkeypatch):
  monkeypatch.setitem(sys.modules, 'absentlib', None)
  with pytest.raises(ImportError, match=r"absentlib is .*'attune\[some\]'"):
    optional.load('absentlib', extra='some')


def test_a_library_broken_inside_says_so(tmp_path, monkeypatch):
  """Its own missing import is not mistaken for the library missing."""
  (tmp_path / 'brokenlib.py').write_text('import no_such_thing_here\n')
  monkeypatch.syspath_prepend(tmp_path)
  with pytest.raises(ModuleNotFoundError, match='no_such_thing_here'):
    optional.load('brokenlib', extra='some')
