import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nas.rl_darts import cells, genotype, networks, recurrent, spaces
from nas.rl_darts import probabilities as probabilities_lib
from rl import networks as rl_networks
from tests import marks, modules, refusals, seeds
from tests.nas.rl_darts import darts_cases

SMALL = spaces.CellSpace(nodes=2)
TINY = {'depths': (4,), 'dense': 8, 'space': SMALL}


def count(network):
  picture = jnp.zeros((1, 64, 64, 3), jnp.uint8)
  shapes = jax.eval_shape(lambda: network.init(jax.random.key(0), picture))
  return sum(leaf.size for leaf in jax.tree.leaves(shapes))


@pytest.mark.parametrize(
  ('network', 'published'),
  [
    (rl_networks.ImpalaCNN(), 622_144),
    (networks.Micro(), 974_162),
    (networks.Classic(space=spaces.MICRO), 1_178_484),
    *marks.slow(
      (rl_networks.ImpalaCNN(depths=(64,) * 5), 953_856),
      (networks.Micro(depths=(16, 16, 16), space=spaces.CLASSIC), 1_322_300),
    ),
  ],
)
def test_parameters_are_those_of_the_reference_code(network, published):
  """arXiv:2106.02229's code, executed; its affine pair per cell is counted."""
  assert count(network) == published


@pytest.fixture(scope='module')
def pictures():
  return jnp.asarray(seeds.rng(0).random((2, 8, 8, 3)), jnp.float32)


@pytest.fixture(scope='module')
def masks(pictures):
  """First masks of a network, by a key."""
  network = networks.Micro(**TINY, architecture=networks.Masked())
  init = lambda key: network.init(key, pictures)['params']['alpha']
  return jax.jit(lambda key: init(key)['normal']['edges'])


def test_logits_beside_the_weights(pictures):
  network = networks.Micro(**TINY)
  params = modules.drawn(network, pictures)
  weights = {k: v for k, v in params['params'].items() if k != 'alpha'}
  each = [{'normal': darts_cases.logits(SMALL, number)} for number in range(3)]
  alphas = jax.tree.map(lambda *x: np.stack(x), *each)
  run = jax.jit(
    jax.vmap(lambda a: network.apply({'params': weights}, pictures, a))
  )
  found = run(alphas)
  assert found.shape == (3, 2, 8)
  inside = {'params': {**weights, 'alpha': each[1]}}
  np.testing.assert_allclose(
    found[1], jax.jit(network.apply)(inside, pictures), rtol=1e-5, atol=1e-6
  )


@pytest.mark.slow
def test_shared_logits_gather_the_gradients_of_all_cells(pictures):
  """The gradient of 'normal' is that of copies for each cell, summed."""
  pair = networks.Micro(**TINY, pair=True)
  one = networks.Micro(**TINY)
  alpha = darts_cases.logits(SMALL)
  params = modules.drawn(one, pictures)
  weights = {k: v for k, v in params['params'].items() if k != 'alpha'}

  def loss(network, alpha):
    y = network.apply({'params': weights}, pictures, alpha)
    return jnp.sum(y * jnp.arange(y.size).reshape(y.shape))

  shared = jax.grad(lambda a: loss(one, {'normal': a}))(alpha)
  apart = jax.grad(lambda a: loss(pair, a))(
    {'normal1': alpha, 'normal2': alpha}
  )
  summed = jax.tree.map(jnp.add, *apart.values())
  assert np.abs(apart['normal1']['edges']).max() > 1e-3
  darts_cases.grads_close(shared, summed)


def test_masks_are_the_discrete_network(pictures, masks):
  """A drawn or given cell in the supernet's program, and that cell alone."""
  drawn = networks.Micro(**TINY, architecture=networks.Masked())
  params = modules.drawn(drawn, pictures)
  mask = np.asarray(masks(seeds.key(3)))
  params['params']['alpha'] = {'normal': {'edges': mask}}
  labels = np.where(mask.sum(-1) > 0, mask.argmax(-1), -1)
  cell = genotype.from_labels(labels, SMALL)
  chosen = genotype.Genotype.of({'normal': cell})
  given = drawn.clone(architecture=networks.Masked(chosen))
  again = jax.jit(lambda k: given.init(k, pictures)['params']['alpha'])
  np.testing.assert_array_equal(again(seeds.key(4))['normal']['edges'], mask)
  alone = networks.Micro(**TINY, architecture=chosen)
  own = {
    name: cells.pruned(value, SMALL, cell) if name.startswith('cell') else value
    for name, value in params['params'].items()
    if name != 'alpha'
  }

  @jax.jit
  @functools.partial(jax.grad, has_aux=True)
  def run(params):
    found = drawn.apply(params, pictures)
    return found.sum(), found

  grads, found = run(params)
  np.testing.assert_allclose(
    found, jax.jit(alone.apply)({'params': own}, pictures), rtol=1e-5, atol=1e-6
  )
  assert not np.any(grads['params']['alpha']['normal']['edges'])
  with pytest.raises(ValueError, match='takes no alpha'):
    alone.apply({'params': own}, pictures, {})


def test_genotypes_of_other_networks_are_refused(pictures):
  labels = genotype.random_labels(seeds.key(0), SMALL)
  cell = genotype.from_labels(labels, SMALL)
  both = genotype.Genotype.of({'normal': cell, 'reduction': cell})
  sorted_ops = dataclasses.replace(SMALL, ops=tuple(sorted(SMALL.ops)))
  of_sorted = genotype.Genotype.of(
    {'normal': genotype.from_labels(np.array([0, -1, 0]), sorted_ops)}
  )
  for architecture, text in (
    (both, r"Micro has .* \['normal'\], got .* \['normal', 'reduction'\]"),
    (networks.Masked(both), 'got a genotype of'),
    # Masks have no names of operations.
    (networks.Masked(of_sorted), "masks are of the network's space"),
  ):
    network = networks.Micro(**TINY, architecture=architecture)
    with pytest.raises(ValueError, match=text):
      network.init(seeds.key(1), pictures)
  with pytest.raises(ValueError, match=r"types \['normal'\], got \['red'\]"):
    networks.Micro(**TINY).init(seeds.key(1), pictures, {'red': {}})
  with pytest.raises(ValueError, match=r"types \['normal'\], got \['red'\]"):
    networks.Micro(**TINY).derive({'red': {}})


@pytest.mark.parametrize('kind', [networks.Micro, networks.PISACEncoder])
def test_what_is_no_batch_of_pictures_is_refused(kind, pictures):
  for wrong in (pictures[0], pictures[:, 0, 0]):
    with pytest.raises(ValueError, match=r'pictures \[n, h, w, c\], got'):
      kind().init(seeds.key(1), wrong)


def test_first_masks_differ_with_the_key(masks):
  one, two = (np.asarray(masks(seeds.key(i))) for i in (5, 6))
  assert np.any(one != two)


class _Published(networks.Micro):
  """The forward pass of the published code: softmax(alpha T)."""

  def mixing(self, alpha):
    temperature = 1 / self.architecture.temperature
    return {
      kind: probabilities_lib.probabilities(logits, temperature)
      for kind, logits in alpha.items()
    }


def _error_of_reported(network, params, picture, alpha):
  """How far a forward pass is from that of the probabilities that are reported."""
  p = probabilities_lib.probabilities(
    alpha['normal'], network.architecture.temperature
  )
  plain = networks.Micro(
    architecture=networks.Masked(),
    space=network.space,
    depths=network.depths,
    dense=None,
  )
  found = jax.jit(network.apply)(params, picture, alpha)
  expected = jax.jit(plain.apply)(params, picture, {'normal': p})
  return np.abs(found - np.asarray(expected)).max(), p['edges'][0]


def test_temperature_is_one_thing():
  """Forward pass, derived cells and entropies divide by the same T."""
  settings = {
    'architecture': networks.Relaxed(temperature=2.0),
    'space': spaces.CellSpace(('Relu', 'Tanh', 'Zero'), nodes=1, output='last'),
    'depths': (3,),
    'dense': None,
  }
  alpha = {'normal': {'edges': jnp.array([[1.0, 0.0, 0.0]])}}
  picture = darts_cases.normal(0, (1, 4, 4, 3))
  ours, published = networks.Micro(**settings), _Published(**settings)
  params = modules.drawn(ours, picture, alpha)
  error, p = _error_of_reported(ours, params, picture, alpha)
  assert error < 1e-6
  assert _error_of_reported(published, params, picture, alpha)[0] > 1e-2
  # e^0.5 / (e^0.5 + 2), not e^2 / (e^2 + 2).
  expected = np.exp([0.5, 0.0, 0.0]) / (np.exp(0.5) + 2)
  np.testing.assert_allclose(p, expected, rtol=1e-5)


def test_kept_activations_may_be_computed_again(pictures):
  space = dataclasses.replace(SMALL, nodes=1)
  network = networks.Micro(**TINY | {'space': space})
  params = modules.drawn(network, pictures)

  def run(network):
    def loss(params):
      found = network.apply(params, pictures)
      return found.sum(), found

    return jax.jit(jax.grad(loss, has_aux=True))(params)

  again, (grads, whole) = run(network.clone(remat=True)), run(network)
  darts_cases.grads_close(again[0], grads)
  low = jax.jit(network.clone(dtype='bfloat16').apply)(params, pictures)
  assert low.dtype == jnp.float32
  np.testing.assert_allclose(low, whole, rtol=0.1, atol=0.1)


def test_shapes_of_all_networks():
  shape = lambda network, *size: (
    jax.eval_shape(
      lambda: network.init_with_output(jax.random.key(0), jnp.zeros((2, *size)))
    )[0].shape
  )
  small = {'space': SMALL}
  assert shape(networks.Classic(**small, depths=(2, 3)), 17, 17, 3) == (2, 256)
  raw = networks.Classic(**small, depths=(2, 3), dense=None, reduction=3)
  assert shape(raw, 17, 17, 3) == (2, 2, 2, 3)
  assert shape(networks.PISACEncoder(**small), 84, 84, 9) == (2, 50)


def test_filter_response_by_hand(pictures):
  network = networks.PISACEncoder(space=SMALL, channels=4, num_cells=0)
  params = jax.jit(network.init)(seeds.key(1), pictures)['params']
  conv = jax.lax.conv_general_dilated(
    pictures,
    params['conv_kernel'],
    (2, 2),
    'VALID',
    dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
  )
  x = np.asarray(conv, np.float64)
  x = x / np.sqrt((x**2).mean((1, 2), keepdims=True) + 1e-6)
  x = np.maximum(x, 0).reshape(2, -1) @ np.asarray(params['dense']['kernel'])
  x -= x.mean(-1, keepdims=True)
  expected = x / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
  found = jax.jit(network.apply)({'params': params}, pictures)
  np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.slow
def test_recurrent_core_step_by_step():
  core = recurrent.CellGRU(3)
  x = jax.random.normal(seeds.key(0), (4, 2, 5))
  first = jnp.zeros((4, 2), bool).at[2, 0].set(True)
  memory = jax.random.normal(seeds.key(1), (2, 3))
  params = jax.jit(core.init)(seeds.key(2), memory, x, first)
  last, outputs = core.apply(params, memory, x, first)
  own = params['params']['step']
  h = memory
  cell = cells.Cell(3, spaces.RNN)
  p = probabilities_lib.probabilities(own['alpha']['normal'])
  for t in range(4):
    h = jnp.where(first[t][:, None], 0, h)
    layer = lambda name, v: v @ own[name]['kernel'] + own[name].get('bias', 0)
    gate = jax.nn.sigmoid(layer('x_gate', x[t]) + layer('h_gate', h))
    new = jnp.tanh(layer('x_new', x[t]) + layer('h_new', h))
    h = gate * new + (1 - gate) * h
    h = cell.apply({'params': own['cell']}, [h], p)
    np.testing.assert_allclose(outputs[t], h, rtol=1e-4, atol=1e-5)
  np.testing.assert_array_equal(last, outputs[-1])


test_sizes_are_positive = refusals.table(
  (lambda: networks.Micro(depths=(8, 0)), 'depths must be positive'),
  (lambda: networks.Classic(dense=-1), 'dense must be positive'),
  (lambda: networks.PISACEncoder(features=0), 'features must be positive'),
)
