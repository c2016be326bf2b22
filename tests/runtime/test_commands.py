"""How commands end."""

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
