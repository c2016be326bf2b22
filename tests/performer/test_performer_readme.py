"""Every python block of the READMEs runs as it stands."""

import pathlib
import re

import pytest

import performer

FOLDER = pathlib.Path(performer.__file__).parent
TEXT = (FOLDER / 'README.md').read_text()
SLIM_TEXT = (FOLDER / 'slim' / 'README.md').read_text()


def blocks(text):
  return dict(
    re.findall(
      r'^## ([^\n]+)\n(?:(?!^## ).)*?^```python\n(.*?)^```', text, re.M | re.S
    )
  )


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
  assert TEXT.count('```python') == len(BLOCKS)


def test_plug_in(capsys):
  names, _ = run('Using it in your own model', capsys)
  assert names['y'].shape == (2, 200, 64)


@pytest.mark.slow
def test_layer_errors(capsys):
  _, printed = run('Loading pretrained weights', capsys)
  assert 'attention' in printed
  assert 'logits' in printed


def test_decoding(capsys):
  _, printed = run('Decoding', capsys)
  assert printed.count('[') == 3  # Two rows of tokens.


@pytest.mark.slow
def test_norms(capsys):
  _, printed = run('How large are your norms?', capsys)
  assert '|x+y|^2' in printed
  for word in ('softmax_hyp', 'softmax_pos', 'recommended'):
    assert word in printed


def test_slim(capsys):
  found = blocks(SLIM_TEXT)
  assert SLIM_TEXT.count('```python') == len(found) == 1
  names, _ = run('In your own code', capsys, found)
  assert names['found'].drift.max() < 1e-4
