"""The list of slow tests names tests that exist."""

import pathlib
import re

ROOT = pathlib.Path(__file__).parent.parent


def test_listed_tests_exist():
  lines = (ROOT / 'tests' / 'slow.txt').read_text().splitlines()
  nodes = [line for line in lines if not line.startswith('#')]
  assert nodes == sorted(set(nodes))
  for node in nodes:
    file, name = re.fullmatch(r'(.+?)::(\w+)(\[.+\])?', node).group(1, 2)
    assert f'def {name}(' in (ROOT / file).read_text(), node
