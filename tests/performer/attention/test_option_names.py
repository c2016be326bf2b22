"""An unknown option is a TypeError that names the nearest."""

import copy
import dataclasses
import inspect
import pickle

import pytest

from performer import attention


@pytest.mark.parametrize(
  ('make', 'options', 'message'),
  [
    (
      attention.Favor,
      {'feature': 64},
      "Favor 'feature'; did you mean 'features'",
    ),
    (attention.Favor, {'stabiliser': 'none'}, "did you mean 'stabilizer'"),
    (attention.Auto, {'exact_under': 8}, "Auto 'exact_under'.*'exact_below'"),
  ],
)
def test_the_nearest_option_is_named(make, options, message):
  with pytest.raises(TypeError, match=message):
    make(**options)
  with pytest.raises(TypeError, match=message):
    dataclasses.replace(make(), **options)


def test_it_stays_a_dataclass():
  favor = attention.Favor('softmax_pos', features=64)
  assert favor.kernel == 'softmax_pos'
  assert copy.deepcopy(favor) == pickle.loads(pickle.dumps(favor)) == favor
  names = [field.name for field in dataclasses.fields(favor)]
  assert list(inspect.signature(attention.Favor).parameters) == names
