"""The python block of the README runs as it stands."""

import pathlib
import re

from hpo import optformer

TEXT = (pathlib.Path(optformer.__file__).parent / 'README.md').read_text()


def test_in_your_own_code(capsys):
  for block in re.findall(r'^```python\n(.*?)^```', TEXT, re.M | re.S):
    exec(compile(block, 'README', 'exec'), {})
  assert capsys.readouterr().out == '2 (2,) (2,)\n'
