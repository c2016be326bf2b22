"""The python blocks of the README run as they stand, one after the other."""

import pathlib
import re

import pytest

from nas import rl_darts

TEXT = (pathlib.Path(rl_darts.__file__).parent / 'README.md').read_text()


@pytest.mark.slow
def test_in_your_own_code(capsys):
  names = {}
  for block in re.findall(r'^```python\n(.*?)^```', TEXT, re.M | re.S):
    exec(compile(block, 'README', 'exec'), names)
  accuracy, one, two, three = capsys.readouterr().out.splitlines()
  assert float(accuracy) > 0.8  # Guessing gives 0.1.
  assert one == '(4, 32) True'
  assert two == '(3, 4, 32)'
  edges = {'edges': (3, 3)}
  assert three == str({'layers_0': {'normal': edges, 'reduction': edges}})
