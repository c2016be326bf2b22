"""Every python block of the README runs as it stands."""

import pathlib
import re

import performer

TEXT = (pathlib.Path(performer.__file__).parent / 'README.md').read_text()
BLOCKS = dict(
  re.findall(
    r'^## ([^\n]+)\n(?:(?!^## ).)*?^```python\n(.*?)^```', TEXT, re.M | re.S
  )
)


def run(title, capsys):
  namespace = {}
  exec(compile(BLOCKS[title], title, 'exec'), namespace)
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


def test_layer_errors(capsys):
  _, printed = run('Loading pretrained weights', capsys)
  assert 'attention' in printed
  assert 'logits' in printed


def test_decoding(capsys):
  _, printed = run('Decoding', capsys)
  assert printed.count('[') == 3  # Two rows of tokens.


def test_norms(capsys):
  _, printed = run('How large are your norms?', capsys)
  assert '|x+y|^2' in printed
  for word in ('softmax_hyp', 'softmax_pos', 'recommended'):
    assert word in printed
