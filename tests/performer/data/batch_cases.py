"""What tests of data sets ask of batches."""

import itertools

import numpy as np


def take(iterator, steps):
  return list(itertools.islice(iterator, steps))


def assert_equal(one, other):
  assert one.keys() == other.keys()
  for name in one:
    np.testing.assert_array_equal(one[name], other[name], err_msg=name)
    assert one[name].dtype == other[name].dtype


def joined(shards):
  return {key: np.concatenate([s[key] for s in shards]) for key in shards[0]}
