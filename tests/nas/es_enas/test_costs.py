"""Exact counts: the table of sizes, per environment, and its formulas."""

import jax
import numpy as np
import pytest

from nas.es_enas import edges, operations, partitions, policies, sharing
from rl.envs import spaces
from tests import marks
from tests.nas.es_enas import policy_cases as cases

COLORS = partitions.Partition(17)

# State and action sizes; dense weights and bits; Toeplitz and circulant
# weights, compression in % and bits; of 17 colours compression and bits; edges
# of a linear policy. One hidden layer of 41.
TABLE = [
  (8, 2, 410, 14432, 90, 71.0, 4192, 82, 72.7, 3936, 87.1, 3906, 16),
  (11, 2, 533, 18368, 93, 76.7, 4288, 82, 78.6, 3936, 89.9, 4521, 22),
  (11, 3, 574, 19680, 94, 78.0, 4320, 82, 80.0, 3936, 90.6, 4726, 33),
  (17, 6, 943, 31488, 103, 85.4, 4608, 82, 87.5, 3936, 94.1, 6571, 102),
  (23, 7, 1230, 40672, 110, 88.1, 4832, 82, 90.3, 3936, 95.4, 8006, 161),
]


def costs(states, actions, rule, hidden=(41,)):
  boxes = [spaces.Box((size,), -1.0, 1.0) for size in (states, actions)]
  policy = policies.feed_forward(*boxes, sharing=rule, hidden=hidden)
  _, (architecture,) = cases.draw(policy, 0, 1)
  found = jax.device_get(policy.costs(architecture))
  return {name: value.item() for name, value in found.items()}


def percent(found):
  return round(100 * found['compression'], 1)


# Rows are compiled by themselves; one is quick.
@pytest.mark.parametrize(
  'row', [TABLE[3], *marks.slow(*((row,) for row in TABLE if row != TABLE[3]))]
)
def test_table_of_sizes(row):
  dense = costs(*row[:2], sharing.Dense())
  toeplitz = costs(*row[:2], sharing.Toeplitz())
  circulant = costs(*row[:2], sharing.Circulant())
  colors = costs(*row[:2], COLORS)
  linear = costs(*row[:2], sharing.Dense(), hidden=())
  found = [dense['weights'], dense['bits']]
  for one in (toeplitz, circulant):
    found += [one['weights'], percent(one), one['bits']]
  found += [percent(colors), colors['bits'], linear['edges']]
  assert tuple(found) == row[2:]
  for one in (dense, toeplitz, circulant, colors):
    assert one['biases'] == 41
    assert one['parameters'] == one['weights'] + 41
    assert one['multiplications'] == one['edges'] == dense['weights']


def test_smallest_policy_of_17_weights():
  """Linear, 17 states and 6 actions: 17 weights, 6.06 times below Toeplitz."""
  found = costs(17, 6, COLORS, hidden=())
  assert found['parameters'] == found['weights'] == 17
  assert found['biases'] == 0
  toeplitz = costs(17, 6, sharing.Toeplitz())
  assert round(toeplitz['weights'] / found['weights'], 2) == 6.06


def test_costs_follow_the_architecture():
  """Traced, for a whole population of masks."""
  policy = cases.make('mask')
  _, drawn = cases.draw(policy, 0, 6)
  found = jax.jit(jax.vmap(policy.costs))(drawn)
  kept = np.asarray(drawn).sum(1)
  for name in ('edges', 'weights', 'multiplications', 'colors_in_use'):
    np.testing.assert_array_equal(found[name], kept)
  np.testing.assert_array_equal(found['bits'], 32 * (kept + 3) + 18)
  np.testing.assert_allclose(
    found['compression'], 1 - (kept + 3) / 21, rtol=1e-5, atol=1e-7
  )


def test_colours_in_use_are_counted():
  """Weights are all that the table holds, used or not."""
  policy = cases.make(partitions.Partition(9), hidden=())
  architecture = np.array([0, 8, 8, 3, 0, 0, 3, 3], np.int32)
  found = policy.costs(architecture)
  assert (int(found['colors_in_use']), int(found['weights'])) == (3, 9)
  assert int(found['bits']) == 32 * 9 + 8 * 4


@pytest.mark.parametrize(
  ('rule', 'weights', 'index_bits'),
  [
    (edges.Pruned(7), 7, 18),
    (edges.Pruned((3, 2)), 5, 18),
    (edges.Masked(), 18, 0),
    (partitions.RandomPartition(4), 4, 18 * 2),
    (partitions.Partition(1), 1, 0),
    (partitions.Partition(3, per_layer=True), 6, 18 * 2),
  ],
)
def test_bits(rule, weights, index_bits):
  policy = cases.make(rule)
  found = policy.costs(cases.draw(policy, 1, 1)[1][0])
  assert int(found['weights']) == weights
  assert int(found['bits']) == 32 * (weights + 3) + index_bits


def test_operations_cost_bits():
  """Four for each of three nodes that choose among eleven."""
  plain = cases.make('dense').costs()
  policy = cases.make('dense', operations=operations.ALL)
  chosen = policy.costs(cases.draw(policy, 2, 1)[1][0])
  assert int(chosen['bits']) == int(plain['bits']) + 3 * 4


def test_counts_that_overflow_are_told():
  with pytest.raises(ValueError, match='below 2\\^31'):
    cases.make('toeplitz', hidden=(8000, 8400))
