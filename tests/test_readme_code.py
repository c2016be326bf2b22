"""Python blocks of READMEs run as they stand, one after the other."""

import ast
import pathlib
import re

import numpy as np
import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
CONFIGS = ROOT / 'configs' / 'rl'


def readme(package):
  return (ROOT / package / 'README.md').read_text()


@pytest.fixture
def run(capsys):
  """Runs the blocks of a package; returns their names and what they print."""

  def call(package, first=0, last=None):
    names = {}
    blocks = re.findall(r'^```python\n(.*?)^```', readme(package), re.M | re.S)
    for block in blocks[first:last]:
      exec(compile(block, package, 'exec'), names)
    return names, capsys.readouterr().out

  return call


def test_performer(run):
  names, _ = run('performer', 0, 1)
  assert names['y'].shape == (2, 200, 64)


@pytest.mark.slow
def test_performer_s_other_sections(run):
  """Pretrained weights, the shipped model, decoding, norms: each stands alone."""
  sections = (1, 2), (2, 3), (3, 4), (4, None)
  parts = [run('performer', *blocks) for blocks in sections]
  errors, scores, tokens, norms = (printed for _, printed in parts)
  assert 'attention' in errors
  assert 'logits' in errors
  assert '(1, 100, 192)' in scores
  assert tokens.count('[') == 3  # Two rows of tokens.
  for word in ('|x+y|^2', 'softmax_hyp', 'softmax_pos', 'recommended'):
    assert word in norms
  assert parts[-1][0]['found'].relative_mse.shape == (2, 3)


def test_slim(run):
  names, _ = run('performer/slim')
  assert names['found'].drift.max() < 1e-4


def test_an_agent(run):
  assert float(run('rl', 0, 1)[1]) > 5


@pytest.mark.slow
def test_functions_are_minimised_and_searches_asked_and_told(run):
  pytest.importorskip('cmaes')
  strategy, x, best, cma = run('rl', 1, 2)[1].split()
  assert float(strategy) < 0.1
  assert float(cma) < 1e-3
  assert (x, best) == ('(10,)', '(200,)')
  assert 0.5 < float(run('rl', 2)[1]) < 1.5


def test_odetoode(run):
  defect, value, other, *shape = run('rl/odetoode')[1].split(maxsplit=3)
  assert float(defect) < 1e-5
  assert float(value) < 0.05
  assert float(other) < 1e-5
  assert shape == ['(11, 3, 3)\n']


@pytest.mark.slow
def test_implicit_attention(run):
  names, printed = run('rl/implicit_attention')
  chosen, rest = printed.split(']', 1)
  assert len(chosen.split()) >= 10
  total, size, action, *_ = rest.split()
  assert abs(float(total) - 4096) < 1
  assert int(size) == names['policy'].size
  assert int(action) in (0, 1, 2)
  assert "'kernel': (4, 4, 3, 8)" in rest


@pytest.mark.slow
def test_optformer(run):
  names, _ = run('hpo/optformer')
  assert names['optimizer'].best.value < 0.5
  mean, high = names['forecast'].mean, names['forecast'].quantile(0.9)
  assert mean.shape == high.shape == (2,)
  assert (mean < high).all()


def test_ufom(run):
  found = map(float, run('hpo/ufom')[1].split())
  value, decay, skipped, added, first_order, exact = found
  assert value < 0.1  # From 3.6 and more without a start that is learnt.
  assert decay < 0
  assert skipped == 0
  assert added != 0
  assert abs(first_order - 0.12) < 0.005
  assert exact < 0.001


@pytest.mark.slow
def test_autorl(run):
  lines = run('hpo/autorl')[1].splitlines()
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


@pytest.mark.slow
def test_es_enas(run):
  names, printed = run('nas/es_enas')
  first, second, alone, drawn = printed.splitlines()
  assert first.startswith("{'colors': [")
  # 8 weights and 16 biases for 64 edges.
  assert float(first.split()[-1]) == np.float32(1 - 24 / 80)
  # 128 kernel entries may be kept, and 33 biases are as they were.
  assert second.split() == [str(128 + 33), '64']
  assert np.abs(names['state'].theta).max() > 0
  assert alone == "{'kind': [2, 2, 2, 2, 2]}"
  assert drawn == 'True'


@pytest.mark.slow
def test_rl_darts(run):
  accuracy, one, two, three = run('nas/rl_darts')[1].splitlines()
  assert float(accuracy) > 0.8  # Guessing gives 0.1.
  assert one == '(4, 32) True'
  assert two == '(3, 4, 32)'
  edges = {'edges': (3, 3)}
  assert three == str({'layers_0': {'normal': edges, 'reduction': edges}})


def test_configurations_of_rl_exist():
  text = readme('rl')
  names = re.findall(r'^\| (`.*?`)(?:(?: \+|,) (`.*?`))?[ ,|]', text, re.M)
  named = {n.strip('`') for pair in names for n in pair if n}
  named = {n for n in named if '/' not in n and '.' not in n}
  # ODEtoODE and the policies from pixels list their own.
  others = r'(iap|attention_agent)_|.*base$|odetoode_(?!.*_tiny$)'
  ours = {path.stem for path in CONFIGS.glob('*.gin')}
  assert named >= {name for name in ours if not re.match(others, name)}
  assert named <= ours


def test_configurations_of_implicit_attention_exist():
  text = readme('rl/implicit_attention')
  named = set(re.findall(r'^\| `(\w+\.gin)`', text, re.M))
  ours = [*CONFIGS.glob('iap_*.gin'), *CONFIGS.glob('attention_agent_*.gin')]
  assert named == {p.name for p in ours if not p.name.endswith('base.gin')}
