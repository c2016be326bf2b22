"""The python blocks of the README run as they stand."""

import pathlib
import re

import pytest

import rl

TEXT = (pathlib.Path(rl.__file__).parent / 'README.md').read_text()


BLOCKS = re.findall(r'^```python\n(.*?)^```', TEXT, re.M | re.S)


def printed(block, capsys):
  exec(block, {})
  return capsys.readouterr().out.split()


def test_an_agent_in_your_own_code(capsys):
  assert float(printed(BLOCKS[0], capsys)[0]) > 5


@pytest.mark.slow
def test_a_function_is_minimised(capsys):
  pytest.importorskip('cmaes')
  strategy, x, best, cma = printed(BLOCKS[1], capsys)
  assert float(strategy) < 0.1
  assert float(cma) < 1e-3
  assert (x, best) == ('(10,)', '(200,)')


@pytest.mark.slow
def test_a_search_is_asked_and_told(capsys):
  assert len(BLOCKS) == 3
  (mean,) = printed(BLOCKS[2], capsys)
  assert 0.5 < float(mean) < 1.5


def test_configurations_exist():
  folder = pathlib.Path(rl.__file__).parent.parent / 'configs' / 'rl'
  names = re.findall(r'^\| (`.*?`)(?:(?: \+|,) (`.*?`))?[ ,|]', TEXT, re.M)
  named = {n.strip('`') for pair in names for n in pair if n}
  named = {n for n in named if '/' not in n and '.' not in n}
  assert {f'{n}.gin' for n in named} >= {
    path.name
    for path in folder.glob('*.gin')
    # ODEtoODE and the policies from pixels list their own.
    if not path.name.startswith(('iap_', 'attention_agent_'))
    and (
      path.name.endswith('_tiny.gin')
      or (
        not path.name.startswith('odetoode_')
        and not path.name.endswith('base.gin')
      )
    )
  }
  for name in named:
    assert (folder / f'{name}.gin').exists()
