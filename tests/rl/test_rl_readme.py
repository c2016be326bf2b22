"""The python block of the README runs as it stands."""

import pathlib
import re

import rl

TEXT = (pathlib.Path(rl.__file__).parent / 'README.md').read_text()


def test_in_your_own_code(capsys):
  (block,) = re.findall(r'^```python\n(.*?)^```', TEXT, re.M | re.S)
  exec(block, {})
  assert float(capsys.readouterr().out) > 5


def test_configurations_exist():
  folder = pathlib.Path(rl.__file__).parent.parent / 'configs' / 'rl'
  names = re.findall(r'^\| (`.*?`)(?:(?: \+|,) (`.*?`))?[ ,|]', TEXT, re.M)
  named = {n.strip('`') for pair in names for n in pair if n}
  named = {n for n in named if '/' not in n and '.' not in n}
  assert {f'{n}.gin' for n in named} >= {
    path.name
    for path in folder.glob('*.gin')
    # ODEtoODE lists its own.
    if path.name.endswith('_tiny.gin')
    or not (path.name.startswith('odetoode_') or path.name.endswith('base.gin'))
  }
  for name in named:
    assert (folder / f'{name}.gin').exists()
