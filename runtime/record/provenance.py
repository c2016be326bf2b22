"""What a workdir says about the run in it: configuration and manifest."""

import difflib
import json
import os
import pathlib
import platform
import subprocess
from importlib import metadata
from typing import Any

import jax
from absl import logging
from jax.experimental import multihost_utils

from runtime import context as context_lib

__all__ = ['claim_workdir', 'commit', 'manifest']

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


def claim_workdir(
  workdir: str | os.PathLike, seed: int, context: context_lib.RunContext
) -> None:
  """Writes `config.gin` and `manifest.json`, or checks the ones there.

  Args:
    workdir: folder of the run; made if missing.
    seed: seed of the run, kept with the configuration.
    context: gives the operative configuration.

  Raises:
    ValueError: if the folder holds a run of another configuration and that is
      not allowed; the message shows the difference.
  """
  folder = pathlib.Path(workdir)
  text = f'# seed = {seed}\n{context.operative_config()}'
  path = folder / 'config.gin'
  before = path.read_text() if path.exists() else None
  if before is not None and before != text:
    difference = '\n'.join(
      difflib.unified_diff(
        before.splitlines(),
        text.splitlines(),
        f'{path} (the run there)',
        'this command',
        lineterm='',
        n=0,
      )
    )
    if not context.allow_config_change:
      raise ValueError(
        f'{folder} holds a run of another configuration. Choose another '
        '--workdir, or continue it with --allow_config_change.\n' + difference
      )
    logging.warning('the configuration changes:\n%s', difference)
  if jax.process_count() > 1:
    # Nobody may read the file while process 0 is writing it.
    multihost_utils.sync_global_devices('claim_workdir')
  if jax.process_index() == 0:
    folder.mkdir(parents=True, exist_ok=True)
    _replace(path, text)
    _replace(folder / 'config_as_given.gin', context.config)
    details = json.dumps(manifest(context.argv), indent=2)
    _replace(folder / 'manifest.json', details + '\n')


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


def _replace(path: pathlib.Path, text: str) -> None:
  temporary = path.with_name(path.name + '.tmp')
  temporary.write_text(text)
  temporary.replace(path)
