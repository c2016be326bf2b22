"""One trunk or two: who shares what, and memories lane by lane."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rl import networks
from rl.ppo import networks as ppo_networks
from tests import marks, modules

KEY = jax.random.key(2)


def _network(separate=False, core=None, encoder=None, discrete=True):
  return ppo_networks.ActorCritic(
    3,
    discrete,
    encoder or networks.MLP((5,)),
    core,
    separate,
    networks.SMALL,
    networks.symmetric_uniform(0.03),
    -0.5,
  )


def _inputs(shape=(4,), steps=3):
  observation = jax.random.normal(KEY, (steps, 2, *shape))
  first = jnp.zeros((steps, 2), bool).at[0].set(True)
  return observation, first.at[2:3, 1].set(True)


def _reach(network, inputs):
  """Names of parameters that policy and values depend on."""
  memory = network.initial_memory(2)

  @jax.jit
  def slopes(params):
    def totals(params):
      out = network.apply(params, memory, *inputs)
      return jnp.stack([jnp.sum(out.policy.logits**2), jnp.sum(out.value**2)])

    grads = jax.jacrev(totals)(params)
    return [
      jax.tree.map(lambda g, i=i: jnp.abs(g[i]) > 0, grads) for i in (0, 1)
    ]

  found = slopes(modules.drawn(network, memory, *inputs))
  return tuple(
    {
      jax.tree_util.keystr(name): np.asarray(touched)
      for name, touched in jax.tree_util.tree_leaves_with_path(tree)
    }
    for tree in found
  )


def test_trunks_of_vectors():
  core = networks.GRU(4)
  policy, value = _reach(_network(True, core), _inputs())
  trunk = [k for k in policy if 'trunks' in k]
  for name in trunk:
    assert not policy[name][1].any()
    assert not value[name][0].any()
    assert value[name][1].any() or 'bias' in name
  policy, value = _reach(_network(False, core), _inputs())
  trunk = [k for k in policy if 'trunk' in k]
  assert any((policy[k] & value[k]).any() for k in trunk)


@pytest.mark.slow
def test_trunks_of_pictures():
  encoder = networks.ImpalaCNN((2,), 3)
  network = _network(True, networks.GRU(4), encoder)
  inputs = _inputs((5, 5, 1))
  policy, value = _reach(network, inputs)
  for name in policy:
    assert not (policy[name].any() and 'value' in name)
    assert not (value[name].any() and 'policy' in name)
  memory = network.initial_memory(2)
  params = network.init(KEY, memory, *inputs)
  out = network.apply(params, memory, *inputs)
  assert out.memory.shape == memory.shape == (2, 2, 4)


@pytest.mark.parametrize('separate', [*marks.slow(False), True])
def test_step_by_step_is_the_whole(separate):
  network = _network(separate, networks.GRU(4))
  observation, first = _inputs()
  memory = network.initial_memory(2)
  params = modules.init(network, KEY, memory, observation, first)
  whole = modules.apply(network, params, memory, observation, first)
  for t in range(3):
    out = modules.apply(
      network, params, memory, observation[t : t + 1], first[t : t + 1]
    )
    memory = out.memory
    np.testing.assert_allclose(out.value[0], whole.value[t], rtol=1e-5)
    np.testing.assert_allclose(
      out.policy.logits[0], whole.policy.logits[t], rtol=1e-5, atol=1e-7
    )
  np.testing.assert_allclose(memory, whole.memory, rtol=1e-5)


def test_heads_at_first():
  network = _network(discrete=False, encoder=networks.MLP((64,)))
  inputs = _inputs()
  params = modules.init(network, KEY, (), *inputs)['params']
  kernel = np.asarray(params['value']['kernel'])
  assert 0.02 < np.abs(kernel).max() <= 0.03
  gram = np.asarray(params['policy']['kernel'])
  np.testing.assert_allclose(gram.T @ gram, 1e-4 * np.eye(3), atol=1e-8)
  policy = modules.apply(network, {'params': params}, (), *inputs).policy
  np.testing.assert_array_equal(policy.log_std, np.full((3, 2, 3), -0.5))
