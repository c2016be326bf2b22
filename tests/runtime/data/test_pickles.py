import pickle

import numpy as np
import pytest

from runtime.data import pickles


class Call:
  def __init__(self, call, *args):
    self.call = (call, args)

  def __reduce__(self):
    return self.call


def test_arrays_and_builtin_values_are_read():
  content = {b'data': np.arange(6, dtype=np.uint8), 'labels': [1, 2.5, None]}
  # Newer protocols ask for another function to make arrays.
  written = pickle.dumps(content, protocol=4)
  found = pickles.load_arrays(written, encoding='latin1')
  np.testing.assert_array_equal(found[b'data'], content[b'data'])
  assert found['labels'] == content['labels']


@pytest.mark.parametrize(
  ('call', 'name'),
  [
    # Not print: Ray puts another function in its place.
    (Call(exec, 'print("ran")'), r'builtins\.exec'),
    (Call(eval, 'print("ran")'), r'builtins\.eval'),
    (Call(np.savetxt, 'ran', [1]), r'numpy\.savetxt'),
  ],
)
def test_calls_are_refused(call, name, capsys):
  with pytest.raises(ValueError, match=f'must hold arrays only.*{name}'):
    pickles.load_arrays(pickle.dumps([call]), encoding='bytes')
  assert not capsys.readouterr().out
