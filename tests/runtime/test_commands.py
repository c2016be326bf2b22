"""How commands end."""

import os
import shlex
import subprocess
import sys

import pytest

from runtime import commands


def test_a_mistake_is_one_line_and_exit_code_2(capsys):
  def main():
    raise ValueError('rate must be positive, got -1')

  with pytest.raises(SystemExit) as ended:
    commands.run(main)
  assert ended.value.code == 2
  assert capsys.readouterr().err == 'error: rate must be positive, got -1\n'


def test_a_reader_that_goes_away_is_no_mistake():
  code = (
    'from runtime import commands\n'
    "commands.run(lambda: [print('x' * 99) for _ in range(9999)])"
  )
  with subprocess.Popen(
    [sys.executable, '-c', code], stdout=subprocess.PIPE, stderr=subprocess.PIPE
  ) as process:
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr.read() == b''
  assert process.returncode == 1


@pytest.mark.parametrize('closed', ['2>&-', '1>&- 2>&-'])
def test_streams_that_are_closed_or_narrow_end_no_command(tmp_path, closed):
  """A shell's `2>&-`, and a terminal without the character."""
  program = """
import pathlib, sys
from runtime import commands
def main():
  print('\\u2713')
  print('unseen', file=sys.stderr, flush=True)
  pathlib.Path(sys.argv[1]).write_text('end')
commands.run(main)
"""
  done = subprocess.run(
    f'{sys.executable} -c {shlex.quote(program)} {tmp_path / "end"} {closed}',
    shell=True,
    env=dict(os.environ, PYTHONIOENCODING='ascii'),
    stdout=subprocess.PIPE,
    text=True,
    check=True,
  )
  assert done.stdout == ('' if '1>' in closed else '\\u2713\n')
  assert (tmp_path / 'end').read_text() == 'end'


def test_a_path_of_the_home_is_expanded_and_a_url_refused(monkeypatch, capsys):
  monkeypatch.setenv('HOME', '/home/ada')
  parser = commands.plain('')
  parser.add_argument('--output', type=commands.path)
  found = parser.parse_args(['--output=~/tuned']).output
  assert str(found) == '/home/ada/tuned'
  with pytest.raises(SystemExit):
    parser.parse_args(['--output=s3://mine/x'])
  assert 's3://mine/x is a URL' in capsys.readouterr().err
