import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from nas.rl_darts import bilevel, networks, spaces
from nas.rl_darts import probabilities as probabilities_lib
from tests import modules, seeds
from tests.nas.rl_darts import darts_cases


def problem(dtype):
  """Two batches of a small supernet, and its parameters."""
  space = spaces.CellSpace(('Conv3x3', 'Tanh', 'Zero'), nodes=1)
  network = networks.Micro(depths=(3,), dense=None, space=space, dtype=dtype)
  rng = seeds.rng(0)
  pictures = jnp.asarray(rng.normal(size=(2, 5, 6, 6, 3)), dtype)
  goals = jnp.asarray(rng.normal(size=(2, 5, 3, 3, 3)), dtype)
  params = modules.drawn(network, pictures[0], dtype=dtype)

  def loss(index):
    def of(params):
      error = network.apply(params, pictures[index]) - goals[index]
      return jnp.mean(error**2), index

    return of

  return loss(0), loss(1), params


def test_both_orders_are_derivatives_by_finite_differences():
  """In float64: of the outer loss, at the weights or at those one step ahead."""
  rate = 0.3
  with jax.enable_x64(True):
    inner, outer, params = problem('float64')
    weights, alpha = probabilities_lib.split(params)
    direction = jax.tree.map(lambda a: seeds.rng(9).normal(size=a.shape), alpha)

    @jax.jit
    def values(size):
      """The two outer losses with the logits moved along the direction."""
      moved = jax.tree.map(lambda a, d: a + size * d, alpha, direction)
      at = lambda w: probabilities_lib.merge(w, moved)
      step = jax.grad(lambda w: inner(at(w))[0])(weights)
      ahead = jax.tree.map(lambda w, g: w - rate * g, weights, step)
      return outer(at(weights))[0], outer(at(ahead))[0]

    up, down = values(1e-5), values(-1e-5)
    expected = [float(a - b) / 2e-5 for a, b in zip(up, down, strict=True)]

    find = jax.jit(
      lambda rate: bilevel.alpha_gradient(inner, outer, params, rate)
    )
    along = []
    for size in (None, rate, 0.0):
      grads, aux = jax.device_get(find(size))
      assert aux == 1
      slopes = jax.tree.map(np.vdot, grads, direction)
      along.append(sum(jax.tree.leaves(slopes)))
  np.testing.assert_allclose(along[:2], expected, rtol=1e-7)
  # Without a step both orders are the same; with one they are not.
  assert along[2] == pytest.approx(along[0], rel=1e-12)
  assert abs(along[1] - along[0]) > 0.01 * abs(along[0])


def test_optimiser_of_logits():
  alpha = {'edges': jnp.array([[1.0, 0.0, -1.0]])}
  zeros = jax.tree.map(jnp.zeros_like, alpha)
  sharpen = bilevel.alpha_optimizer(0.1, entropy_cost=1.0)
  change, _ = jax.jit(sharpen.update)(zeros, sharpen.init(alpha), alpha)
  assert float(change['edges'][0, 0]) > 0 > float(change['edges'][0, 2])
  late = bilevel.alpha_optimizer(0.1, warmup=2, weight_decay=1.0)
  state, moves = late.init(alpha), []
  update = jax.jit(late.update)
  for _ in range(4):
    change, state = update(zeros, state, alpha)
    moves.append(float(change['edges'][0, 0]))
  assert moves[:2] == [0, 0]
  assert max(moves[2:]) < -0.05


def test_annealing_is_a_temperature_of_the_softmax():
  """Against Adam on alpha, with the loss of softmax(alpha / T) by hand."""
  temperature = optax.exponential_decay(1.0, 3, 0.5, end_value=0.2)
  alpha = b = darts_cases.logits(spaces.MICRO)
  value = darts_cases.normal(1, b['edges'].shape)
  loss = lambda logits: jnp.vdot(jax.nn.softmax(logits['edges']), value)
  by_hand, found = (
    optax.adam(0.1),
    bilevel.annealed(optax.adam(0.1), temperature),
  )
  cooled = lambda alpha, step: {'edges': alpha['edges'] / temperature(step)}

  @jax.jit
  def stepped(alpha, one, b, two, step):
    grads = jax.grad(lambda a: loss(cooled(a, step)))(alpha)
    change, one = by_hand.update(grads, one)
    alpha = optax.apply_updates(alpha, change)
    change, two = found.update(jax.grad(loss)(b), two, b)
    b = optax.apply_updates(b, change)
    return alpha, one, b, two, cooled(alpha, step + 1)['edges']

  one, two = by_hand.init(alpha), found.init(b)
  for step in range(12):
    alpha, one, b, two, expected = stepped(alpha, one, b, two, step)
    np.testing.assert_allclose(b['edges'], expected, rtol=1e-4, atol=1e-5)
  # The temperature counts: without it the logits stay a fifth of these.
  assert float(temperature(12)) == pytest.approx(0.2)
  assert np.abs(b['edges']).max() > 3 * np.abs(alpha['edges']).max()


def _around(logits):
  """Parameters whose only leaf is the logits of an edge."""
  return {'encoder': {'alpha': {'normal': {'edges': jnp.array([logits])}}}}


def _stepping(optimizer):
  @jax.jit
  def step(grads, state, params):
    change, state = optimizer.update(grads, state, params)
    return optax.apply_updates(params, change), state

  return step


def test_logits_stop_once_their_cells_stay():
  space = spaces.CellSpace(('Relu', 'Tanh'), nodes=1)
  edges = lambda tree: np.asarray(tree['encoder']['alpha']['normal']['edges'])
  optimizer = bilevel.settled(optax.sgd(1.0), space, patience=3)
  params = _around([0.5, 0.0])
  state, path = optimizer.init(params), []
  step = _stepping(optimizer)
  # Tanh overtakes in the second update; four more see it ahead.
  for pull in (0.3, 0.3, 0.3, 0.3, 0.3, 0.3, -9.0):
    params, state = step(_around([0.0, -pull]), state, params)
    path.append(edges(params)[0, 1])
  np.testing.assert_allclose(path, [0.3, 0.6, 0.9, 1.2, 1.5, 1.5, 1.5])
  with pytest.raises(ValueError, match='patience must be positive'):
    bilevel.settled(optax.sgd(1.0), space, patience=0)


def test_logits_settle_by_the_cells_that_are_capped():
  # Uncapped, the cell skips throughout; capped, its other operation changes.
  space = spaces.CellSpace(('SkipConnection', 'Relu', 'Tanh'), nodes=1)
  moved = []
  for max_skips in (None, 0):
    optimizer = bilevel.settled(optax.sgd(1.0), space, 2, max_skips)
    params = _around([5.0, 0.5, 0.0])
    state = optimizer.init(params)
    step = _stepping(optimizer)
    for _ in range(3):
      params, state = step(_around([0.0, 0.0, -0.6]), state, params)
    moved.append(float(params['encoder']['alpha']['normal']['edges'][0, 2]))
  np.testing.assert_allclose(moved, [0.6, 1.8], rtol=1e-6)


def test_labels_reach_into_any_tree():
  leaf = jnp.ones(2)
  tree = ({'a': {'alpha': {'normal': leaf}, 'kernel': leaf}}, [leaf])
  both = bilevel.partitioned(optax.sgd(1.0), optax.set_to_zero())
  change, _ = both.update(tree, both.init(tree))
  assert [float(x[0]) for x in jax.tree.leaves(change)] == [0, -1, -1]
  weights, alpha = probabilities_lib.split(tree)
  assert len(jax.tree.leaves(weights)) == 2
  assert len(jax.tree.leaves(alpha)) == 1
  merged = probabilities_lib.merge(weights, alpha)
  assert jax.tree.structure(merged) == jax.tree.structure(tree)
