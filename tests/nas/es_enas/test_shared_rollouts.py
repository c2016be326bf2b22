"""Members of different architectures under the evaluators of rl.es."""

import typing

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nas.es_enas import edges, partitions, policies, sharing
from rl.es import policies as es_policies
from rl.es import population as population_lib
from tests import marks, seeds
from tests.nas.es_enas import policy_cases
from tests.rl.es import es_cases

ENV = es_cases.Drift()
SPACES = ENV.observation_space, ENV.action_space
KEYS = jax.random.split(seeds.key(0), 5)


@flax.struct.dataclass
class Members:
  """Thetas [n, d] and architectures [n, D], one of each per row."""

  thetas: typing.Any
  architectures: typing.Any
  sides = 1
  rows_per_block = 1

  @property
  def size(self):
    return self.thetas.shape[1]

  @property
  def rows(self):
    return self.thetas.shape[0]

  def members(self, start, *, count):
    index = start + jnp.arange(count)
    take = lambda x: x.at[index].get(mode='clip')[None]
    return take(self.thetas), take(self.architectures)


@pytest.mark.parametrize(
  'rule', [edges.Pruned(6), *marks.slow(partitions.Partition(3))]
)
def test_evaluators_agree(rule):
  """In one program or in lanes, and as blocks of one or of all."""
  policy = policies.feed_forward(
    *SPACES, sharing=rule, hidden=(3,), residual=True
  )
  assert isinstance(policy, es_policies.Policy)
  members = Members(*map(jnp.asarray, policy_cases.draw(policy, 0, 5)))
  assert isinstance(members, population_lib.Population)
  found = [
    es_cases.EVALUATORS[name](ENV, policy, **options).evaluate(
      members, KEYS, None
    )
    for name, options in [
      ('one program', {'block': 4}),
      ('one program', {'block': 1}),
      ('lanes', {}),
    ]
  ]
  assert np.ptp(found[0].returns) > 0.1
  np.testing.assert_array_equal(found[0].returns, found[1].returns)
  np.testing.assert_allclose(found[0].returns, found[2].returns, rtol=1e-4)


def test_baselines_are_trained_as_they_are():
  """Theta alone is a member: perturbations of rl.es, and its own policy."""
  policy = policies.feed_forward(*SPACES, sharing=sharing.Dense())
  mlp = es_policies.MLP(*SPACES, hidden=(), bias=False)
  population = population_lib.Perturbations(
    policy.init(seeds.key(1)), jnp.float32(0.5), seeds.key(2)
  )
  ours, theirs = (
    es_cases.EVALUATORS['one program'](ENV, one).evaluate(
      population, KEYS, None
    )
    for one in (policy, mlp)
  )
  assert ours.returns.shape == (10,)
  np.testing.assert_array_equal(ours.returns, theirs.returns)
