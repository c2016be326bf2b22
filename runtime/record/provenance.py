"""Configuration and manifest of the run in a workdir."""

import difflib
import json
import os
import pathlib
import platform
import subprocess
from importlib import metadata
from typing import Any

import jax

from runtime import context as context_lib

__all__ = ['commit', 'difference', 'manifest', 'short_commit', 'write']

_PACKAGES = (
  'jax',
  'jaxlib',
  'flax',
  'optax',
  'orbax-checkpoint',
  'grain',
  'numpy',
)
_RESULTS = ('docs/results', 'docs/results.md', 'benchmarks/results')


def difference(
  workdir: str | os.PathLike[str], seed: int, context: context_lib.RunContext
) -> str:
  """Compares the configuration of this start with that of the run in a folder.

  A folder without a checkpoint holds no run that could be continued.

  Args:
    workdir: folder of the run.
    seed: of this start; part of its configuration.
    context: gives the operative configuration.

  Returns:
    Lines of a diff; empty if nothing changes. A sentence if the configuration
    of the run is lost.
  """
  path = pathlib.Path(workdir) / 'config.gin'
  saved = [p for p in path.parent.glob('checkpoints/*') if p.name.isdigit()]
  if not saved:
    return ''
  if not path.exists():
    return f'{path} is missing'
  return '\n'.join(
    difflib.unified_diff(
      path.read_text().splitlines(),
      _configuration(seed, context).splitlines(),
      f'{path} (the run there)',
      'this command',
      lineterm='',
      n=0,
    )
  )


def write(
  workdir: str | os.PathLike[str], seed: int, context: context_lib.RunContext
) -> None:
  """Writes `config.gin`, `config_as_given.gin` and `manifest.json`.

  On process 0 only.

  Args:
    workdir: folder of the run.
    seed: kept with the configuration.
    context: gives configuration and command line.
  """
  if jax.process_index() != 0:
    return
  folder = pathlib.Path(workdir)
  details = json.dumps(manifest(context.argv), indent=2)
  _replace(folder / 'config.gin', _configuration(seed, context))
  _replace(folder / 'config_as_given.gin', context.config)
  _replace(folder / 'manifest.json', details + '\n')


def _configuration(seed: int, context: context_lib.RunContext) -> str:
  return f'# seed = {seed}\n{context.operative_config()}'


def manifest(argv: tuple[str, ...] = ()) -> dict[str, Any]:
  """Command, commit, versions and devices of this process."""
  revision, dirty = commit()
  return {
    'argv': list(argv),
    'commit': revision,
    'uncommitted_changes': dirty,
    'python': platform.python_version(),
    'packages': {name: metadata.version(name) for name in _PACKAGES},
    'devices': [device.device_kind for device in jax.devices()],
    'processes': jax.process_count(),
  }


def commit(
  folder: str | os.PathLike = pathlib.Path(__file__).parent,
) -> tuple[str | None, bool | None]:
  """(revision, whether files were changed) of the checkout, if it is one.

  Results that runs wrote, in `docs/results` and `benchmarks/results`, do not
  count as changes: they do not change the next run.

  Args:
    folder: in the checkout.
  """

  def git(*words: str) -> str:
    done = subprocess.run(
      ['git', *words], cwd=folder, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()

  others = [f':(top,exclude){path}' for path in _RESULTS]
  try:
    changes = git('status', '--porcelain', '--', ':/', *others)
    return git('rev-parse', 'HEAD'), bool(changes)
  except (OSError, subprocess.CalledProcessError):
    return None, None


def short_commit() -> str:
  """Twelve digits of the revision, with '-dirty' if files were changed.

  Raises:
    ValueError: outside a checkout, as results name their commit.
  """
  revision, dirty = commit()
  if revision is None:
    raise ValueError('results name their commit: run this in a checkout')
  return f'{revision[:12]}{"-dirty" if dirty else ""}'


def _replace(path: pathlib.Path, text: str) -> None:
  temporary = path.with_name(path.name + '.tmp')
  temporary.write_text(text)
  temporary.replace(path)
