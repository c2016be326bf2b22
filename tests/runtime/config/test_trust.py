"""A gin file runs what it names: what it may name is limited."""

import sys

import pytest

from runtime import trainer
from runtime.config import errors, sessions

HEADER = 'from __gin__ import dynamic_registration\n'


def read(tmp_path, text, **options):
  (tmp_path / 'a.gin').write_text(HEADER + text)
  with sessions.session(trainer.train, [tmp_path / 'a.gin'], **options):
    pass


@pytest.mark.parametrize(
  ('text', 'message'),
  [
    ('import os\n', r'a\.gin:2: module os may not be named.*--allow_module=os'),
    (
      'from subprocess import run\n',
      r'module subprocess\.run may not be named',
    ),
    (
      'from runtime import launch\nX = @launch.os.system()\n',
      r'a\.gin:3: module os may not be named',
    ),
    (
      'from runtime import launch\nX = @launch.functools.partial()\n',
      'module functools may not be named',
    ),
    (
      'from runtime import trainer\nX = @trainer.contextlib.suppress()\n',
      'module contextlib may not be named',
    ),
    ('from runtime.config import reader\nX = @reader.Any\n', 'module typing'),
  ],
)
def test_only_trusted_modules_may_be_named(tmp_path, text, message):
  with pytest.raises(errors.ConfigError, match=message):
    read(tmp_path, text)


def test_an_allowed_module_exists(tmp_path):
  with pytest.raises(errors.ConfigError, match='--allow_module=no_such'):
    read(tmp_path, '', allow=('no_such.a',))


def test_an_untrusted_module_is_not_even_imported(tmp_path, monkeypatch):
  (tmp_path / 'mine_of_test.py').write_text('def f(): pass\n')
  monkeypatch.syspath_prepend(str(tmp_path))
  text = (
    'import mine_of_test\nfrom runtime import trainer\n'
    'trainer.train.trainer = @mine_of_test.f\n'
  )
  with pytest.raises(errors.ConfigError, match='--allow_module=mine_of_test'):
    read(tmp_path, text)
  assert 'mine_of_test' not in sys.modules
  read(tmp_path, text, allow=('mine_of_test',))
  assert 'mine_of_test' in sys.modules
