"""Diagrams of networks and of matrices of labels."""

import dataclasses

import numpy as np
import pytest

from runtime.record import diagrams, pictures

pytestmark = pytest.mark.pictures

GRAPH = diagrams.Graph(
  title='three nodes',
  positions=[[0, 0], [0, 1], [1, 0]],
  names=['a', 'b', 'c'],
  edges=[[0, 2], [1, 2]],
  weights=[0.5, -1.0],
)
LABELS = np.array([[0, 1], [1, -1]])
TEXTS = ('output', 'input')

drawing = pytest.mark.skipif(
  not pictures.can_draw(), reason='needs the extra `report` (matplotlib)'
)


@drawing
def test_graphs(tmp_path, figures):
  """Widths tell sizes, colours signs; a node without an edge is hollow."""
  lonely = dataclasses.replace(GRAPH, edges=[[0, 2]], weights=[1.0])
  path = diagrams.graphs([GRAPH, lonely], tmp_path / 'new' / 'g.png')
  assert path.read_bytes().startswith(b'\x89PNG')
  first, second = figures[0].axes
  lines, nodes = first.collections
  np.testing.assert_allclose(lines.get_segments()[1], [[0, 1], [1, 0]])
  widths = lines.get_linewidths()
  assert widths[0] < widths[1]
  colors = lines.get_colors()
  assert (colors[0] != colors[1]).any()
  faces = nodes.get_facecolors()
  assert (faces[:, :3] < 0.5).all()
  hollow = second.collections[1].get_facecolors()[:, 0] == 1
  assert hollow.tolist() == [False, True, False]
  assert [text.get_text() for text in first.texts] == ['a', 'b', 'c']
  assert first.get_title() == 'three nodes'
  again = diagrams.graphs([GRAPH, lonely], tmp_path / 'again.png')
  assert path.read_bytes() == again.read_bytes()


@drawing
def test_a_graph_without_edges(tmp_path):
  bare = dataclasses.replace(GRAPH, edges=np.zeros((0, 2), int), weights=[])
  assert diagrams.graphs([bare], tmp_path / 'g.png').exists()


@drawing
def test_labels(tmp_path, figures):
  """Equal labels have equal colours in all panels; negative ones are white."""
  wide = np.arange(600).reshape(2, 300)
  path = diagrams.labels(
    [LABELS, wide], ['small', 'wide'], tmp_path / 'l.png', axes_labels=TEXTS
  )
  assert path.read_bytes().startswith(b'\x89PNG')
  small, wide = figures[0].axes
  image = small.images[0].get_array()
  np.testing.assert_array_equal(image[0, 1], image[1, 0])
  np.testing.assert_array_equal(image[0, 0], wide.images[0].get_array()[0, 0])
  assert (image[0, 0] != image[0, 1]).any()
  assert (image[1, 1] == 1).all()
  assert [text.get_text() for text in small.texts] == ['0', '1', '1']
  assert not wide.texts
  assert (small.get_xlabel(), small.get_ylabel()) == TEXTS


@pytest.mark.parametrize(
  ('changed', 'message'),
  [
    ({'names': ['a']}, '1 names and positions of shape'),
    ({'weights': [1.0]}, 'two ends and a weight'),
    ({'edges': [[0, 3], [0, 1]]}, 'nodes 0 to 2, got 0 to 3'),
  ],
)
def test_graphs_refuse(changed, message):
  with pytest.raises(ValueError, match=message):
    dataclasses.replace(GRAPH, **changed)


@pytest.mark.parametrize(
  ('arrays', 'titles', 'message'),
  [
    ([], [], 'got 0 matrices and 0 titles'),
    ([LABELS], ['a', 'b'], 'got 1 matrices and 2 titles'),
    ([LABELS[0]], ['line'], "'line', got matrix.shape"),
    ([np.eye(2)], ['halves'], "'halves', .* float64"),
  ],
)
def test_labels_refuse(tmp_path, arrays, titles, message):
  with pytest.raises(ValueError, match=message):
    diagrams.labels(arrays, titles, tmp_path / 'l.png', axes_labels=TEXTS)


def test_no_graph_is_refused(tmp_path):
  with pytest.raises(ValueError, match='got none'):
    diagrams.graphs([], tmp_path / 'g.png')
