"""Names are defined: ruff leaves that out, over the shapes of jaxtyping."""

import json
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]


def undefined(*paths):
  """Undefined names in code, not in strings such as Float[Array, 'b l']."""
  command = [sys.executable, '-m', 'ruff', 'check', '--isolated']
  command += ['--select=F821', '--output-format=json', '--exit-zero', *paths]
  done = subprocess.run(
    command, cwd=ROOT, check=True, capture_output=True, text=True
  )
  found = []
  for error in json.loads(done.stdout):
    place = error['location']
    lines = pathlib.Path(error['filename']).read_text().splitlines()
    before = lines[place['row'] - 1][: place['column'] - 1]
    if not (before.count("'") % 2 or before.count('"') % 2):
      found.append(f'{error["filename"]}:{place["row"]}: {error["message"]}')
  return found


def test_all_names_are_defined():
  folders = ['performer', 'rl', 'nas', 'hpo', 'runtime', 'papers', 'benchmarks']
  assert undefined(*folders, 'scripts', 'tests') == []


def test_an_undefined_name_would_be_found(tmp_path):
  (tmp_path / 'a.py').write_text("def f(x: 'b l') -> 'n':\n  return y\n")
  (found,) = undefined(str(tmp_path))
  assert 'a.py:2' in found
