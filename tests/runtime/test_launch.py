"""The command line: flags, messages, exit codes, hosts."""

import logging as std_logging
import os
import pathlib
import socket
import subprocess
import sys
import textwrap

import pytest
from absl import flags
from absl.testing import flagsaver

from runtime import context, launch
from runtime import errors as run_errors
from runtime.config import errors
from runtime.config import files as files_lib

HERE = pathlib.Path(__file__).parent
HEADER = 'from __gin__ import dynamic_registration\nimport toys\n'
PROGRAM = '''\
"""Trains the toy."""

from runtime import launch

if __name__ == '__main__':
  launch.run('toys.train')
'''


@pytest.fixture
def toy(toy, monkeypatch, tmp_path):
  monkeypatch.chdir(tmp_path)
  (tmp_path / 'toy.gin').write_text(
    HEADER + 'STEPS = 3\ntoys.train.steps = %STEPS\n'
  )
  return toy


@pytest.fixture
def main():
  """Runs `launch` inside this process; returns what the root got."""
  if 'gin_file' not in flags.FLAGS:
    launch.define_flags(flags.FLAGS)

  def call(root, *args):
    with flagsaver.flagsaver():
      flags.FLAGS.unparse_flags()
      allow = '--allow_module=toys'
      argv = flags.FLAGS(['program', allow, *args])
      return launch._main(root, argv)

  with flagsaver.flagsaver():
    yield call


@pytest.fixture
def calls(toy, monkeypatch):
  """What a root that only notes its arguments was called with."""
  found = []

  def train(*, workdir, seed, context, steps: int = 1):
    found.append((workdir, seed, context, steps))

  monkeypatch.setattr(toy, 'train', train)
  return found


@pytest.fixture
def refused(main, capsys):
  """Ends with an exit code; returns what was printed of the error."""

  def call(code, *args):
    with pytest.raises(SystemExit) as stopped:
      main(*args)
    assert stopped.value.code == code
    return capsys.readouterr().err

  return call


def test_root_gets_flags_and_context(toy, main, calls):
  words = ['--gin_file=toy.gin', '--gin_param=STEPS = 4', '--seed=7']
  words += ['--dry_run', '--allow_config_change', '--profile_steps=5']
  main(toy.train, *words)
  ((workdir, seed, given, steps),) = calls
  assert (workdir, seed, steps) == ('runs/toy-seed7', 7, 4)
  assert isinstance(given, context.RunContext)
  assert given.dry_run
  assert given.allow_config_change
  assert given.profile_steps == 5
  assert 'STEPS = 4' in given.config
  assert given.argv == tuple(sys.argv)


def _host(index, address='localhost:1'):
  """Flags of one of two processes."""
  words = [f'--coordinator_address={address}', '--num_processes=2']
  return [*words, f'--process_id={index}']


@pytest.mark.parametrize(
  ('args', 'message'),
  [
    (['extra'], "unexpected argument 'extra'"),
    (['--gin_file=toi.gin'], 'did you mean toy.gin?'),
    (['--gin_param=STEP=1'], 'did you mean STEPS?'),
    (['--gin_param=STEPS=-1'], 'got steps=-1 (STEPS sets steps)\n'),
    (['--process_id=1'], 'missing: --coordinator'),
    (_host(2), 'values.process_id=2 values.num_processes=2'),
    (
      _host(0, 'host:port'),
      "--coordinator_address must be HOST:PORT, such as 10.0.0.1:8476, got 'ho",
    ),
    (
      [*_host(1), '--distributed'],
      '--distributed reads the hosts from the cluster',
    ),
  ],
)
def test_mistake_is_one_message_and_exit_code_2(toy, refused, args, message):
  told = refused(2, toy.train, '--gin_file=toy.gin', *args)
  assert told.startswith('error: ')
  assert told.count('error: ') == 1
  assert message in told
  assert 'Traceback' not in told
  assert 'In call to configurable' not in told


def test_no_file_shows_an_example_that_exists(
  toy, refused, monkeypatch, tmp_path
):
  folder = tmp_path / 'configs' / 'toys'
  folder.mkdir(parents=True)
  for name in ('large.gin', 'small_tiny.gin'):
    (folder / name).write_text(HEADER)
  monkeypatch.setattr(files_lib, 'PROJECT_ROOT', tmp_path)
  expected = '--gin_file=configs/toys/small_tiny.gin\n'
  assert refused(2, 'toys.train').endswith(expected)


def test_debug_keeps_the_exception(toy, main):
  args = ['--gin_file=toy.gin', '--gin_param=STEPS=-1', '--debug']
  with pytest.raises(ValueError, match='steps must not be negative'):
    main(toy.train, *args)


def test_error_after_the_start_keeps_its_traceback(toy, main):
  with pytest.raises(ValueError, match='training went wrong'):
    main(toy.train, '--gin_file=toy.gin', '--gin_param=STEPS=13')


def test_other_errors_are_never_swallowed(toy, main, monkeypatch):
  def train(*, workdir, seed, context):
    raise RuntimeError('a bug')

  monkeypatch.setattr(toy, 'train', train)
  pathlib.Path('empty.gin').write_text(HEADER)
  with pytest.raises(RuntimeError, match='a bug'):
    main(toy.train, '--gin_file=empty.gin')


def test_usage_lists_every_flag_of_the_launcher(main):
  usage = launch._usage()
  values = flags.FlagValues()
  launch.define_flags(values)
  for name in values:
    assert f'  --{name} ' in usage
  assert usage.index('--gin_file') < usage.index('--coordinator_address')
  assert 'repeat this option' not in usage


def _record(path, level):
  return std_logging.LogRecord('absl', level, path, 1, 'text', (), None)


def test_information_of_libraries_is_not_shown():
  ours = str(files_lib.PROJECT_ROOT / 'runtime' / 'loop.py')
  library = str(
    files_lib.PROJECT_ROOT / '.venv/lib/site-packages/orbax/save.py'
  )
  assert launch._is_ours(_record(ours, std_logging.INFO))
  assert not launch._is_ours(_record(library, std_logging.INFO))
  assert not launch._is_ours(_record('/elsewhere/x.py', std_logging.INFO))
  assert launch._is_ours(_record(library, std_logging.WARNING))


def _start(folder, *args, program=PROGRAM):
  """Starts the program in a process of its own."""
  path = folder / 'program.py'
  path.write_text(program)
  environment = dict(os.environ, JAX_PLATFORMS='cpu')
  environment['PYTHONPATH'] = f'{HERE}{os.pathsep}{files_lib.PROJECT_ROOT}'
  return subprocess.Popen(
    [sys.executable, str(path), *args],
    cwd=folder,
    env=environment,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )


def _finish(process):
  out, err = process.communicate(timeout=120)
  return process.returncode, out, err


def test_process_succeeds_and_prints_its_workdir(toy, tmp_path):
  code, _, err = _finish(_start(tmp_path, '--gin_file=toy.gin'))
  assert code == 0, err
  assert 'workdir: runs/toy' in err
  text = (tmp_path / 'runs/toy/operative.gin').read_text()
  assert 'toys.train.steps = %STEPS' in text


def test_help_and_mistakes_in_flags_need_no_jax(toy, tmp_path):
  blocked = tmp_path / 'jax'
  blocked.mkdir()
  (blocked / '__init__.py').write_text('raise RuntimeError("imported")')
  cases = {
    ('--help',): (0, ''),
    ('--gin_fil=x',): (2, 'Did you mean: gin_file ?'),
    ('--seed=-1',): (2, '--seed=-1'),
    (): (2, 'error: no configuration given'),
  }
  running = {args: _start(tmp_path, *args) for args in cases}
  for args, (code, message) in cases.items():
    got, out, err = _finish(running[args])
    assert got == code, err
    assert message in err
    assert 'Traceback' not in err
    if args == ('--help',):
      assert out.startswith('Trains the toy.\n\nUsage: python ')


def test_two_processes_join_and_one_speaks(toy, tmp_path):
  (tmp_path / 'hosts.py').write_text(
    textwrap.dedent('''\
    """A root that counts processes."""

    def train(*, workdir, seed, context):
      import jax
      from absl import logging

      logging.warning('count %d', jax.process_count())
    ''')
  )
  (tmp_path / 'hosts.gin').write_text(
    'from __gin__ import dynamic_registration\nimport hosts\n'
  )
  with socket.socket() as free:
    free.bind(('localhost', 0))
    port = free.getsockname()[1]
  program = PROGRAM.replace('toys', 'hosts')
  words = [
    ['--gin_file=hosts.gin', *_host(i, f'localhost:{port}')] for i in (0, 1)
  ]
  running = [_start(tmp_path, *args, program=program) for args in words]
  results = [_finish(process) for process in running]
  for code, _, err in results:
    assert code == 0, err
    assert 'count 2' in err
  assert 'workdir: runs/hosts' in results[0][2]
  assert 'workdir' not in results[1][2]


def test_overlays_and_seeds_have_workdirs_of_their_own(toy, main, calls):
  pathlib.Path('more.gin').write_text(HEADER)
  main(toy.train, '--gin_file=toy.gin', '--gin_file=more.gin', '--seed=2')
  # The root by its name.
  main('toys.train', '--gin_file=toy.gin', '--workdir=~/x')
  assert calls[0][0] == 'runs/toy-more-seed2'
  assert calls[1][:2] == (os.path.expanduser('~/x'), 0)


@pytest.mark.parametrize(
  ('error', 'code'),
  [
    (errors.ConfigError('found in the first step'), 2),
    (run_errors.RunError('the disk is full'), 1),
  ],
)
def test_a_late_error_is_one_message(toy, refused, monkeypatch, error, code):
  def train(*, workdir, seed, context, steps: int = 1):
    context.on_start()
    raise error

  monkeypatch.setattr(toy, 'train', train)
  told = refused(code, toy.train, '--gin_file=toy.gin')
  assert told == f'error: {error}\n'


def test_seeds_that_would_repeat_are_refused(toy, main):
  with pytest.raises(flags.IllegalFlagValueError, match='4294967295'):
    main(toy.train, '--gin_file=toy.gin', f'--seed={2**32}')
