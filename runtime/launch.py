"""The command line of every binary: flags, configuration, hosts, exit codes.

A binary is one call:

```python
if __name__ == '__main__':
  launch.run('performer.train_lib.train')
```

The root may be given by name, so that `--help` and a mistake in a flag answer
before JAX is imported. Exit codes: 0 when the root returns; 2 with one message
when the command line, the configuration or the input cannot be used; any other
error, and any after the start of training, keeps its traceback and exits with 1,
except for a `RunError`, such as a full disk: its message is enough.
"""

import contextlib
import functools
import importlib
import logging as std_logging
import os
import pathlib
import re
import sys
import threading
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from absl import app, flags, logging

from runtime import commands, context, paths, seeds
from runtime import errors as run_errors
from runtime.config import errors
from runtime.config import files as files_lib

__all__ = ['define_flags', 'run']

_FAILURE = 1
_MISTAKE = 2  # Exit code for what the user can put right.

_RUN_FLAGS = (
  'gin_file',
  'gin_param',
  'workdir',
  'seed',
  'dry_run',
  'allow_config_change',
  'allow_module',
  'init_from',
  'profile_steps',
  'debug',
)
_HOST_FLAGS = (
  'ray_address',
  'distributed',
  'coordinator_address',
  'num_processes',
  'process_id',
)


def define_flags(values: flags.FlagValues) -> None:
  """Defines the flags of a binary.

  Args:
    values: flag values to define them in; the process-wide `flags.FLAGS` in a
      binary.
  """
  add = {'flag_values': values}
  flags.DEFINE_multi_string(
    'gin_file', [], 'Gin file; repeat it, later files override.', **add
  )
  flags.DEFINE_multi_string(
    'gin_param', [], "Statement such as 'NUM_LAYERS = 4'; overrides.", **add
  )
  flags.DEFINE_string(
    'workdir',
    None,
    'Folder of the run; default: runs/ and the names of gin files and seed.',
    **add,
  )
  flags.DEFINE_integer(
    'seed', 0, 'Seed of all randomness.', 0, seeds.LARGEST, **add
  )
  flags.DEFINE_multi_string(
    'allow_module', [], 'Module that gin files may name; repeat it.', **add
  )
  flags.DEFINE_bool(
    'dry_run', False, 'Build and describe everything, then exit.', **add
  )
  flags.DEFINE_bool(
    'allow_config_change',
    False,
    'Continue in a workdir that another configuration wrote.',
    **add,
  )
  flags.DEFINE_string(
    'init_from', '', 'Workdir whose parameters a new run starts from.', **add
  )
  flags.DEFINE_integer(
    'profile_steps', 0, 'Trace so many early steps; 0: none.', 0, **add
  )
  flags.DEFINE_bool('debug', False, 'Show the traceback of every error.', **add)
  flags.DEFINE_string(
    'ray_address',
    None,
    'host:port of a Ray cluster; default: this machine.',
    **add,
  )
  flags.DEFINE_bool(
    'distributed', False, 'Join the hosts that the cluster names.', **add
  )
  flags.DEFINE_string(
    'coordinator_address', None, 'host:port of process 0.', **add
  )
  flags.DEFINE_integer('num_processes', None, 'Number of processes.', 1, **add)
  flags.DEFINE_integer('process_id', None, 'Number of this one.', 0, **add)


def run(root: Callable[..., Any] | str) -> None:
  """Runs a binary and exits.

  The root is called as `root(workdir=..., seed=..., context=...)`, the rest of
  its parameters comes from the gin files. It must call `context.on_start()`
  when everything is built and training starts.

  Args:
    root: the function, or its dotted name, which is then imported after the
      flags were read.
  """
  commands.mend_streams()
  define_flags(flags.FLAGS)
  app.run(functools.partial(_main, root), flags_parser=_parse)


def _main(root: Callable[..., Any] | str, argv: Sequence[str]) -> None:
  """Runs the root and turns a mistake of the user into one message."""
  values = flags.FLAGS
  started = threading.Event()
  try:
    if argv[1:]:
      raise ValueError(
        f'unexpected argument {argv[1]!r}: use --gin_file or --gin_param'
      )
    _check_host_flags(values)
    _check_files(values, root)
    _join_hosts(values)
    if values.ray_address is not None:
      os.environ['RAY_ADDRESS'] = values.ray_address
    _execute(_resolve(root), values, started)
  except (*run_errors.MISTAKES, run_errors.RunError) as error:
    told = isinstance(error, (errors.ConfigError, run_errors.RunError))
    if values.debug or (started.is_set() and not told):
      raise
    late = started.is_set() and isinstance(error, run_errors.RunError)
    _exit_with(_message(error, root), _FAILURE if late else _MISTAKE)


def _execute(
  root: Callable[..., Any], values: flags.FlagValues, started: threading.Event
) -> None:
  """Reads the configuration and calls the root."""
  from runtime.config import sessions

  workdir = str(paths.local(values.workdir or _own_workdir(values)))
  with (
    paths.nothing_kept() if values.dry_run else contextlib.nullcontext(),
    sessions.session(
      root, values.gin_file, values.gin_param, allow=values.allow_module
    ) as parsed,
  ):
    logging.info('workdir: %s', workdir)
    parsed.build(
      workdir=workdir,
      seed=values.seed,
      context=context.RunContext(
        config=parsed.text,
        operative_config=parsed.operative,
        check_config=parsed.check,
        on_start=started.set,
        dry_run=values.dry_run,
        allow_config_change=values.allow_config_change,
        init_from=values.init_from,
        profile_steps=values.profile_steps,
        program=_program(),
        argv=tuple(sys.argv),
      ),
    )


def _own_workdir(values: flags.FlagValues) -> str:
  """A folder that another experiment, overlay or seed does not have."""
  names = [pathlib.Path(name).stem for name in values.gin_file]
  seed = [f'seed{values.seed}'] if values.seed else []
  return f'runs/{"-".join(names + seed)}'


def _resolve(root: Callable[..., Any] | str) -> Callable[..., Any]:
  """Imports a root that was given by name."""
  if not isinstance(root, str):
    return root
  module, _, name = root.rpartition('.')
  return getattr(importlib.import_module(module), name)


def _message(error: Exception, root: Callable[..., Any] | str) -> str:
  """Returns the message for the user about an error."""
  from runtime.config import sessions

  if isinstance(error, errors.ConfigError):
    return error.message
  name = root if isinstance(root, str) else root.__name__
  return sessions.tell(error, root=name.rpartition('.')[2])


def _exit_with(message: str, code: int = _MISTAKE) -> NoReturn:
  """Ends the process with a message on stderr."""
  print(f'error: {message}', file=sys.stderr)
  sys.exit(code)


def _check_files(
  values: flags.FlagValues, root: Callable[..., Any] | str
) -> None:
  """Raises ValueError if a gin file is missing; shows one if none is given."""
  if values.gin_file:
    for path in values.gin_file:
      files_lib.find(path)
    return
  name = root if isinstance(root, str) else root.__module__
  known = files_lib.available(name.partition('.')[0])
  tiny = [path for path in known if path.endswith('_tiny.gin')]
  example = (tiny or known or ['my_experiment.gin'])[0]
  raise ValueError(
    f'no configuration given; for example:\n  {_program()} --gin_file={example}'
  )


def _check_host_flags(values: flags.FlagValues) -> None:
  """Raises ValueError for an incomplete set of multi-host flags."""
  names = ('coordinator_address', 'num_processes', 'process_id')
  missing = [f'--{name}' for name in names if values[name].value is None]
  if len(missing) == len(names):
    return
  if missing:
    raise ValueError(
      'several processes need --coordinator_address, --num_processes and '
      f'--process_id together, missing: {", ".join(missing)}'
    )
  if values.distributed:
    raise ValueError(
      '--distributed reads the hosts from the cluster; drop it, or drop '
      '--coordinator_address, --num_processes and --process_id'
    )
  # JAX gives no message for other texts; for some, it aborts the process.
  if not re.fullmatch(r'.+:\d+', values.coordinator_address):
    raise ValueError(
      '--coordinator_address must be HOST:PORT, such as 10.0.0.1:8476, got '
      f'{values.coordinator_address!r}'
    )
  if values.process_id >= values.num_processes:
    raise ValueError(
      'process_id must be less than num_processes, got '
      f'{values.process_id=} {values.num_processes=}'
    )


def _join_hosts(values: flags.FlagValues) -> None:
  """Connects the processes before any device is used; quiets all but one."""
  process = 0
  if values.distributed or values.coordinator_address is not None:
    import jax  # Imported here: --help and mistakes in flags are fast.

    try:
      jax.distributed.initialize(
        coordinator_address=values.coordinator_address,
        num_processes=values.num_processes,
        process_id=values.process_id,
        # By default JAX listens on all interfaces, without authentication.
        coordinator_bind_address=values.coordinator_address,
      )
    except (RuntimeError, ValueError) as error:
      raise ValueError(f'the hosts cannot be joined: {error}') from error
    process = jax.process_index()
  if process and logging.get_verbosity() == logging.INFO:
    logging.set_verbosity(logging.WARNING)


def _is_ours(record: std_logging.LogRecord) -> bool:
  """Keeps the information of this project, and the warnings of everybody.

  Checkpoint and data libraries log several lines per save at INFO, which
  would bury the progress line; `--verbosity=0` shows them.
  """
  if record.levelno >= std_logging.WARNING:
    return True
  inside = os.path.relpath(record.pathname, files_lib.PROJECT_ROOT)
  return not inside.startswith('..') and 'site-packages' not in inside


def _program() -> str:
  """Returns the command that started this process, as a user types it here."""
  path = os.path.relpath(sys.executable)
  python = 'python' if path.startswith('..') else path
  spec = getattr(sys.modules['__main__'], '__spec__', None)
  if spec is None:
    return f'{python} {sys.argv[0]}'
  return f'{python} -m {spec.name.removesuffix(".__main__")}'


def _parse(argv: Sequence[str]) -> list[str]:
  """Parses the flags; answers --help and mistakes itself."""
  if '--help' in argv[1:] or '-h' in argv[1:]:
    print(_usage())
    sys.exit(0)
  try:
    rest = flags.FLAGS(argv)
  except flags.Error as error:
    _exit_with(f'{error}\n  {_program()} --help lists the flags')
  if flags.FLAGS['verbosity'].using_default_value:
    logging.get_absl_handler().addFilter(_is_ours)
  return rest


def _usage() -> str:
  """Returns the help text: what it does, then the flags of this module."""
  values = flags.FLAGS
  about = (sys.modules['__main__'].__doc__ or '').strip()
  lines = [about, '', f'Usage: {_program()} --gin_file=FILE [flags]']
  for title, names in (('Run', _RUN_FLAGS), ('Hosts', _HOST_FLAGS)):
    lines += ['', f'{title}:']
    for name in names:
      about = values[name].help.partition(';\n')[0]  # absl says "repeat" too.
      lines.append(f'  --{name:<22}{about}')
  lines += ['', f'All flags, those of libraries too: {_program()} --helpfull']
  return '\n'.join(lines).strip()
