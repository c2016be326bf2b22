"""What every evaluator does: one program, lanes, simulators and Ray."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rl import normalizer
from rl.es import estimators, evaluator, policies, shaping, strategy
from rl.es import population as population_lib
from tests import marks, trees
from tests.rl.es import es_cases

ENV = es_cases.Drift()
POLICY = policies.MLP(ENV.observation_space, ENV.action_space, hidden=(4,))
THETA = POLICY.init(jax.random.key(0))
KEYS = jax.random.split(jax.random.key(2), 5)
EPISODES = 2


@pytest.fixture(
  params=[
    pytest.param(name, marks=pytest.mark.slow) if name == 'ray' else name
    for name in es_cases.EVALUATORS
  ],
  scope='module',
)
def make(request):
  """Makes evaluators, one for equal arguments, and closes them."""
  if request.param == 'ray':
    request.getfixturevalue('cluster')
  made = []

  @functools.cache
  def make(env=ENV, policy=POLICY, **options):
    made.append(es_cases.EVALUATORS[request.param](env, policy, **options))
    return made[-1]

  yield make
  for one in [*made, *made]:  # To close one again does nothing.
    one.close()


def perturbations(theta=THETA, sigma=0.5):
  return population_lib.Perturbations(
    theta, jnp.float32(sigma), jax.random.key(1)
  )


_reset, _step = jax.jit(ENV.reset), jax.jit(ENV.step)


@functools.partial(jax.jit, static_argnums=0)
def _act(policy, member, observation):
  _, action = policy.act(policy.unravel(member), (), observation)
  return jnp.clip(action, -1, 1)


def episode(policy, member, key):
  """One episode, step by step: its return and its length."""
  state, observation = _reset(jax.random.fold_in(key, 0))
  total = 0.0
  for time in range(ENV.max_steps):
    action = _act(policy, member, observation)
    draw = jax.random.fold_in(key, 2 * time + 1)
    state, seen = _step(state, action, draw)
    observation = seen.observation
    total += float(seen.reward)
    if seen.terminated:
      break
  return total, time + 1


@functools.lru_cache
def expected(paired):
  """Members with architectures, and what a loop says of them."""
  policy = es_cases.Shared()
  searched = es_cases.Architectures(
    perturbations(jnp.array([0.4, -0.8, 0.3])),
    jnp.log(jnp.array([[0.4, 0.3, 0.2, 0.1], [0.1, 0.2, 0.3, 0.4]])),
    jax.random.key(7),
    paired,
  )
  members = population_lib.all_members(searched, len(KEYS))
  returns, lengths = [], []
  for i in range(2 * len(KEYS)):
    one = jax.tree.map(lambda x, i=i: x[i], members)
    runs = [
      episode(policy, one, jax.random.fold_in(KEYS[i % len(KEYS)], e))
      for e in range(EPISODES)
    ]
    returns.append(np.mean([total for total, _ in runs]))
    lengths.append(sum(steps for _, steps in runs))
  return policy, searched, np.array(returns), np.array(lengths)


@pytest.mark.parametrize('paired', [True, *marks.slow(False)])
def test_members_with_an_architecture_are_served(make, paired):
  """Evaluators know a population by its rows only."""
  policy, searched, returns, lengths = expected(paired)
  plus, minus = np.split(np.asarray(searched.members(0, count=5)[1]), 2)
  assert (plus == minus).all() == paired
  run = make(policy=policy, episodes=EPISODES)
  assert isinstance(run, evaluator.Evaluator)
  assert run.observation_shape == (2,)
  found = run.evaluate(searched, KEYS, None)
  np.testing.assert_allclose(found.returns, returns, rtol=1e-4)
  np.testing.assert_array_equal(found.lengths, lengths)
  assert len(set(lengths)) > 2, 'episodes must end at different times'
  assert found.statistics is None
  # A row depends on nothing but its number.
  part = run.evaluate(searched, KEYS[:3], None)
  np.testing.assert_array_equal(part.returns[:3], found.returns[:3])
  np.testing.assert_array_equal(part.returns[3:], found.returns[5:8])


def test_the_members_of_a_row_share_their_environment(make):
  """Without a perturbation both see the same; other rows do not."""
  found = make().evaluate(perturbations(sigma=0.0), KEYS, None)
  plus, minus = jnp.split(found.returns, 2)
  np.testing.assert_array_equal(plus, minus)
  assert len(np.unique(plus)) == len(KEYS)


def test_a_broken_member_is_left_out(make):
  run, none = make(), normalizer.empty((2,))
  thetas = jnp.tile(THETA, (3, 1)).at[1].set(jnp.nan)
  found = run.evaluate(population_lib.Listed(thetas), KEYS[:3], none)
  np.testing.assert_array_equal(found.valid, [True, False, True])
  assert not np.isfinite(found.returns[1])
  # Two of three keys, of which the second is another one.
  keys = KEYS[jnp.array([0, 2])]
  others = run.evaluate(population_lib.Repeated(THETA), keys, none)
  np.testing.assert_array_equal(found.returns[::2], others.returns)
  assert float(found.statistics.count) == float(others.statistics.count)
  trees.check_close(found.statistics, others.statistics, rtol=1e-5)


class Explodes(es_cases.Drift):
  """What it shows after the last step is no observation."""

  def step(self, state, action, key):
    state, seen = super().step(state, action, key)
    shown = jnp.where(seen.terminated, jnp.float32(1e30), seen.observation)
    return state, seen._replace(observation=shown)


def test_an_absurd_last_observation_is_not_counted(make):
  """It would stay in the statistics of all later generations."""
  run = make(Explodes())
  found = run.evaluate(perturbations(), KEYS, normalizer.empty((2,)))
  usual = make().evaluate(perturbations(), KEYS, normalizer.empty((2,)))
  lost = float(usual.statistics.count - found.statistics.count)
  assert 0 < lost <= 10
  assert float(normalizer.std(found.statistics).max()) < 5
  np.testing.assert_array_equal(found.valid, True)


def test_actions_beyond_the_box_are_clipped_and_nan_is_lost(make):
  run = make(es_cases.Walk(), es_cases.Constant())
  found = es_cases.evaluate(run, [0.0, 0.2, 3.0, jnp.nan, jnp.inf])
  # Clipped to 1, the third leaves after six steps.
  np.testing.assert_array_equal(found.returns[:3], [50, 26, 6])
  assert np.isnan(found.returns[3:]).all()
  assert found.valid.tolist() == [True] * 3 + [False] * 2


def test_what_does_not_fit_is_refused(make):
  run = make()
  with pytest.raises(ValueError, match='5 keys for 2 rows'):
    run.evaluate(population_lib.Listed(jnp.tile(THETA, (2, 1))), KEYS, None)
  for wrong in (
    population_lib.Listed(jnp.zeros((5, 3))),
    perturbations(jnp.zeros(3)),
  ):
    with pytest.raises(ValueError, match=r'policy has .* parameters, got 3'):
      run.evaluate(wrong, KEYS, None)


def test_only_architectures_that_are_paired_cancel():
  """f = c_m says nothing of theta, and adds noise where pairs differ in m."""
  es = strategy.Strategy(
    strategy.ESConfig(
      8, estimator=estimators.Antithetic(shaping.unshaped), normalize=False
    ),
    optax.sgd(1.0),
  )
  state = es.init(jnp.zeros(3), jax.random.key(0))
  request = es.ask(state)
  moved = {}
  for paired in (True, False):
    searched = es_cases.Architectures(
      request.population, jnp.zeros((2, 4)), jax.random.key(1), paired
    )
    _, places = population_lib.all_members(searched, 8)
    found = evaluator.Evaluation.of(places.sum(1).astype(jnp.float32))
    asked = request.replace(population=searched)
    state_after, _ = es.tell(state, asked, found)
    moved[paired] = np.abs(state_after.theta).max()
  assert moved[True] == 0
  assert moved[False] > 0.1
