"""Encoders: shapes, counts, scaling; the recurrent core against a loop."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from rl import networks
from rl.rainbow import networks as rainbow_networks
from rl.sac import networks as sac_networks
from tests import marks, modules, refusals, seeds, trees

KEY = jax.random.key(3)


def _count(module, shape):
  x = jnp.zeros((1, *shape), jnp.uint8)
  shapes = jax.eval_shape(module.init, KEY, x)
  return sum(np.prod(leaf.shape) for leaf in jax.tree.leaves(shapes))


@pytest.mark.parametrize(
  ('depths', 'count'), [((16, 32, 32), 622_144), ((64,) * 5, 953_856)]
)
def test_impala_has_as_many_parameters_as_published(depths, count):
  assert _count(networks.ImpalaCNN(depths), (64, 64, 3)) == count


def test_nature_has_as_many_parameters_as_published():
  # Without padding 84x84 becomes 20x20, 9x9, 7x7.
  convs = 8 * 8 * 4 * 32 + 32 + 4 * 4 * 32 * 64 + 64 + 3 * 3 * 64 * 64 + 64
  dense = 7 * 7 * 64 * 512 + 512
  assert _count(networks.NatureCNN(), (84, 84, 4)) == convs + dense


@pytest.mark.parametrize(
  ('module', 'shape', 'width'),
  [
    (networks.MLP((5, 7)), (2, 3), 7),
    *marks.slow((networks.NatureCNN(9), (36, 40, 2), 9)),
    (networks.ImpalaCNN((2, 3), 11), (7, 5, 2), 11),
  ],
)
def test_pixels_are_divided_by_255(module, shape, width):
  pixels = seeds.rng(3).integers(0, 256, (4, *shape), np.uint8)

  @jax.jit
  def run(pixels, *floats):
    params = module.init(KEY, pixels)
    apply = functools.partial(module.apply, params)
    return apply(pixels), jax.vmap(apply)(jnp.stack(floats))

  unscaled = pixels.astype(np.float32)
  features, (scaled, unscaled) = run(pixels, unscaled / 255, unscaled)
  assert features.shape == (4, width)
  assert features.dtype == jnp.float32
  assert np.std(features) > 0
  np.testing.assert_allclose(features, scaled, rtol=1e-5, atol=1e-6)
  assert np.abs(features - unscaled).max() > 1e-2


@pytest.mark.parametrize(
  'module',
  [
    rainbow_networks.Distributions(None, 3, 2, hidden=(4,)),
    sac_networks.Policy(2, hidden=(4,)),
  ],
)
def test_pixels_without_an_encoder_are_too(module):
  x = jax.random.randint(KEY, (5, 4, 3), 0, 256).astype(jnp.uint8)
  params = modules.init(module, KEY, x)
  trees.check_close(
    modules.apply(module, params, x),
    modules.apply(module, params, x / 255),
    rtol=1e-5,
    atol=1e-6,
  )


def test_mlp_is_dense_layers_from_orthogonal_kernels():
  module = networks.MLP((6, 3))
  x = np.asarray(jax.random.normal(KEY, (5, 4)))
  params = modules.init(module, KEY, jnp.asarray(x))
  want = np.float64(x)
  for layer in params['params'].values():
    kernel = np.float64(layer['kernel'])
    small = kernel if kernel.shape[0] < kernel.shape[1] else kernel.T
    np.testing.assert_allclose(
      small @ small.T, 2 * np.eye(len(small)), atol=1e-5
    )
    want = np.tanh(want @ kernel + layer['bias'])
  got = modules.apply(module, params, jnp.asarray(x))
  np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


def test_impala_blocks_add_their_input():
  """With zero kernels after the first layer only identity paths are left."""
  module = networks.ImpalaCNN((2,), 3)
  x = jnp.abs(jax.random.normal(KEY, (1, 5, 5, 1)))
  params = modules.init(module, KEY, x)['params']
  for name in ('Conv_1', 'Conv_2', 'Conv_3', 'Conv_4'):
    params[name] = jax.tree.map(jnp.zeros_like, params[name])
  first = modules.apply(nn.Conv(2, (3, 3)), {'params': params['Conv_0']}, x)
  pooled = nn.max_pool(first, (3, 3), (2, 2), 'SAME')
  assert pooled.shape == (1, 3, 3, 2)
  dense = params['Dense_0']
  want = nn.relu(pooled).reshape(1, -1) @ dense['kernel'] + dense['bias']
  np.testing.assert_allclose(
    modules.apply(module, {'params': params}, x),
    nn.relu(want),
    rtol=1e-5,
    atol=1e-6,
  )


def test_orthogonal_in_many_agents_at_once():
  init = networks.orthogonal(3.0)
  keys = jax.random.split(KEY, 300)
  draw = jax.jit(
    jax.vmap(lambda key: (init(key, (5, 4)), init(key, (1, 3, 7))))
  )
  tall, wide = (np.float64(x) for x in draw(keys))
  grams = np.einsum('nij,nik->njk', tall, tall)
  np.testing.assert_allclose(
    grams, np.tile(9 * np.eye(4), (300, 1, 1)), atol=1e-4
  )
  wide = wide.reshape(300, 3, 7)
  grams = np.einsum('nij,nkj->nik', wide, wide)
  np.testing.assert_allclose(
    grams, np.tile(9 * np.eye(3), (300, 1, 1)), atol=1e-4
  )
  # Uniform: every entry has mean 0 and second moment gain^2 / rows.
  for x, size in ((tall, 5), (wide, 7)):
    assert np.abs(x.mean(0)).max() < 4.5 * 3 / np.sqrt(size * 300)
    spread = (x**2).std(0) / np.sqrt(300)
    assert (np.abs((x**2).mean(0) - 9 / size) < 4.5 * spread).all()


def test_symmetric_uniform():
  draw = networks.symmetric_uniform(0.03)(KEY, (20_000,))
  # A mean within four standard errors, and both ends reached.
  assert abs(float(draw.mean())) < 4 * 0.03 / np.sqrt(3 * 20_000)
  assert -0.03 <= float(draw.min()) < -0.0299
  assert 0.0299 < float(draw.max()) <= 0.03
  assert networks.symmetric_uniform(0.03) is networks.symmetric_uniform(0.03)
  with pytest.raises(ValueError, match='bound'):
    networks.symmetric_uniform(0.0)


def test_gru_forgets_where_episodes_begin():
  core = networks.GRU(3)
  keys = jax.random.split(KEY, 2)
  x = jax.random.normal(keys[0], (4, 2, 5))
  memory = jax.random.normal(keys[1], (2, 3))
  first = jnp.zeros((4, 2), bool).at[2, 0].set(True)
  params = modules.init(core, KEY, memory, x, first)
  last, outputs = modules.apply(core, params, memory, x, first)
  cell = nn.GRUCell(3)
  inner = {'params': params['params']['GRUCell_0']}

  def run(carry, steps, lane):
    rows = []
    for t in steps:
      carry, out = modules.apply(cell, inner, carry, x[t, lane])
      rows.append(out)
    return carry, np.stack(rows)

  zero = core.initial_memory(1)[0]
  _, before = run(memory[0], range(2), 0)
  end, after = run(zero, range(2, 4), 0)
  want = np.concatenate([before, after])
  np.testing.assert_allclose(outputs[:, 0], want, rtol=1e-5, atol=1e-6)
  np.testing.assert_allclose(last[0], end, rtol=1e-5, atol=1e-6)
  kept, want = run(memory[1], range(4), 1)
  np.testing.assert_allclose(outputs[:, 1], want, rtol=1e-5, atol=1e-6)
  np.testing.assert_allclose(last[1], kept, rtol=1e-5, atol=1e-6)
  # Keeping the memory gives other numbers in the lane that forgot.
  wrong, _ = run(memory[0], range(4), 0)
  assert np.abs(wrong - last[0]).max() > 1e-3


test_sizes_are_positive = refusals.table(
  (lambda: networks.MLP(widths=(8, 0)), 'widths must be positive'),
  (lambda: networks.NatureCNN(dense=-2), 'dense must be positive'),
  (lambda: networks.ImpalaCNN(depths=(0,)), 'depths must be positive'),
  (lambda: networks.GRU(size=0), 'size must be positive'),
)
