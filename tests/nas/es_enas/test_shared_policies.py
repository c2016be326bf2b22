"""Policies of shared weights against products and walks in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg

from nas.es_enas import edges, operations, partitions, policies, sharing
from rl.es import policies as es_policies
from tests import refusals, seeds
from tests.nas.es_enas import policy_cases as cases

SEEN = cases.observations(7, 5)


def actions_of(policy, matrices, biases, x):
  """tanh layers with given matrices [fan in, fan out], in float64."""
  x = np.asarray(x, np.float64)
  for matrix, bias in zip(matrices, [*biases, None], strict=True):
    x = x @ matrix
    x = x if bias is None else np.tanh(x + bias)
  low, high = policy.network.action_space.bounds
  return low + (np.tanh(x) + 1) / 2 * (high - low)


def toeplitz(table, rows, columns):
  """The matrix of y = W x with W[i, j] = table[i - j + columns - 1]."""
  start = columns - 1
  return scipy.linalg.toeplitz(table[start : start + rows], table[start::-1])


def circulant(table, rows, columns):
  return scipy.linalg.circulant(table)[:rows, :columns]


@pytest.mark.parametrize(
  ('rule', 'matrix', 'sizes'),
  [
    ('toeplitz', toeplitz, (4 + 5 - 1, 5 + 2 - 1)),
    ('circulant', circulant, (5, 5)),
  ],
)
def test_structured_matrices(rule, matrix, sizes):
  """Wider and narrower matrices."""
  policy = cases.make(rule, hidden=(5,))
  theta, _ = cases.draw(policy, 0, 1)
  flat = np.asarray(theta[0], np.float64)
  first, second, bias = np.split(flat, np.cumsum(sizes))
  matrices = matrix(first, 5, 4).T, matrix(second, 2, 5).T
  found = cases.act(policy, theta, SEEN)[0]
  expected = actions_of(policy, matrices, [bias], SEEN)
  np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_dense_is_the_mlp_of_rl_es_without_output_biases():
  """To the last bit."""
  policy = cases.make('dense', hidden=(5, 3))
  spaces = cases.OBSERVATIONS, cases.ACTIONS
  mlp = es_policies.MLP(*spaces, hidden=(5, 3))
  theta, _ = cases.draw(policy, 0, 1)
  first, second, third, b1, b2 = np.split(theta[0], [20, 35, 41, 46])
  parts = [first, b1, second, b2, third, np.zeros(2, np.float32)]
  found = cases.act(policy, theta, SEEN)
  expected = cases.act(mlp, np.concatenate(parts)[None], SEEN)
  np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize('residual', [False, True])
def test_all_edges_and_all_colours_are_dense(residual):
  """Pruned with k = E; a mask of ones; colours that all differ."""
  options = {'hidden': (3,), 'residual': residual}
  dense = cases.make('dense', **options)
  size = dense.entries
  thetas, _ = cases.draw(dense, 0, 1)
  expected = cases.act(dense, thetas, SEEN)
  order = seeds.rng(1).permutation(size).astype(np.int32)
  for rule, architecture in [
    (edges.Pruned(size), order),
    (edges.Mask(), np.ones(size, np.int32)),
    (partitions.Partition(size), np.arange(size, dtype=np.int32)),
  ]:
    policy = cases.make(rule, **options)
    assert policy.size == dense.size
    found = cases.act(policy, (thetas, architecture[None]), SEEN)
    np.testing.assert_array_equal(found, expected)


def test_one_colour_is_one_weight():
  policy = cases.make(partitions.Partition(1), hidden=())
  member = np.float32([[0.7]]), np.zeros((1, 8), np.int32)
  found = cases.act(policy, member, SEEN)
  expected = actions_of(policy, [np.full((4, 2), 0.7)], [], SEEN)
  np.testing.assert_allclose(found[0], expected, rtol=1e-5, atol=1e-6)


def test_layers_with_weights_of_their_own():
  """Colour c of the second matrix is entry 3 + c."""
  policy = cases.make('partition per layer')
  (theta,), (colors,) = cases.draw(policy, 11, 1)
  first, second = theta[:3], theta[3:6]
  found = cases.weights(policy, (theta, colors))
  np.testing.assert_array_equal(found[:12], first[colors[:12]])
  np.testing.assert_array_equal(found[12:], second[colors[12:]])


def test_names_of_colours_do_not_matter():
  """Nor do weights of colours that no edge has."""
  policy = cases.make(partitions.Partition(6), hidden=(3,))
  thetas, drawn = cases.draw(policy, 0, 3)
  drawn %= 5
  rng = seeds.rng(2)
  order = rng.permutation(6)
  others = thetas.copy()
  others[:, order] = thetas[:, :6]
  others[:, order[5]] = rng.normal(size=3)
  found = cases.act(policy, (others, np.int32(order)[drawn]), SEEN)
  expected = cases.act(policy, (thetas, drawn), SEEN)
  np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
  ('rule', 'options'),
  [
    ('aggregate', {}),
    ('independent', {}),
    ('mask', {}),
    ('aggregate', {'residual': True, 'hidden': (3, 2)}),
    ('aggregate', {'residual': True, 'operations': operations.ALL}),
  ],
)
def test_pruned_networks_node_by_node(rule, options):
  """The first hidden node has a bias and a non-linearity as all others."""
  policy = cases.make(rule, **options)
  thetas, drawn = cases.draw(policy, 3, 4)
  found = cases.act(policy, (thetas, drawn), SEEN)
  for theta, architecture, actions in zip(thetas, drawn, found, strict=True):
    present = set(np.flatnonzero(policy.indices(architecture) < policy.entries))
    weights, biases = np.split(np.asarray(theta, np.float64), [policy.entries])
    parts, chosen = policy.space.parts(jnp.asarray(architecture)), None
    if policy.network.groups:
      chosen = [operations.ALL[i] for i in parts['operations']]
    if 'edges' in parts:
      assert present == set(np.asarray(parts['edges']).tolist())
    for seen, action in zip(SEEN, actions, strict=True):
      expected = cases.node_by_node(
        policy.network, present, weights, biases, chosen, seen
      )
      np.testing.assert_allclose(action, expected, rtol=1e-4, atol=1e-5)


def test_independent_subsets_connect():
  """As many edges of each matrix as asked for, and actions that see them."""
  policy = cases.make('independent')
  thetas, drawn = cases.draw(policy, 4, 8)
  indices = np.stack([policy.indices(a) for a in drawn])
  np.testing.assert_array_equal((indices[:, :12] < 18).sum(1), 6)
  np.testing.assert_array_equal((indices[:, 12:] < 18).sum(1), 4)
  actions = cases.act(policy, (thetas, drawn), SEEN)
  assert (np.ptp(actions, axis=1) > 1e-3).any(axis=1).all()


@pytest.mark.parametrize('rule', cases.RULES)
def test_no_parameter_is_dead(rule):
  """Every number in theta changes an action of some architecture."""
  policy = cases.make(rule)
  thetas, drawn = cases.draw(policy, 5, 32)

  def outputs(theta, architecture):
    params = policy.unravel((theta, architecture))
    each = lambda x: policy.network.outputs(params, x)
    return jax.vmap(each)(SEEN)

  slopes = jax.jit(jax.vmap(jax.jacfwd(outputs)))(
    np.float32(0.3) * thetas, drawn
  )
  moved = np.abs(slopes).max(axis=(0, 1, 2))
  assert moved.shape == (policy.size,)
  assert (moved > 1e-4).all(), moved


@pytest.mark.parametrize('rule', cases.RULES)
def test_weights_are_the_gather(rule):
  policy = cases.make(rule)
  (theta,), (architecture,) = cases.draw(policy, 6, 1)
  table = theta[: policy.entries]
  indices = np.asarray(policy.indices(architecture))
  if rule == 'masked':
    w, s = np.split(table, 2)
    table = w / (1 + np.exp(-s / 0.5))
  expected = np.append(table, 0)[indices]

  @jax.jit
  def run(member):
    return policy.weights(member), policy.sparsity(member)

  found, sparsity = run((theta, architecture))
  np.testing.assert_allclose(found, expected, rtol=1e-6)
  assert found.shape == (18,)
  np.testing.assert_allclose(
    sparsity,
    1 - np.mean(1 / (1 + np.exp(-2 * s)))
    if rule == 'masked'
    else np.mean(expected == 0),
    rtol=1e-6,
  )


def test_results_do_not_depend_on_how_many_are_computed():
  """One by one or together, with a single action too."""
  policy = policies.feed_forward(
    cases.OBSERVATIONS,
    cases.spaces.Box((1,), -1.0, 1.0),
    sharing=edges.Pruned(12),
    hidden=(5,),
    residual=True,
  )
  members = cases.draw(policy, 8, 6)
  together = cases.act(policy, members, SEEN)
  for i in range(6):
    alone = jax.tree.map(lambda x, i=i: x[i : i + 1], members)
    np.testing.assert_array_equal(
      cases.act(policy, alone, SEEN)[0], together[i]
    )


def test_operations_never_make_nan():
  policy = cases.make('aggregate', hidden=(8, 8), operations=operations.ALL)
  thetas, drawn = cases.draw(policy, 9, 200)
  scales = np.float32([1e6, 0, 1e-30])[:, None, None]
  seen = (np.asarray(SEEN) * scales).reshape(-1, 4)
  actions = cases.act(policy, (np.float32(1e4) * thetas, drawn), seen)
  assert np.isfinite(actions).all()


def test_operations_of_odd_numbers():
  x = jnp.array([0.0, -0.0, 1e30, -1e30, jnp.inf, -jnp.inf, 2e-4, jnp.nan])
  every = np.arange(len(operations.ALL))
  apply = lambda chosen: operations.apply(operations.ALL, chosen, x)
  y = jax.jit(jax.vmap(apply))(np.tile(every[:, None], (1, x.size)))
  y = np.asarray(y)
  assert np.isfinite(y[:, :-1]).all()
  assert np.isnan(y[:, -1]).all()
  found = operations.reciprocal(jnp.array([2e-4, -2e-4, 0.0, 4.0]))
  np.testing.assert_allclose(found, [1e3, -1e3, 1e3, 0.25], rtol=1e-6)


def test_first_parameters():
  """Weights N(0, 0.01), biases and logits of masks 0."""
  policy = cases.make('masked', hidden=(50, 50))
  theta = np.asarray(policy.init(seeds.key(0)))
  weights, logits, biases = np.split(theta, [2800, 5600])
  assert abs(weights.std() - 0.1) < 0.005
  assert not logits.any()
  assert biases.shape == (100,)
  assert not biases.any()
  wide = cases.make('toeplitz', hidden=(500, 500), init_scale=2.0)
  assert abs(wide.init(seeds.key(1))[:2000].std() - 2) < 0.1


def test_largest_masked_edges_stay():
  policy = cases.make('masked')
  (theta,), _ = cases.draw(policy, 10, 1)
  theta = jnp.asarray(theta)
  pruned, member = policies.thresholded(policy, theta, count=7)
  before = np.asarray(cases.weights(policy, theta))
  after = np.asarray(cases.weights(pruned, member))
  kept = np.argsort(-np.abs(before))[:7]
  np.testing.assert_array_equal(np.flatnonzero(after), np.sort(kept))
  np.testing.assert_array_equal(after[kept], before[kept])
  assert int(pruned.costs(member[1])['weights']) == 7
  whole, member = policies.thresholded(policy, theta, count=18)
  members = jax.tree.map(lambda x: x[None], member)
  np.testing.assert_array_equal(
    cases.act(whole, members, SEEN), cases.act(policy, theta[None], SEEN)
  )


test_rejects = refusals.table(
  (lambda: cases.make(edges.Pruned(19)), 'at most all 18 elements'),
  (lambda: cases.make(edges.Pruned((3, 2, 1))), 'a number per matrix'),
  (lambda: cases.make(partitions.RandomPartition(19)), 'and 18 edges'),
  (lambda: cases.make('mask', hidden=(), operations=operations.ALL), 'hidden'),
  (lambda: cases.make('mask', operations=()), 'need an operation'),
  (lambda: cases.make('dense', init_scale=-1.0), 'must not be negative'),
  (lambda: edges.Masked(0.0), 'temperature must be positive'),
  (lambda: cases.make('mask').unravel(jnp.zeros(21)), r"\['mask'\] are to be"),
  (
    lambda: cases.make('mask').costs(jnp.zeros(5, int)),
    r'18 integers, got the shape \(5,\)',
  ),
  (
    lambda: policies.thresholded(cases.make('dense'), jnp.zeros(21), count=1),
    'must have edges.Masked',
  ),
)


def test_random_partition_uses_every_colour():
  rule, shapes = partitions.RandomPartition(17, seed=4), ((17, 6),)
  indices = rule.indices(shapes, {})
  assert set(indices.tolist()) == set(range(17))
  np.testing.assert_array_equal(indices, rule.indices(shapes, {}))
  other = partitions.RandomPartition(17, seed=5).indices(shapes, {})
  assert (indices != other).any()
  assert sharing.num_edges(shapes) == indices.size == 102
