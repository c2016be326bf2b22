import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nas.rl_darts import diagnostics, spaces
from nas.rl_darts import probabilities as probabilities_lib
from tests import seeds
from tests.nas.rl_darts import darts_cases


@pytest.mark.parametrize('space', [spaces.MICRO, spaces.CLASSIC])
def test_entropies_begin_at_the_largest(space):

  @jax.jit
  def first(key):
    p = probabilities_lib.probabilities(probabilities_lib.init(space, key))
    return diagnostics.entropies(p['edges'], space)

  found = jax.device_get(first(seeds.key(0)))
  for value in (found.mean, found.by_node, *found.edges):
    assert float(value) == pytest.approx(math.log(len(space.ops)), rel=1e-6)


def test_entropies_fall_with_the_temperature():
  alpha = darts_cases.logits(spaces.MICRO)
  last = math.log(5)

  @jax.jit
  def mean(temperature):
    p = probabilities_lib.probabilities(alpha, temperature)['edges']
    return diagnostics.entropies(p, spaces.MICRO).mean

  for temperature in (100.0, 3.0, 1.0, 0.3, 0.05, 1e-3):
    found = float(mean(temperature))
    assert 0 <= found <= last + 1e-6
    last = found
  assert last < 1e-3


def test_published_mean_weighs_nodes_alike():
  space = spaces.CellSpace(('Relu', 'Zero'), nodes=2)
  p = np.array([[1.0, 0.0], [0.5, 0.5], [0.5, 0.5]])
  found = diagnostics.entropies(jnp.asarray(p), space)
  assert float(found.by_node) == pytest.approx(math.log(2) / 2)
  assert float(found.mean) == pytest.approx(math.log(2) * 2 / 3)


def test_masses_and_ranking():
  space = spaces.CellSpace(('Relu', 'Zero', 'Tanh'), nodes=2)
  p = np.array([[0.2, 0.5, 0.3], [0.1, 0.8, 0.1], [0.7, 0.2, 0.1]])
  mass = diagnostics.op_mass(jnp.asarray(p), space)
  expected = {'Relu': 1 / 3, 'Zero': 0.5, 'Tanh': 1 / 6}
  assert {op: float(m) for op, m in mass.items()} == pytest.approx(expected)
  assert diagnostics.ranking(p, space) == [
    (1, 2, 'Relu', 0.7),
    (0, 1, 'Tanh', 0.3),
    (0, 2, 'Relu', 0.1),
  ]


def test_rank_correlation():
  one = np.array([1.0, 2.0, 3.0, 4.0])
  assert diagnostics.spearman(one, one**3) == pytest.approx(1)
  assert diagnostics.spearman(one, -one) == pytest.approx(-1)
  # 1 - 6 sum d^2 / (n (n^2 - 1)) without ties.
  assert diagnostics.spearman(one, np.array([2, 1, 4, 3])) == pytest.approx(0.6)
  # Ties at their mean rank: ranks 1.5, 1.5, 3, 4.
  assert diagnostics.spearman(one, np.array([5, 5, 6, 7])) == pytest.approx(
    4.5 / math.sqrt(5 * 4.5)
  )
  assert math.isnan(diagnostics.spearman(one, np.ones(4)))
  with pytest.raises(ValueError, match='two or more'):
    diagnostics.spearman(one[:1], one[:1])


def test_cosine_sees_logits_only():
  tree = lambda a, w: {
    'params': {
      'encoder': {'alpha': {'normal': {'edges': jnp.array(a)}}},
      'kernel': jnp.array(w),
    }
  }
  one, two = tree([3.0, 0.0], [1.0]), tree([3.0, 4.0], [-9.0])
  assert float(diagnostics.cosine(one, two)) == pytest.approx(0.6)
  assert float(diagnostics.cosine(one, tree([0.0, 0.0], [1.0]))) == 0


def test_the_best_of_some_cells():
  levels = np.array([1.0, 4.0, 2.0])
  for count in (1, 2, 3):
    all_draws = itertools.product(levels, repeat=count)
    expected = np.mean([max(draw) for draw in all_draws])
    found = diagnostics.best_of(levels, count)
    assert found == pytest.approx(expected)
    assert diagnostics.cells_for(expected, levels) == pytest.approx(count)
  assert diagnostics.cells_for(5.0, levels, most=9) == 9
