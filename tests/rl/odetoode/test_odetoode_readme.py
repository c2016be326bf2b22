"""Every python block of the README runs as it stands."""

import pathlib
import re

from rl import odetoode

TEXT = (pathlib.Path(odetoode.__file__).parent / 'README.md').read_text()


BLOCKS = re.findall(r'^```python\n(.*?)^```', TEXT, re.M | re.S)


def test_a_classifier(capsys):
  exec(BLOCKS[0], {})
  assert float(capsys.readouterr().out) < 1e-5


def test_evolution_and_the_flow(capsys):
  names = {}
  for block in BLOCKS[1:]:
    exec(block, names)
  value, defect, *shape = capsys.readouterr().out.split(maxsplit=2)
  assert float(value) < 0.05
  assert float(defect) < 1e-5
  assert shape == ['(11, 3, 3)\n']
