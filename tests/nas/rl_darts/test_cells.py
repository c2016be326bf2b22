import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nas.rl_darts import cells, genotype, spaces
from nas.rl_darts import probabilities as probabilities_lib
from tests import marks, seeds
from tests.nas.rl_darts import darts_cases

SMALL = dataclasses.replace(spaces.MICRO, nodes=3)


def output_and_grads(cell, params, p, x):
  start = seeds.rng(9).normal()

  def loss(params, p, x):
    y = cell.apply(params, [x] * cell.space.inputs, p)
    waves = jnp.cos(jnp.arange(y.size).reshape(y.shape) + start)
    return jnp.sum(y * waves), y

  grads, y = jax.jit(jax.grad(loss, (0, 1, 2), has_aux=True))(params, p, x)
  return y, grads


@pytest.mark.parametrize(
  ('space', 'stride'),
  [
    (dataclasses.replace(SMALL, nodes=2), 1),
    *marks.slow((darts_cases.MIXED, 2), (spaces.MICRO, 2)),
    *marks.slow((spaces.CLASSIC, 1), (spaces.CLASSIC, 2)),
    *marks.slow((spaces.CLASSIC_POOL, 3)),
  ],
)
def test_fused_is_naive(space, stride):
  """Outputs and all gradients, those of the mixing weights too."""
  cell, params, p, x = darts_cases.supernet(space, stride=stride, products=True)
  found = output_and_grads(cell, params, p, x)
  for other in ({'form': 'naive'}, {'products': False}):
    expected = output_and_grads(cell.clone(**other), params, p, x)
    darts_cases.grads_close(found, expected)


def test_against_the_definition():
  """Node by node from single operations, in NumPy."""
  space = spaces.CellSpace(('Tanh', 'SkipConnection', 'Zero'), nodes=2)
  cell, params, p, x = darts_cases.supernet(space)
  own = jax.tree.map(lambda a: np.asarray(a, np.float64), params['params'])
  edges, x64 = np.asarray(p['edges'], np.float64), np.asarray(x, np.float64)
  mixed = lambda row, x: edges[row, 0] * np.tanh(x) + edges[row, 1] * x
  norm = lambda x: x * own['scale'] + own['bias']
  one = norm(mixed(0, x64))
  two = norm(mixed(1, x64) + mixed(2, one))
  expected = np.concatenate([one, two], -1) @ own['out']['kernel']
  found = jax.jit(cell.apply)(params, [x], p)
  np.testing.assert_allclose(
    found, expected + own['out']['bias'], rtol=1e-5, atol=1e-5
  )


@pytest.mark.parametrize('output', ['last', 'sum', 'mean', 'weighted'])
def test_outputs(output):
  space = spaces.CellSpace(('Relu', 'Zero'), nodes=2, output=output)
  cell, params, p, x = darts_cases.supernet(space)
  own, p, x = jax.device_get((params['params'], p, x))
  norm = lambda x: x * own['scale'] + own['bias']
  relu = lambda x: np.maximum(x, 0)
  one = norm(p['edges'][0, 0] * relu(x))
  two = norm(p['edges'][1, 0] * relu(x) + p['edges'][2, 0] * relu(one))
  expected = {
    'last': lambda: two,
    'sum': lambda: one + two,
    'mean': lambda: (one + two) / 2,
    'weighted': lambda: p['out'][0] * one + p['out'][1] * two,
  }[output]()
  found = jax.jit(cell.apply)(params, [x], p)
  np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


@pytest.fixture(scope='module')
def micro():
  """A cell and a function of logits."""
  cell, params, _, x = darts_cases.supernet(SMALL)
  alpha = darts_cases.logits(SMALL)
  direction = darts_cases.normal(4, x.shape)

  @jax.jit
  @jax.value_and_grad
  def loss(alpha):
    p = probabilities_lib.probabilities(alpha)
    return jnp.vdot(cell.apply(params, [x], p), direction)

  return alpha, loss


def test_shifts_of_logits_change_nothing(micro):
  alpha, loss = micro
  shifts = np.arange(6, dtype=np.float32)[:, None]
  shifted = {'edges': np.asarray(alpha['edges']) + shifts}
  assert float(loss(shifted)[0]) == pytest.approx(
    float(loss(alpha)[0]), rel=1e-5
  )


def test_gradients_of_an_edges_logits_sum_to_zero(micro):
  alpha, loss = micro
  grads = np.asarray(loss(alpha)[1]['edges'])
  assert np.abs(grads).max() > 1e-2
  assert np.abs(grads.sum(-1)).max() < 2e-6 * np.abs(grads).max() * 5


def test_gradient_of_logits_by_hand():
  """dL/dalpha_o = p_o / T (<g, op_o(x)> - sum_k p_k <g, op_k(x)>)."""
  space = spaces.CellSpace(nodes=1, output='last', norm='none')
  cell, params, _, x = darts_cases.supernet(space)
  alpha, temperature = darts_cases.logits(space), 2.0
  g = darts_cases.normal(5, x.shape)

  def loss(alpha):
    p = probabilities_lib.probabilities(alpha, temperature)
    return jnp.vdot(cell.apply(params, [x], p), g)

  own = params['params']
  kernel = np.asarray(own['Conv3x3_0_kernel'], np.float64)[..., 0, :]
  x64 = np.asarray(x, np.float64)
  conv = np.einsum('bijuvc,uvcd->bijd', darts_cases.windows(x64, 3, 1), kernel)
  conv += np.asarray(own['Conv3x3_0_bias'])[0]
  values = [conv, np.maximum(x64, 0), np.tanh(x64), x64, 0 * x64]
  inner = np.array([np.vdot(np.asarray(g, np.float64), v) for v in values])
  a = np.asarray(alpha['edges'], np.float64)[0] / temperature
  p = np.exp(a - a.max())
  p /= p.sum()
  expected = p / temperature * (inner - p @ inner)
  found = jax.jit(jax.grad(loss))(alpha)['edges'][0]
  np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
  ('norm', 'stride'),
  [('none', 2), ('affine', 1), *marks.slow(('none', 1), ('affine', 2))],
)
def test_a_saturated_supernet_is_the_discrete_cell(norm, stride):
  space = dataclasses.replace(SMALL, norm=norm)
  cell, params, _, x = darts_cases.supernet(space, stride=stride)
  chosen = genotype.discretise(
    darts_cases.logits(space, 7), space, stride=stride
  )
  apply = jax.jit(cell.apply)
  whole = apply(params, [x], chosen.mixing())
  kept = {'params': cells.pruned(params['params'], space, chosen)}
  alone = cell.clone(genotype=chosen)
  shapes = jax.eval_shape(lambda: alone.init(seeds.key(0), [x]))
  assert jax.tree.map(jnp.shape, kept) == jax.tree.map(jnp.shape, shapes)
  np.testing.assert_allclose(
    jax.jit(alone.apply)(kept, [x]), whole, rtol=1e-5, atol=1e-5
  )
  # Logits far apart come near it too.
  hot = {'edges': 200.0 * chosen.mixing()['edges']}
  zero = space.ops.index('Zero')
  unkept = hot['edges'].sum(-1) == 0
  hot['edges'][unkept, zero] = 200.0
  near = apply(params, [x], probabilities_lib.probabilities(hot))
  np.testing.assert_allclose(near, whole, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('norm', spaces.NORMS)
def test_only_batch_statistics_join_examples(norm):
  space = spaces.CellSpace(('Conv3x3', 'Zero'), nodes=1, norm=norm)
  cell, params, p, x = darts_cases.supernet(space)
  both, alone = jax.jit(
    lambda x: [cell.apply(params, [part], p) for part in (x, x[:1])]
  )(x)
  differ = np.abs(both[:1] - np.asarray(alone)).max()
  assert (differ > 1e-2) if norm == 'batch_stats' else (differ < 1e-5)


def test_norms_that_normalise_do():
  """The published batch norm multiplied by 0.9995 and normalised nothing."""
  space = spaces.CellSpace(
    ('SkipConnection', 'Zero'), nodes=1, output='last', norm='batch_stats'
  )
  cell = cells.Cell(3, space)
  x = 5 + 4 * seeds.rng(1).normal(size=(8, 6, 5, 3))
  x += 40 * np.arange(3)  # Or three channels may be equal by chance.
  x = jnp.asarray(x, jnp.float32)
  p = genotype.CellGenotype((((0, 'SkipConnection'),),), space).mixing()
  for norm, axes in (('batch_stats', (0, 1, 2)), ('layer', -1)):
    one = cell.clone(space=dataclasses.replace(space, norm=norm))
    y, params = jax.jit(one.init_with_output)(seeds.key(0), [x], p)
    y = np.asarray(y)
    np.testing.assert_allclose(y.mean(axes), 0, atol=1e-4)
    np.testing.assert_allclose(y.std(axes), 1, atol=1e-3)
    assert set(params['params']) == {'scale', 'bias'}
  affine = cell.clone(space=dataclasses.replace(space, norm='affine'))
  y, _ = jax.jit(affine.init_with_output)(seeds.key(0), [x], p)
  np.testing.assert_array_equal(y, x)


def test_many_architectures_in_one_program():
  cell, params, _, x = darts_cases.supernet(SMALL)

  @jax.jit
  def drawn(keys):
    labels = jax.vmap(lambda k: genotype.random_labels(k, SMALL))(keys)
    masks = {'edges': genotype.mixing(labels, len(SMALL.ops))}
    return labels, jax.vmap(lambda p: cell.apply(params, [x], p))(masks)

  labels, together = map(np.asarray, drawn(jax.random.split(seeds.key(6), 3)))
  for row, expected in zip(labels, together, strict=True):
    one = genotype.from_labels(row, SMALL)
    kept = {'params': cells.pruned(params['params'], SMALL, one)}
    alone = jax.jit(cell.clone(genotype=one).apply)(kept, [x])
    np.testing.assert_allclose(expected, alone, rtol=1e-4, atol=1e-5)


def test_bfloat16_computes_and_float32_adds():
  """Sums over pixels in bfloat16 lose half of the gradients of this cell."""
  space = spaces.CellSpace(('SkipConnection', 'Conv3x3', 'Zero'), nodes=2)
  cell, params, p, _ = darts_cases.supernet(space)
  x = darts_cases.normal(7, (32, 9, 7, 3)).astype(jnp.bfloat16)

  def gradients(dtype):
    def loss(params, p):
      y = cell.clone(dtype=dtype).apply(params, [x], p)
      assert y.dtype == dtype
      return jnp.sum(y.astype(jnp.float32) ** 2)

    return jax.jit(jax.grad(loss, (0, 1)))(params, p)

  found, expected = gradients(jnp.bfloat16), gradients(jnp.float32)
  assert {leaf.dtype for leaf in jax.tree.leaves(found)} == {jnp.dtype('f4')}
  darts_cases.grads_close(found, expected, 2e-2)


def test_misuse_is_told():
  cell, params, p, x = darts_cases.supernet(SMALL)
  chosen = genotype.discretise(darts_cases.logits(SMALL), SMALL)
  other = dataclasses.replace(SMALL, norm='none')
  weighted = dataclasses.replace(SMALL, output='weighted')
  for cell_, args, text in (
    (cell, ([x, x], p), '1 inputs, got 2'),
    (cell, ([x], None), 'needs weights, .* got none and genotype=None'),
    (cell.clone(genotype=chosen), ([x], p), 'got weights and genotype=Cell'),
    (cell, ([x], {'edges': p['edges'][:2]}), r'shapes .*\(6, 5\)'),
    (cell.clone(space=weighted), ([x], p), r"'out': \(3,\)"),
    (
      cell.clone(genotype=chosen, stride=2),
      ([x],),
      r'with stride 1 is no cell',
    ),
    (cell.clone(genotype=chosen, space=other), ([x],), 'is no cell'),
  ):
    with pytest.raises(ValueError, match=text):
      cell_.apply(params, *args)
