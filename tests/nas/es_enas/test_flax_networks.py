"""Pruning and sharing of a user's Flax module."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nas.es_enas import edges, networks, partitions
from rl.es import policies as es_policies
from tests import seeds
from tests.nas.es_enas import policy_cases as cases

CONV = 3 * 3 * 2 * 3
HEAD = 3 * 3 * 3 * 2
REST = 3 + 3 + 3 + 2
SEEN = cases.observations(0, 3, cases.PICTURES.shape)


@jax.jit
def direct(conv, head, rest):
  """What the module itself does with all it sees, its parameters named."""
  bias, out, norm_bias, norm_scale = jnp.split(rest, [3, 5, 8])
  params = {
    'conv': {'kernel': conv.reshape(3, 3, 2, 3), 'bias': bias},
    'head': {'kernel': head.reshape(27, 2), 'bias': out},
    'norm': {'bias': norm_bias, 'scale': norm_scale},
  }

  def action(seen):
    outputs = cases.Net().apply({'params': params}, seen)
    return es_policies.to_action(cases.ACTIONS, outputs)

  return jax.vmap(action)(SEEN)


def test_shapes():
  network = cases.make_flax('dense').network
  assert isinstance(network, networks.Network)
  assert network.shapes == ((18, 3), (27, 2))
  assert network.rest == REST
  # The convolution has 3 x 3 positions, the head one.
  assert network.uses == (9, 1)
  assert cases.make_flax('dense', ('params/head/*nel',)).network.shapes == (
    (27, 2),
  )


def test_multiplications_of_a_convolution():
  found = cases.make_flax('dense').costs()
  assert int(found['edges']) == CONV + HEAD
  assert int(found['multiplications']) == 9 * CONV + HEAD
  assert int(found['biases']) == REST


def test_colours_against_the_module():
  policy = cases.make_flax(partitions.Partition(4))
  assert policy.size == 4 + REST
  thetas, drawn = cases.draw(policy, 1, 3)
  found = cases.act(policy, (thetas, drawn), SEEN)
  for theta, colors, actions in zip(thetas, drawn, found, strict=True):
    weights = theta[:4][colors]
    expected = direct(weights[:CONV], weights[CONV:], theta[4:])
    np.testing.assert_allclose(actions, expected, rtol=1e-4, atol=1e-5)


def test_pruned_kernels_against_the_module():
  """The convolution only; the head belongs to the rest, in order of paths."""
  policy = cases.make_flax(edges.Pruned(20), ('params/conv/kernel',))
  (theta,), (architecture,) = cases.draw(policy, 2, 1)
  assert policy.size == CONV + HEAD + REST
  kept = np.isin(np.arange(CONV), architecture)
  conv, bias, head_bias, head, norm = np.split(
    theta, [CONV, CONV + 3, CONV + 5, CONV + 5 + HEAD]
  )
  rest = np.concatenate([bias, head_bias, norm])
  found = cases.act(policy, (theta[None], architecture[None]), SEEN)[0]
  expected = direct(conv * kept, head, rest)
  np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_dense_is_the_policy_of_rl_es():
  """With the module's own first biases and scales."""
  policy = cases.make_flax('dense')
  theta = jax.jit(policy.init)(seeds.key(3))
  params = policy.unravel(theta)['params']
  assert (params['norm']['scale'] == 1).all()
  assert 0.08 < theta[: CONV + HEAD].std() < 0.12
  flax = es_policies.FlaxPolicy(cases.Net(), cases.PICTURES, cases.ACTIONS)
  flat = jax.flatten_util.ravel_pytree({'params': params})[0]
  np.testing.assert_allclose(
    cases.act(policy, theta[None], SEEN),
    cases.act(flax, flat[None], SEEN),
    rtol=1e-5,
  )


@pytest.mark.parametrize(
  ('kernels', 'message'),
  [
    ((), "a pattern of .*'params/conv/kernel'"),
    (('params/dense/*',), "got 'params/dense/\\*' for .*'params/conv/kernel'"),
    (('params/conv/*',), "two axes or more, got 'params/conv/bias'"),
  ],
)
def test_rejects(kernels, message):
  with pytest.raises(ValueError, match=message):
    cases.make_flax('dense', kernels)
