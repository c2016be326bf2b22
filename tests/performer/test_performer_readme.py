"""Every python block of the READMEs runs as it stands."""

import pathlib
import re

import pytest

import performer

FOLDER = pathlib.Path(performer.__file__).parent
TEXT = (FOLDER / 'README.md').read_text()
SLIM_TEXT = (FOLDER / 'slim' / 'README.md').read_text()


def blocks(text):
  """The code of every section that has any, by its title."""
  sections = re.findall(r'^## ([^\n]+)\n(.*?)(?=^## |\Z)', text, re.M | re.S)
  found = {
    title: re.findall(r'^```python\n(.*?)^```', body, re.M | re.S)
    for title, body in sections
  }
  assert text.count('```python') == sum(map(len, found.values()))
  return {title: '\n'.join(code) for title, code in found.items() if code}


BLOCKS = blocks(TEXT)


def run(title, capsys, found=BLOCKS):
  namespace = {}
  exec(compile(found[title], title, 'exec'), namespace)
  return namespace, capsys.readouterr().out


def test_no_block_is_forgotten():
  assert set(BLOCKS) == {
    'Using it in your own model',
    'Loading pretrained weights',
    'Decoding',
    'How large are your norms?',
  }


def test_plug_in(capsys):
  names, _ = run('Using it in your own model', capsys)
  assert names['y'].shape == (2, 200, 64)


@pytest.mark.slow
def test_layer_errors(capsys):
  _, printed = run('Loading pretrained weights', capsys)
  assert 'attention' in printed
  assert 'logits' in printed


@pytest.mark.slow
def test_decoding(capsys):
  _, printed = run('Decoding', capsys)
  assert printed.count('[') == 3  # Two rows of tokens.


@pytest.mark.slow
def test_norms(capsys):
  names, printed = run('How large are your norms?', capsys)
  assert '|x+y|^2' in printed
  for word in ('softmax_hyp', 'softmax_pos', 'recommended'):
    assert word in printed
  assert names['found'].relative_mse.shape == (2, 3)


def test_slim(capsys):
  found = blocks(SLIM_TEXT)
  assert len(found) == 1
  names, _ = run('In your own code', capsys, found)
  assert names['found'].drift.max() < 1e-4
