"""Weight sharing in any policy of rl: names, memories, manifolds."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from nas.es_enas import controllers, edges, networks, policies, training
from nas.es_enas import sharing as sharing_lib
from performer import attention
from rl.envs import pendulum, spaces
from rl.es import cma, geometry, strategy
from rl.es import policies as es_policies
from rl.implicit_attention import controllers as memories
from rl.implicit_attention import fronts, patches, votes
from rl.implicit_attention import policies as pixel_policies
from rl.odetoode import bodies, heads
from tests import seeds

SEEN = spaces.Box((3,), -1.0, 1.0)
ACTIONS = spaces.Box((2,), -1.0, 1.0)
PICTURES = spaces.Box((12, 12, 3), 0.0, 1.0)
OUTSIDE = ('input', 'readout')
FLOW = functools.partial(
  heads.Policy, body=bodies.ODEtoODE(4, n_steps=2), constrain_io=False
)
PLAIN = FLOW(SEEN, ACTIONS)
LOOK = functools.partial(
  pixel_policies.PixelPolicy,
  front=fronts.Rank(
    votes.Implicit(attention.Favor(kernel='relu', features=4)),
    patches.Patches(4, 4),
    count=2,
  ),
  controller=memories.LSTM(3),
)


@functools.cache
def flow(sharing, kernels=OUTSIDE):
  return policies.shared(
    SEEN, ACTIONS, policy=FLOW, sharing=sharing, kernels=kernels
  )


@functools.partial(jax.jit, static_argnums=0)
def acts(policy, member, seen):
  """The action on one observation."""
  return policy.act(policy.unravel(member), (), seen)[1]


def test_a_flow_whose_outside_has_a_weight_for_each_edge_is_the_policy():
  policy, plain = flow(sharing_lib.Dense()), PLAIN
  theta = np.float32(seeds.rng(0).normal(size=plain.size))
  named = jax.device_get(jax.jit(plain.params)(theta))
  # Edges first, in the order of names; then the body.
  outside = [named['input'], named['readout']]
  split = np.concatenate(
    [x.reshape(-1) for x in (*outside, *jax.tree.leaves(named['body']))]
  )
  assert policy.size == plain.size == split.size
  assert policy.network.shapes == ((4, 3), (2, 4))
  seen = jnp.array([0.3, -0.2, 0.9])
  np.testing.assert_allclose(
    acts(policy, split, seen), acts(plain, theta, seen), rtol=1e-6
  )


def test_pruned_edges_are_zeros_of_the_policy():
  policy, plain = flow(edges.Pruned(5)), PLAIN
  theta = np.float32(seeds.rng(1).normal(size=policy.size))
  architecture = np.array([0, 3, 7, 12, 19])
  kept = np.isin(np.arange(20), architecture)
  # The plain policy's theta: body, input, readout.
  whole = np.concatenate([theta[20:], theta[:20] * kept])
  seen = jnp.array([0.3, -0.2, 0.9])
  found = acts(policy, (theta, architecture), seen)
  np.testing.assert_allclose(found, acts(plain, whole, seen), rtol=1e-6)


def test_what_is_not_shared_stays_on_its_manifold():
  policy = flow(edges.Pruned(5))
  moves = policy.geometry
  theta = np.asarray(jax.jit(policy.init)(seeds.key(2)))
  size = moves.size(theta.size)
  # W_0 [4, 4] has 6 coordinates.
  assert size == theta.size - 16 + 6
  perturb = jax.jit(moves.perturb)
  step = seeds.rng(3).normal(size=(1, size)).astype(np.float32)
  moved = np.asarray(perturb(theta, np.float32(0.3) * step)[0])
  plain = jax.jit(lambda theta: PLAIN.params(theta)['body']['w0'])
  at = [
    np.asarray(plain(np.concatenate([one[20:], one[:20]])))
    for one in (theta, moved)
  ]
  for matrix in at:
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(4), atol=1e-5)
  assert np.abs(at[1] - at[0]).max() > 0.05
  # The whole policy's geometry moves the same blocks alike.
  whole = PLAIN.geometry
  inside = whole.size(PLAIN.size) - 20
  tangents = np.concatenate([step[0, 20:], step[0, :20]])[None]
  [expected] = np.asarray(
    jax.jit(whole.perturb)(np.concatenate([theta[20:], theta[:20]]), tangents)
  )
  assert inside == size - 20
  [found] = np.asarray(perturb(theta, step))
  np.testing.assert_allclose(found[20:], expected[:-20], atol=1e-6)
  np.testing.assert_allclose(found[:20], expected[-20:], atol=1e-6)


def test_a_memory_is_that_of_the_policy():
  kernels = ('params/controller/input', 'params/head/kernel')
  policy = policies.shared(
    PICTURES, ACTIONS, policy=LOOK, sharing=sharing_lib.Dense(), kernels=kernels
  )
  plain = LOOK(PICTURES, ACTIONS)
  assert policy.geometry == geometry.EUCLIDEAN
  shared = jax.jit(lambda key: policy.unravel(policy.init(key)))(seeds.key(5))
  flat = np.concatenate([x.reshape(-1) for x in jax.tree.leaves(shared[0])])
  own = jax.jit(plain.unravel)(flat)
  picture = np.float32(seeds.rng(6).random(PICTURES.shape))
  found, expected = policy.initial_memory(), plain.initial_memory()
  acts, plainly = jax.jit(policy.act), jax.jit(plain.act)
  for _ in range(2):
    found, action = acts(shared, found, picture)
    expected, other = plainly(own, expected, picture)
    np.testing.assert_array_equal(action, other)
  assert np.abs(found[0]).max() > 0
  # A layer is counted by its outputs: there are 3 x 3 patches.
  assert policy.network.uses == (1, 1)
  front = networks.OfPolicy(plain, ('params/front/pair/kernel',))
  assert front.shapes == ((4 * 4 * 3, 2 * 4),)
  assert front.uses == (9,)


@pytest.mark.parametrize(
  ('made', 'kernels', 'message'),
  [
    (FLOW(SEEN, ACTIONS), ('body/w0',), 'must be free, got orthogonal'),
    (FLOW(SEEN, ACTIONS), ('outputs',), "got 'outputs' for .*'body/w0'"),
    (es_policies.MLP(SEEN, ACTIONS), ('*',), 'parameters by name'),
  ],
)
def test_what_cannot_be_shared_is_refused(made, kernels, message):
  with pytest.raises(ValueError, match=message):
    networks.OfPolicy(made, kernels)


def test_a_manifold_needs_a_strategy_that_knows_it():
  make = functools.partial(
    training.ESENASTrainer,
    env=pendulum.Pendulum(),
    policy=functools.partial(
      policies.shared, policy=FLOW, sharing=edges.Pruned(5), kernels=OUTSIDE
    ),
    controller=controllers.Evolution,
  )
  es = strategy.Strategy(strategy.ESConfig(num_pairs=2), optax.sgd(0.1))
  trainer = make(strategy=es)
  assert trainer.search(0).search.geometry == trainer.fitted_policy.geometry
  with pytest.raises(ValueError, match=r'need a strategy\.Strategy, got CMAES'):
    make(strategy=cma.CMAES(0.5))
