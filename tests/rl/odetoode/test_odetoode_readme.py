"""The python block of the README runs as it stands."""

import pathlib
import re

from rl import odetoode

TEXT = (pathlib.Path(odetoode.__file__).parent / 'README.md').read_text()


def test_in_your_own_code(capsys):
  (block,) = re.findall(r'^```python\n(.*?)^```', TEXT, re.M | re.S)
  exec(block, {})
  assert float(capsys.readouterr().out) < 1e-5
