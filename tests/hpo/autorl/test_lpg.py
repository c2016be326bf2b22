"""LPG: agents, rule and both ways of meta-training, against closed forms."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import special

from hpo.autorl import evolution, lpg, lpg_training, programs, tabular
from rl.es import strategy
from tests import seeds, trees

TABLES = tabular.Tables(states=4, actions=2)
RULE = lpg.Rule(
  lpg.UpdateRule(width=5, embedding=3, size=3),
  TABLES,
  lanes=3,
  steps=6,
  rate=1.0,
)
LIVES = lpg_training.Lifetimes(RULE, tasks=2, length=4, test_tasks=2)


@pytest.mark.slow
def test_exact_returns_are_those_of_many_episodes():
  task = TABLES.draw(seeds.key(1))
  logits = jax.random.normal(seeds.key(2), (4, 2))
  lanes, steps = 4000, 120

  @jax.jit
  def mean(key):
    state = TABLES.begin(task, key, lanes)
    seen = TABLES.play(task, logits, state, jax.random.fold_in(key, 1), steps)
    alive = jnp.cumprod(1 - seen.done.astype(jnp.float32), 0)
    alive = jnp.concatenate([jnp.ones((1, lanes)), alive[:-1]])
    factor = TABLES.discount ** jnp.arange(steps)[:, None]
    return jnp.sum(seen.reward * alive * factor, 0)

  found = np.asarray(mean(seeds.key(3)))
  want = float(TABLES.exact(task, logits))
  error = found.std() / np.sqrt(lanes)
  assert abs(found.mean() - want) < 4 * error + 0.01


def test_the_best_return_is_that_of_the_best_table():
  tables = np.stack(np.meshgrid(*[[0, 1]] * 4), -1).reshape(-1, 4)
  logits = np.float32(
    np.append(200 * np.eye(2)[tables], np.zeros((1, 4, 2)), 0)
  )

  @jax.jit
  def run(key, logits):
    task = TABLES.draw(key)
    values = lambda logits: (
      TABLES.exact(task, logits),
      TABLES.score(task, logits),
    )
    return TABLES.best(task), *jax.vmap(values)(logits)

  best, values, scores = map(np.asarray, run(seeds.key(4), logits))
  np.testing.assert_allclose(best, values.max(), rtol=1e-4)
  np.testing.assert_allclose(scores.max(), 1, rtol=1e-4)
  np.testing.assert_allclose(scores[-1], 0, atol=1e-6)


slopes = jax.jit(jax.grad(lpg.surrogate), static_argnums=3)


@functools.cache
def played():
  @jax.jit
  def run(key):
    task = TABLES.draw(key)
    agent = lpg.Agent(
      jax.random.normal(key, (4, 2)), jax.random.normal(key, (4, 3))
    )
    state = TABLES.begin(task, key, RULE.lanes)
    return agent, TABLES.play(task, agent.policy, state, key, RULE.steps)

  return run(seeds.key(5))


def test_saying_nothing_new_moves_nothing():
  """pi_hat = 0 and y_hat = y give an agent without gradient."""
  agent, rollout = played()
  said = lpg.Said(
    np.zeros((RULE.steps, RULE.lanes), np.float32),
    np.asarray(agent.prediction)[rollout.state],
  )
  grads = slopes(agent, rollout, said, 0.5)
  for leaf in grads:
    np.testing.assert_allclose(leaf, 0, atol=1e-6)


def test_the_agent_s_step_is_that_of_the_formula():
  agent, rollout = played()
  rng = seeds.rng(6)
  said = lpg.Said(
    jnp.float32(rng.normal(size=(6, 3))),
    jnp.float32(rng.normal(size=(6, 3, 3))),
  )
  got = slopes(agent, rollout, said, 0.5)
  softmax = lambda x: np.exp(x) / np.exp(x).sum(-1, keepdims=True)
  policy, y = (softmax(np.float64(x)) for x in agent)
  y_hat = softmax(np.float64(said.prediction))
  want = np.zeros_like(policy), np.zeros_like(y)
  for t in range(6):
    for i in range(3):
      s, a = int(rollout.state[t, i]), int(rollout.action[t, i])
      want[0][s] += float(said.policy[t, i]) * (np.eye(2)[a] - policy[s]) / 18
      # d KL(y, y_hat) / d logits = y (log(y / y_hat) - KL).
      gap = np.log(y[s] / y_hat[t, i])
      want[1][s] -= 0.5 * y[s] * (gap - y[s] @ gap) / 18
  for one, other in zip(got, want, strict=True):
    np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-6)


def test_the_rule_reads_backwards_and_not_over_ends():
  agent, rollout = played()
  eta = jax.jit(RULE.init)(seeds.key(7))
  done = np.broadcast_to(np.arange(6)[:, None] == 2, (6, 3))
  rollout = jax.device_get(rollout._replace(done=done))
  say = jax.jit(RULE.say)
  base = say(eta, agent, rollout)
  assert base.policy.shape == (6, 3)
  chances = special.softmax(base.prediction, axis=-1)
  np.testing.assert_allclose(chances.sum(-1), 1, rtol=1e-5)
  more = lambda time: np.float32(5 * (np.arange(6)[:, None] == time))
  early, late = (
    rollout._replace(reward=rollout.reward + more(time)) for time in (1, 4)
  )
  changes = [
    np.abs(np.subtract(say(eta, agent, r).policy, base.policy)).max(1) > 1e-7
    for r in (early, late)
  ]
  np.testing.assert_array_equal(changes[0], [1, 1, 0, 0, 0, 0])
  np.testing.assert_array_equal(changes[1], [0, 0, 0, 1, 1, 0])


@pytest.mark.slow
def test_meta_gradient_is_that_of_finite_differences():
  """By the rule's parameters, with the actions of one fixed life."""
  meta_trained = lpg_training.MetaTrained(
    LIVES, optax.sgd(0.1), updates=2, policy_size=0.1
  )
  with jax.enable_x64(True):
    eta = jax.tree.map(jnp.float64, RULE.init(seeds.key(8)))
    task, agent, state = meta_trained._born(seeds.key(9))
    cast = lambda tree: jax.tree.map(
      lambda x: x.astype(jnp.float64) if x.dtype == jnp.float32 else x, tree
    )
    task, agent = cast((task, agent))
    value = jax.jit(
      lambda eta: meta_trained.value(eta, task, agent, state, seeds.key(10))[0]
    )
    grads = jax.jit(jax.grad(value))(eta)
    rng = seeds.rng(11)
    for _ in range(5):
      way = jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape)), eta)
      shifted = lambda h, way=way: jax.tree.map(
        lambda x, w: x + h * w, eta, way
      )
      at = lambda h, shifted=shifted: value(shifted(h))
      want = (at(1e-6) - at(-1e-6)) / 2e-6
      got = optax.tree.vdot(grads, way)
      np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-9)


@pytest.mark.slow
def test_both_ways_of_meta_training_move_the_rule():
  es = strategy.Strategy(
    strategy.ESConfig(num_pairs=2, sigma=0.1, normalize=False), optax.sgd(0.1)
  )
  for program, params in (
    (evolution.Evolved(LIVES, es), lambda p, s: p.params(s)),
    (lpg_training.MetaTrained(LIVES, optax.adam(0.01)), lambda p, s: s.eta),
  ):
    assert isinstance(program, programs.Program)
    state = program.init(seeds.key(12))
    after, metrics = jax.jit(program.step)(state, seeds.key(13))
    assert all(np.isfinite(x) for x in metrics.values())
    assert trees.differ(params(program, state), params(program, after))
  steps = 2 * 4 * 3 * 6  # Tasks, updates, lanes and steps of a fitness.
  assert LIVES.steps == steps


@pytest.mark.slow
def test_agents_are_replaced_at_the_end_of_life():
  program = lpg_training.MetaTrained(LIVES, optax.sgd(0.0), updates=3)
  state = program.init(seeds.key(14)).replace(age=jnp.array([0, 2]))
  after, _ = jax.jit(program.step)(state, seeds.key(15))
  np.testing.assert_array_equal(after.age, [3, 0])
  np.testing.assert_array_equal(after.task.reward[0], state.task.reward[0])
  assert (after.task.reward[1] != state.task.reward[1]).any()
  assert (after.agent.policy[0] != 0).any()
  assert (after.agent.policy[1] == 0).all()


def test_settings_are_checked():
  with pytest.raises(ValueError, match='discount must be below 1'):
    tabular.Tables(discount=1.0)
  with pytest.raises(ValueError, match='rate must be positive'):
    lpg.Rule(rate=0.0)
  with pytest.raises(ValueError, match='normalize=False'):
    evolution.Evolved(
      LIVES, strategy.Strategy(strategy.ESConfig(2), optax.sgd(0.1))
    )
