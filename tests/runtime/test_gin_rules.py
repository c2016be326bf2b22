"""The rules of the house: who may import what, and how gin files begin."""

import ast
import functools
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
SYSTEMS = ('performer', 'rl', 'nas', 'hpo')

# What each package may import of this project; the longest prefix decides.
ALLOWED = {
  'runtime': ('runtime',),
  'performer.attention': ('performer.attention',),
  'performer': ('performer', 'runtime'),
  'rl': ('rl', 'performer.attention', 'runtime'),
  'nas': ('nas', 'rl', 'runtime'),
  'hpo': ('hpo', *SYSTEMS, 'runtime'),
  'benchmarks': ('benchmarks', *SYSTEMS, 'runtime'),
  'papers': ('papers', 'benchmarks', *SYSTEMS, 'runtime'),
}
FORBIDDEN = {'performer.attention': ('flax', 'gin', 'absl')}


def _sources(*packages):
  for package in packages:
    yield from sorted((ROOT / package).rglob('*.py'))


def _module(path):
  parts = path.relative_to(ROOT).with_suffix('').parts
  return '.'.join(parts[:-1] if parts[-1] == '__init__' else parts)


def _imports(tree):
  """Yields the dotted names that a syntax tree imports."""
  for node in ast.walk(tree):
    if isinstance(node, ast.Import):
      yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
      assert node.level == 0, 'imports are absolute'
      yield from (f'{node.module}.{alias.name}' for alias in node.names)


def _is_in(name, prefixes):
  return any(name == p or name.startswith(f'{p}.') for p in prefixes)


def _violations(module, names):
  """Lists the imports of a module that the arrows do not allow."""
  owners = [p for p in ALLOWED if _is_in(module, [p])]
  if not owners:
    return []
  owner = max(owners, key=len)
  ours = ('runtime', 'papers', 'benchmarks', *SYSTEMS)
  return [
    name
    for name in names
    if (_is_in(name, ours) and not _is_in(name, ALLOWED[owner]))
    or _is_in(name, FORBIDDEN.get(owner, ()))
  ]


@functools.cache
def _imported(path):
  tree = ast.parse(path.read_text(encoding='utf-8'), str(path))
  return tuple(_imports(tree))


def test_arrows():
  found = {
    str(path): bad
    for path in _sources('runtime', 'papers', 'benchmarks', *SYSTEMS)
    if (bad := _violations(_module(path), _imported(path)))
  }
  assert found == {}


@pytest.mark.parametrize(
  ('module', 'line', 'caught'),
  [
    ('runtime.loop', 'from performer import train_lib', True),
    ('runtime.loop', 'import rl.es.workers', True),
    ('runtime.loop', 'from runtime.devices import mesh', False),
    ('performer.attention.kernels', 'from flax import linen as nn', True),
    ('performer.attention.kernels', 'from runtime import mesh', True),
    ('performer.attention.kernels', 'from performer import models', True),
    ('performer.attention.kernels', 'import jax', False),
    ('performer.train_lib', 'from runtime import loop', False),
    ('rl.ppo.models', 'from performer.attention import favor', False),
    ('rl.ppo.models', 'from performer import models', True),
    ('rl.ppo.models', 'from hpo import ufom', True),
    ('hpo.ufom.train_lib', 'from rl import actors', False),
    ('benchmarks.rl', 'from rl.ppo import algorithm', False),
    ('rl.ppo.models', 'from benchmarks import harness', True),
    ('papers.ufom.fewshot', 'from rl.odetoode import bodies', False),
    ('hpo.ufom.train_lib', 'from papers import claims', True),
  ],
)
def test_arrows_catch_a_planted_import(module, line, caught):
  assert bool(_violations(module, _imports(ast.parse(line)))) is caught


@pytest.mark.parametrize(
  ('libraries', 'packages', 'importing'),
  [
    (
      ['gin'],
      ['runtime', 'scripts', 'papers', 'benchmarks', *SYSTEMS],
      {
        f'runtime.config.{name}'
        for name in ('sessions', 'bindings', 'gin_state', 'reader')
      },
    ),
    (
      ['absl.flags', 'absl.app'],
      ['runtime', 'papers', *SYSTEMS],
      {'runtime.launch'},
    ),
    (['matplotlib'], ['papers'], {'papers.figures'}),
  ],
)
def test_libraries_are_imported_in_one_place(libraries, packages, importing):
  """Gin by the configuration, flags by the launcher, pictures by one module."""
  assert importing == {
    _module(path)
    for path in _sources(*packages)
    if any(_is_in(name, libraries) for name in _imported(path))
  }


def test_nothing_skips_unknown_names():
  texts = {path: path.read_text() for path in _sources('runtime', *SYSTEMS)}
  assert [str(p) for p, text in texts.items() if 'skip_unknown' in text] == []


def test_gin_files_use_dynamic_registration():
  for path in sorted((ROOT / 'configs').rglob('*.gin')):
    lines = [line.strip() for line in path.read_text().splitlines()]
    first = next(line for line in lines if line and not line.startswith('#'))
    assert first == 'from __gin__ import dynamic_registration', path


def test_imports_need_neither_gin_nor_a_device():
  """jax.distributed must be first to touch a backend; imports come before."""
  # What restores runs reads their configurations.
  readers = {'restored', 'evaluate', 'report', 'compare', 'generate', 'sweep'}
  modules = [
    _module(path)
    for path in _sources('runtime', 'performer', 'hpo')
    if path.parent.name != 'config'
    and (path.parent.name, path.stem)
    not in {
      ('sweeping', 'reporting'),
      *((room, name) for room in ('runtime', 'performer') for name in readers),
    }
  ]
  code = (
    'import importlib, sys\n'
    f'for name in {modules!r}: importlib.import_module(name)\n'
    'from jax._src import xla_bridge\n'
    'assert "gin" not in sys.modules, "gin"\n'
    'assert not xla_bridge.backends_are_initialized(), "device"\n'
  )
  done = subprocess.run(
    [sys.executable, '-c', code],
    cwd=ROOT,
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 0, done.stderr


def test_private_parts_of_gin_are_named_in_one_file():
  found = {
    _module(path)
    for path in _sources('runtime')
    if 'gin_config._' in path.read_text()
  }
  assert found == {'runtime.config.gin_state'}
