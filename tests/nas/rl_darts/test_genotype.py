import copy
import dataclasses
import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nas.rl_darts import genotype, spaces
from nas.rl_darts import probabilities as probabilities_lib
from nas.rl_darts.data import genotype_file
from tests import seeds
from tests.nas.rl_darts import darts_cases


def test_sizes_of_the_spaces():
  assert spaces.MICRO.num_edges == 10
  assert spaces.MICRO.size() == 294_912
  assert spaces.CLASSIC.size() == 1_406_250


def test_first_logits_have_the_deviation_that_is_asked_for():
  space = dataclasses.replace(spaces.CLASSIC, output='weighted')
  found = probabilities_lib.init(space, seeds.key(4), 2.0)
  assert {k: v.shape for k, v in found.items()} == space.logit_shapes
  # Of 50 normal numbers or more: within four standard errors.
  assert np.asarray(found['edges']).size >= 50
  assert 1.2 < np.asarray(found['edges']).std() < 2.8


def brute_force(p, space):
  """Kept edges of each node, by sorting."""
  nodes = []
  for node in range(space.nodes):
    found = []
    for source in range(space.inputs + node):
      row = p[space.edge(source, node)]
      best = max(
        (i for i, op in enumerate(space.ops) if op != 'Zero'),
        key=lambda i, row=row: (row[i], -i),
      )
      found.append((-row[best], source, space.ops[best]))
    nodes.append(tuple((s, op) for _, s, op in sorted(found)[: space.kept]))
  return tuple(nodes)


@pytest.mark.parametrize(
  'space',
  [
    spaces.MICRO,
    dataclasses.replace(spaces.CLASSIC, inputs=2, kept=3),
    spaces.RNN,
  ],
)
def test_derived_as_by_sorting(space):
  for number in range(10):
    alpha = darts_cases.logits(space, number)
    p = np.asarray(probabilities_lib.probabilities(alpha)['edges'])
    assert genotype.discretise(alpha, space).nodes == brute_force(p, space)


def test_ties_go_to_the_first():
  flat = {'edges': jnp.zeros((10, 5))}
  nodes = genotype.discretise(flat, spaces.MICRO).nodes
  both = ((0, 'Conv3x3'), (1, 'Conv3x3'))
  assert nodes == (((0, 'Conv3x3'),), both, both, both)


def test_the_mass_of_zero_weakens_an_edge():
  space = spaces.CellSpace(nodes=3, kept=1)
  alpha = np.zeros((6, 5), np.float32)
  alpha[3, :2] = 3.0, -9.0  # Strong, but for more of Zero.
  alpha[3, 4] = 4.0
  alpha[4, 1] = 1.2  # Weaker, and kept.
  last = genotype.discretise({'edges': alpha}, space).nodes[2]
  assert last == ((1, 'Relu'),)
  alpha[3:, 4] = 80.0  # All are Zero nearly: the best is kept all the same.
  alpha[5, 2] = 5.0
  assert genotype.discretise({'edges': alpha}, space).nodes[2] == ((2, 'Tanh'),)


def test_order_of_operations_changes_names_only():
  alpha = np.asarray(darts_cases.logits(spaces.MICRO)['edges'])
  order = seeds.rng(3).permutation(5)
  ops = tuple(spaces.MICRO.ops[i] for i in order)
  other = dataclasses.replace(spaces.MICRO, ops=ops)
  one = genotype.discretise({'edges': alpha}, spaces.MICRO)
  two = genotype.discretise({'edges': alpha[:, order]}, other)
  assert one.nodes == two.nodes


def test_scale_keeps_operations_but_not_edges():
  space = spaces.CellSpace(('Relu', 'Tanh', 'Zero'), nodes=2, kept=1)
  alpha = np.array([[0, 0, 0], [1, 0.9, -9], [0.9, 0.3, 0.3]], np.float32)
  kept = []
  for scale in (0.1, 1.0, 10.0):
    p = probabilities_lib.probabilities({'edges': alpha}, 1 / scale)['edges']
    assert np.array_equal(np.argmax(p[:, :2], -1), [0, 0, 0])
    cell = genotype.discretise({'edges': alpha}, space, temperature=1 / scale)
    kept.append(cell.nodes[1])
  assert len(set(kept)) == 2


def test_few_skips():
  space = spaces.CellSpace(('SkipConnection', 'Relu', 'Zero'))
  alpha = np.asarray(darts_cases.logits(space)['edges']) + np.array([5, 0, 0])
  skips = lambda cell: str(cell.nodes).count('Skip')
  free = genotype.discretise({'edges': alpha}, space)
  assert skips(free) == 7
  assert skips(genotype.discretise({'edges': alpha}, space, max_skips=2)) == 2
  p = probabilities_lib.probabilities({'edges': alpha}, 1.0)['edges']
  labels = lambda p: np.asarray(genotype.edge_labels(p, space))
  # One after the other, the weakest first.
  expected = np.array(p)
  while (labels(expected) == 0).sum() > 2:
    strength = np.where(labels(expected) == 0, expected[:, 0], np.inf)
    expected[strength.argmin(), 0] = 0
  find = jax.jit(lambda p: genotype.edge_labels(p, space, 2))
  np.testing.assert_array_equal(find(p), labels(expected))
  with pytest.raises(ValueError, match='max_skips must not be negative'):
    genotype.discretise({'edges': alpha}, space, max_skips=-1)
  only = spaces.CellSpace(('SkipConnection', 'Zero'))
  with pytest.raises(ValueError, match='max_skips needs another'):
    genotype.discretise({'edges': alpha[:, ::2]}, only, max_skips=2)


def test_json_and_files(tmp_path):
  space = dataclasses.replace(spaces.CLASSIC, output='weighted', norm='layer')
  found = genotype.derive(
    {k: darts_cases.logits(space, i) for i, k in enumerate(('normal', 'red'))},
    space,
    {'normal': 1, 'red': 2},
  )
  again = genotype.Genotype.from_json(found.to_json())
  assert again == found
  assert hash(again) == hash(found)
  assert again['red'].stride == 2
  with pytest.raises(ValueError, match=r"'red'\] has no cell .* 'other'"):
    again['other']
  assert sum(again['red'].out_weights) == pytest.approx(1)
  path = tmp_path / 'cell.json'
  path.write_text(found.to_json())
  assert genotype_file(path) == found
  with pytest.raises(ValueError, match='no file of a genotype'):
    genotype_file(tmp_path / 'other.json')


def _places(found, above=()):
  """Keys to all values of a tree of JSON."""
  yield above
  if isinstance(found, dict | list):
    pairs = found.items() if isinstance(found, dict) else enumerate(found)
    for key, value in pairs:
      yield from _places(value, (*above, key))


def _replaced(found, place, value):
  """A copy with another value at a place."""
  if not place:
    return value
  found = copy.copy(found)
  found[place[0]] = _replaced(found[place[0]], place[1:], value)
  return found


def test_damaged_files_are_told(tmp_path):
  """Every value replaced by every wrong one; cut anywhere."""
  space = spaces.CellSpace(nodes=2, output='weighted')
  cell = genotype.discretise(darts_cases.logits(space), space)
  text = genotype.Genotype.of({'normal': cell}).to_json()
  whole = json.loads(text)
  path = tmp_path / 'cell.json'
  wrong = (None, True, -1, 2.5, float('nan'), [], {}, [[]], [[1, 2, 3]])
  for place, value in itertools.product(_places(whole), wrong):
    if 'out_weights' in place and value == 2.5:
      continue
    path.write_text(json.dumps(_replaced(whole, place, value)))
    with pytest.raises(ValueError, match=r'cell\.json: '):
      genotype_file(path)
  for length in range(0, len(text) - 2, 9):
    path.write_text(text[:length])
    with pytest.raises(ValueError, match=r'cell\.json: '):
      genotype_file(path)
  for old, new, told in (
    ('"out_mode"', '"out"', r"missing=\['out_mode'\] unknown=\['out'\]"),
    ('"num_pred": 2', '"num_pred": "2"', r"num_pred must be like 2, got '2'"),
    ('"Tanh"', '"Than"', "no operation 'Than'"),
  ):
    path.write_text(text.replace(old, new))
    with pytest.raises(ValueError, match=told):
      genotype_file(path)


def test_logits_of_another_space_are_refused():
  alpha = darts_cases.logits(spaces.MICRO)
  other = dataclasses.replace(spaces.MICRO, nodes=3)
  with pytest.raises(ValueError, match=r'shape \(6, 5\), got \(10, 5\)'):
    genotype.discretise(alpha, other)
  broken = {'edges': alpha['edges'].at[3, 1].set(np.nan)}
  with pytest.raises(ValueError, match='logits must be finite'):
    genotype.discretise(broken, spaces.MICRO)


def test_digest_is_of_the_network_alone():
  nodes = (((0, 'Relu'),), ((1, 'Tanh'), (0, 'Relu')))
  space = spaces.CellSpace(nodes=2)
  one = genotype.CellGenotype(nodes, space)
  two = genotype.CellGenotype((nodes[0], nodes[1][::-1]), space)
  fewer = dataclasses.replace(space, ops=('Tanh', 'Relu'), kept=3)
  same = [one, two, genotype.CellGenotype(nodes, fewer)]
  other = genotype.CellGenotype(nodes, dataclasses.replace(space, norm='none'))
  digests = [
    genotype.Genotype.of({'normal': c}).digest() for c in (*same, other)
  ]
  assert len({*digests[:3]}) == 1
  assert digests[3] != digests[0]


def test_labels_and_distances():
  space = spaces.MICRO
  keys = jax.random.split(seeds.key(0), 2000)
  labels = jax.jit(jax.vmap(lambda k: genotype.random_labels(k, space)))(keys)
  labels = np.asarray(labels)
  distinct = {tuple(row) for row in labels}
  assert len(distinct) > 1900
  for row in labels[:5]:
    cell = genotype.from_labels(row, space)
    np.testing.assert_array_equal(cell.labels(), row)
    assert int(genotype.hamming(cell.labels(), row)) == 0
  other = labels[0].copy()
  other[0] = (other[0] + 1) % 4
  assert int(genotype.hamming(labels[0], other)) == 1


def test_random_cells_are_uniform():
  space = spaces.CellSpace(('Zero', 'Relu', 'Tanh'), nodes=3, kept=2)
  keys = jax.random.split(seeds.key(1), 20_000)
  labels = jax.jit(jax.vmap(lambda k: genotype.random_labels(k, space)))(keys)
  codes = np.asarray(labels[:, 3:])  # The third node: 3 pairs, 4 op pairs.
  kinds, counts = np.unique(codes, axis=0, return_counts=True)
  assert len(kinds) == 12
  expected = len(keys) / 12
  chi2 = np.sum((counts - expected) ** 2 / expected)
  assert chi2 < 38  # 11 degrees of freedom: 1 in 10,000.


def test_cells_that_do_not_exist_are_refused():
  space = spaces.CellSpace(nodes=2)
  for nodes, text in (
    ((((0, 'Relu'),),), 'edges for 2 nodes'),
    ((((0, 'Relu'),), ((2, 'Relu'),)), 'sources of node 1 are below 2'),
    ((((0, 'Zero'),), ((1, 'Relu'),)), 'sources of node 0'),
    ((((0, 'Relu'),), ((0, 'Relu'), (0, 'Tanh'))), 'different sources'),
    ((((0, 'Relu'),), ()), r'1 to 2 edges .*, got \(\) for node 1'),
  ):
    with pytest.raises(ValueError, match=text):
      genotype.CellGenotype(nodes, space)
  for options, text in (
    ({'ops': ('Relu', 'Relu')}, 'ops must differ'),
    ({'ops': ('Zero',)}, 'one must not be Zero'),
    ({'nodes': 0}, 'nodes must be positive'),
  ):
    with pytest.raises(ValueError, match=text):
      spaces.CellSpace(**options)
