"""The python blocks of the README run as they stand, one after the other."""

import ast
import pathlib
import re

import pytest

from hpo import autorl

TEXT = (pathlib.Path(autorl.__file__).parent / 'README.md').read_text()


@pytest.mark.slow
def test_in_your_own_code(capsys):
  names = {}
  for block in re.findall(r'^```python\n(.*?)^```', TEXT, re.M | re.S):
    exec(compile(block, 'README', 'exec'), names)
  lines = capsys.readouterr().out.splitlines()
  best, goes_on, score, distance, arm, units, suggested = lines
  assert "'layers': 1" in best
  budget, parent = map(int, goes_on.split())
  assert budget == 3000
  assert parent in range(3)
  assert -1e-2 < float(score) <= 0
  assert float(distance) < 1e-2
  assert arm == '1'
  assert float(units) >= 8
  jobs = ast.literal_eval(suggested)
  assert [budget for budget, _ in jobs] == [3000] * 4
  assert all(4 <= parent < 8 for _, parent in jobs)
