"""The python blocks of the README run as they stand, one after the other."""

import pathlib
import re

from hpo import ufom

TEXT = (pathlib.Path(ufom.__file__).parent / 'README.md').read_text()


def test_in_your_own_code(capsys):
  names = {}
  for block in re.findall(r'^```python\n(.*?)^```', TEXT, re.M | re.S):
    exec(compile(block, 'README', 'exec'), names)
  printed = capsys.readouterr().out.split()
  value, decay, skipped, added, first_order, exact = map(float, printed)
  assert value < 0.1  # From 3.6 and more without a start that is learnt.
  assert decay < 0
  assert skipped == 0
  assert added != 0
  assert abs(first_order - 0.12) < 0.005
  assert exact < 0.001
