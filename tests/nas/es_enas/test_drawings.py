"""Drawing data of networks and partitions."""

import jax.numpy as jnp
import numpy as np
import pytest

from nas.es_enas import drawings, edges, operations, partitions
from runtime.record import pictures
from tests.nas.es_enas import policy_cases as cases

pytestmark = pytest.mark.pictures

drawing = pytest.mark.skipif(
  not pictures.can_draw(), reason='needs the extra `report` (matplotlib)'
)


def drawn(policy, number):
  """A random member."""
  return tuple(jnp.asarray(one[0]) for one in cases.draw(policy, number, 1))


@pytest.mark.parametrize('residual', [False, True])
def test_graph_has_the_edges_of_the_network(residual):
  """Each edge between its nodes, as the walk over the nodes has them."""
  policy = cases.make(edges.Pruned(7), hidden=(3, 2), residual=residual)
  theta, architecture = drawn(policy, 0)
  graph = drawings.graph(policy, (theta, architecture), 'pruned')
  first = {0: 0, 1: 4, 2: 7, 3: 9}
  pairs = [
    (source, target)
    for layer in (1, 2, 3)
    for source in range(0 if residual else first[layer - 1], first[layer])
    for target in range(first[layer], {1: 7, 2: 9, 3: 11}[layer])
  ]
  kept = sorted(architecture.tolist())
  assert graph.edges.tolist() == [list(pairs[i]) for i in kept]
  np.testing.assert_array_equal(graph.weights, np.asarray(theta)[kept])
  columns = graph.positions[:, 0]
  assert columns.tolist() == [0] * 4 + [1] * 3 + [2] * 2 + [3] * 2
  assert len({tuple(place) for place in graph.positions}) == 11
  assert graph.names == ['s0', 's1', 's2', 's3', *[''] * 5, 'a0', 'a1']


def test_names_of_operations():
  policy = cases.make('dense', operations=operations.ALL)
  chosen = jnp.array([3, 9, 10])
  theta = jnp.ones(policy.size)
  graph = drawings.graph(policy, (theta, chosen), 'named')
  assert graph.names[4:7] == ['identity', 'step', 'reciprocal']


def test_colour_matrices():
  policy = cases.make(partitions.Partition(5))
  _, colors = drawn(policy, 1)
  first, second = drawings.color_matrices(policy, colors)
  np.testing.assert_array_equal(first, colors[:12].reshape(4, 3))
  np.testing.assert_array_equal(second, colors[12:].reshape(3, 2))
  mask = cases.make('mask', hidden=())
  (matrix,) = drawings.color_matrices(mask, jnp.array([1, 0] * 4))
  np.testing.assert_array_equal(matrix, [[0, -1], [2, -1], [4, -1], [6, -1]])


@drawing
def test_pictures(tmp_path):
  policy = cases.make('aggregate', residual=True)
  theta, architecture = drawn(policy, 2)
  shown = {'a': (policy, (theta, architecture))}
  assert drawings.draw_networks(shown, tmp_path / 'g.png').exists()
  toeplitz = cases.make('toeplitz')
  assert drawings.draw_colors(toeplitz, None, tmp_path / 'c.png').exists()


def test_only_layers_have_a_graph():
  policy = cases.make_flax('dense')
  with pytest.raises(ValueError, match='FeedForward network, got OfPolicy'):
    drawings.graph(policy, jnp.ones(policy.size), 'module')
