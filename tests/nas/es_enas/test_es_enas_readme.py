"""The python blocks of the README run as they stand, one after the other."""

import pathlib
import re

import numpy as np
import pytest

from nas import es_enas

TEXT = (pathlib.Path(es_enas.__file__).parent / 'README.md').read_text()


@pytest.mark.slow
def test_in_your_own_code(capsys):
  names = {}
  for block in re.findall(r'^```python\n(.*?)^```', TEXT, re.M | re.S):
    exec(compile(block, 'README', 'exec'), names)
  first, second, alone, drawn = capsys.readouterr().out.splitlines()
  assert first.startswith("{'colors': [")
  # 8 weights and 16 biases for 64 edges.
  assert float(first.split()[-1]) == np.float32(1 - 24 / 80)
  # 128 kernel entries may be kept, and 33 biases are as they were.
  assert second.split() == [str(128 + 33), '64']
  assert np.abs(names['state'].theta).max() > 0
  assert alone == "{'kind': [2, 2, 2, 2, 2]}"
  assert drawn == 'True'
