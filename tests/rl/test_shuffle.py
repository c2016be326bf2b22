"""Every order is one, and all are equally likely."""

import itertools

import jax
import numpy as np
import pytest

from rl import shuffle

KEY = jax.random.key(9)


@pytest.mark.parametrize('count', [1, 5, 512, 1024, 1025])
def test_orders_are_permutations_and_differ(count):
  found = np.asarray(shuffle.permutations(KEY, 3, count))
  assert found.dtype == np.int32
  np.testing.assert_array_equal(
    np.sort(found), np.tile(np.arange(count), (3, 1))
  )
  if count > 5:
    assert (found[0] != found[1]).mean() > 0.9
    assert (found[0] != np.arange(count)).mean() > 0.9


def test_all_orders_of_four_are_equally_likely():
  number = 24_000
  found = np.asarray(shuffle.permutations(KEY, number, 4))
  codes = found @ np.array([64, 16, 4, 1])
  expected = number / 24
  counts = [
    (codes == np.array(order) @ [64, 16, 4, 1]).sum()
    for order in itertools.permutations(range(4))
  ]
  # Chi squared with 23 degrees of freedom: above 49.7 once in a thousand.
  statistic = np.sum((np.array(counts) - expected) ** 2) / expected
  assert statistic < 49.7, statistic
