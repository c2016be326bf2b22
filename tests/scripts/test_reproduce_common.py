"""What scripts that write rows share."""

import json
import shlex

import pytest


def test_a_claim_holds_if_all_its_parts_do(load):
  combine = load('reproduce_common').combine
  assert combine(['holds', 'holds']) == 'holds'
  assert combine(['holds', 'inconclusive']) == 'inconclusive'
  assert combine(['inconclusive', 'fails', 'holds']) == 'fails'
  with pytest.raises(ValueError, match='needs a part'):
    combine([])


def test_rows_are_written_with_the_command_that_makes_them(load, tmp_path):
  common = load('reproduce_common')
  parser = common.parser('Text.', ['one', 'two'])
  parser.add_argument('--file')
  parser.add_argument('--unused')
  root = tmp_path / 'results'
  args = parser.parse_args(
    ['two', '--seeds=2', f'--root={root}', '--file', 'a b']
  )
  seen = []

  def experiment(scale, seeds):
    seen.append((scale, seeds))
    fields = {
      'id': 'x',
      'claim': 'c',
      'ours': {'a': (1.0, 2.0)},
      'published': 'not found',
      'trend': 't',
      'verdict': 'holds',
      'explanation': 'e',
    }
    return [common.Finding(fields, lambda path: path.write_bytes(b'png'))]

  common.publish(
    args, experiment, script='s.py', paper='1', options=('file', 'unused')
  )
  assert seen == [('tiny', (0, 1))]
  row = json.loads((root / '1' / 'x.json').read_text())
  assert shlex.split(row['command']) == [
    *('python', 'scripts/s.py', 'two', '--scale', 'tiny', '--seeds', '2'),
    *('--file', 'a b'),
  ]
  assert row['seeds'] == [0, 1]
  assert (root / '1' / 'x.png').exists()
  assert 'x' in (tmp_path / 'results.md').read_text()


@pytest.mark.parametrize(
  ('words', 'message'),
  [
    (['three'], 'invalid choice'),
    (['one', '--seeds=0'], 'must be positive, got 0'),
    (['one', '--seeds=few'], 'invalid _count value'),
    (['one', '--scale=huge'], 'invalid choice'),
  ],
)
def test_bad_arguments_are_refused(load, capsys, words, message):
  parser = load('reproduce_common').parser('Text.', ['one', 'two'])
  with pytest.raises(SystemExit):
    parser.parse_args(words)
  assert message in capsys.readouterr().err


@pytest.mark.parametrize('name', ['performer', 'slim'])
def test_every_script_tells_its_options(load, capsys, name):
  with pytest.raises(SystemExit, match='0'):
    load(f'reproduce_{name}').main(['--help'])
  assert '--scale' in capsys.readouterr().out
