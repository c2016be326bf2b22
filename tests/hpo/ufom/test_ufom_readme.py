"""The python block of the README runs as it stands."""

import pathlib
import re

from hpo import ufom

TEXT = (pathlib.Path(ufom.__file__).parent / 'README.md').read_text()


def test_in_your_own_code(capsys):
  (block,) = re.findall(r'^```python\n(.*?)^```', TEXT, re.M | re.S)
  exec(compile(block, 'README', 'exec'), {})
  value, decay = map(float, capsys.readouterr().out.split())
  assert value < 0.1  # From 3.6 and more without a start that is learnt.
  assert decay < 0
