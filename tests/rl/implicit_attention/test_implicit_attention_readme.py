"""The python blocks of the README run as they stand, one after the other."""

import pathlib
import re

from rl import implicit_attention

FOLDER = pathlib.Path(implicit_attention.__file__).parent
TEXT = (FOLDER / 'README.md').read_text()


def test_in_your_own_code(capsys):
  names = {}
  for block in re.findall(r'^```python\n(.*?)^```', TEXT, re.M | re.S):
    exec(compile(block, 'README', 'exec'), names)
  chosen, rest = capsys.readouterr().out.split(']', 1)
  assert len(chosen.split()) >= 10
  total, size, action, *_ = rest.split()
  assert abs(float(total) - 4096) < 1
  assert int(size) == names['policy'].size
  assert int(action) in (0, 1, 2)
  assert "'kernel': (4, 4, 3, 8)" in rest


def test_configurations_exist():
  folder = FOLDER.parent.parent / 'configs' / 'rl'
  named = set(re.findall(r'^\| `(\w+\.gin)`', TEXT, re.M))
  ours = [*folder.glob('iap_*.gin'), *folder.glob('attention_agent_*.gin')]
  assert named == {p.name for p in ours if not p.name.endswith('base.gin')}
