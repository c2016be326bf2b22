"""Level replay against its formulas in NumPy, and by counting draws."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hpo.autorl import curricula, levels
from rl.envs import lanes, mazes
from tests import seeds, trees
from tests.hpo.autorl import populations_cases

N = 12
REPLAY = levels.Replay(N, temperature=0.5, stale=0.3, stale_temperature=2.0)


def some_state():
  rng = seeds.rng(1)
  score = np.round(rng.random(N), 1)  # Some are equal.
  seen = rng.random(N) < 0.6
  seen[:3] = True, False, True
  last = rng.integers(1, 40, N) * seen
  return levels.State(
    jnp.float32(score), jnp.asarray(seen), jnp.float32(last), jnp.float32(40)
  )


def reference(replay, state):
  """Probabilities of replay, float64."""
  score, seen, last = (
    np.asarray(x) for x in (state.score, state.seen, state.last)
  )
  ids = [i for i in range(len(score)) if seen[i]]
  ranked = sorted(ids, key=lambda i: (-score[i], i))
  by_score, by_age = np.zeros(len(score)), np.zeros(len(score))
  for rank, i in enumerate(ranked, 1):
    by_score[i] = (1 / rank) ** (1 / replay.temperature)
  for i in ids:
    age = float(state.clock) - last[i]
    by_age[i] = age ** (1 / replay.stale_temperature)
  if not by_age.any():
    by_age[ids] = 1
  return (1 - replay.stale) * by_score / by_score.sum() + (
    replay.stale * by_age / by_age.sum()
  )


@pytest.mark.parametrize(
  'replay', [REPLAY, levels.Replay(N), levels.Replay(N, stale=1.0)]
)
def test_probabilities_are_those_of_the_formula(replay):
  state = some_state()
  probabilities = jax.jit(replay.probabilities)
  got = np.asarray(probabilities(state))
  np.testing.assert_allclose(
    got, reference(replay, state), rtol=1e-4, atol=1e-9
  )
  np.testing.assert_allclose(got.sum(), 1, rtol=1e-5)
  assert (got[~np.asarray(state.seen)] == 0).all()
  fresh = state.replace(last=jnp.full(N, 40.0))
  got = probabilities(fresh)
  np.testing.assert_allclose(
    got, reference(replay, fresh), rtol=1e-4, atol=1e-9
  )


def test_nothing_seen_has_no_probabilities():
  assert (np.asarray(REPLAY.probabilities(REPLAY.init())) == 0).all()


def test_draws_have_these_probabilities():
  replay = dataclasses.replace(REPLAY, replay=1.0)
  state, count = some_state(), 40_000
  _, drawn = jax.jit(replay.draw, static_argnums=2)(state, seeds.key(2), count)
  assert drawn.replayed.all()
  p = reference(replay, state)
  found = np.bincount(drawn.level, minlength=N) / count
  error = np.sqrt(p * (1 - p) / count)
  assert (found[p == 0] == 0).all()
  z = (found - p)[p > 0] / error[p > 0]
  assert np.abs(z).max() < 4, z


@pytest.mark.parametrize('chance', [0.0, 0.5, None])
def test_new_levels_come_once_each(chance):
  replay = levels.Replay(N, replay=chance)
  state, met = replay.init(), []
  draw = jax.jit(replay.draw, static_argnums=2)
  update = jax.jit(replay.update)
  for i in range(12):
    known = set(met)
    state, drawn = draw(state, jax.random.fold_in(seeds.key(3), i), 5)
    new = np.asarray(drawn.level)[~np.asarray(drawn.replayed)]
    old = np.asarray(drawn.level)[np.asarray(drawn.replayed)]
    assert len(set(new)) == len(new)
    assert not known & set(new.tolist())
    assert set(old.tolist()) <= known
    assert i or len(new) == 5
    met += new.tolist()
    state = update(state, drawn, jnp.ones(5))
    assert set(np.flatnonzero(state.seen)) == set(met)
    assert state.clock == 5 * (i + 1)
  assert len(met) == N


def test_scores_of_one_level_are_averaged_and_staleness_counts_draws():
  replay = levels.Replay(3)
  drawn = levels.Drawn(jnp.array([2, 0, 2]), jnp.zeros(3, bool))
  state = replay.update(replay.init(), drawn, jnp.array([1.0, 5.0, 2.0]))
  np.testing.assert_allclose(state.score, [5.0, 0.0, 1.5])
  np.testing.assert_array_equal(state.seen, [True, False, True])


def test_scores():
  rng = seeds.rng(4)
  advantage = rng.normal(size=(6, 3))
  valid = rng.random((6, 3)) < 0.7
  for score, f in (
    (levels.value_l1, np.abs),
    (levels.positive_value_loss, lambda x: np.maximum(x, 0)),
  ):
    want = [f(advantage[valid[:, i], i]).mean() for i in range(3)]
    got = score(jnp.float32(advantage), jnp.asarray(valid))
    np.testing.assert_allclose(got, want, rtol=1e-5)


def program(replay, **options):
  env = mazes.Maze(cells=3, num_levels=N, max_steps=6)
  return curricula.Program(
    populations_cases.small_ppo(num_epochs=1, normalize_rewards=False),
    env,
    curricula.PrioritizedLevels(replay, **options),
    num_lanes=4,
    eval_env=lanes.Lanes(mazes.Maze(cells=3, start_level=N, max_steps=6), 4),
  )


@pytest.mark.slow
def test_robust_replay_learns_nothing_from_new_levels():
  """Whatever happens in lanes with new levels, the agent is the same."""
  chosen = program(levels.Replay(N, robust=True))
  state = chosen.init(seeds.key(5))
  step = jax.jit(chosen.step)
  first, _ = step(state, seeds.key(6))
  trees.check_same(first.learner.params, state.learner.params)
  assert first.curriculum.seen.sum() == 4
  # With momentum from earlier steps, too.
  rolling = jax.tree.map(
    lambda x: x + 1 if x.dtype == jnp.float32 else x, first.learner.opt_state
  )
  learner = first.learner.replace(opt_state=rolling)
  unseen = state.replace(learner=learner)
  after, _ = step(unseen, seeds.key(9))
  trees.check_same(after.learner, learner)

  @jax.jit
  def learnt(bribe):
    after, drawn, seen = chosen.collect(first, seeds.key(7))
    outcome = chosen.outcome(first.learner, seen)
    _, learns, _ = chosen.curriculum.update(after, drawn, outcome)
    reward = seen.reward + bribe * ~drawn.replayed
    seen = seen._replace(reward=reward, valid=seen.valid & learns)
    learner, _ = chosen.learner.learn(first.learner, seen, seeds.key(8))
    return learner.params, learns

  (one, learns), (two, _) = learnt(jnp.float32(0)), learnt(jnp.float32(100))
  assert 0 < learns.sum() < 4
  trees.check_same(one, two)
  assert trees.differ(one, first.learner.params)


@pytest.mark.slow
def test_lanes_stay_in_their_level():
  chosen = program(levels.Replay(N))
  built = jax.vmap(chosen.env.build)(jnp.array([3, 5, 3, 7]))
  env = chosen._lanes
  stage, observation = env.begin(built, jax.random.split(seeds.key(1), 4))
  np.testing.assert_array_equal(stage.env.level, [3, 5, 3, 7])

  def step(stage, key):
    action = jax.random.randint(key, (4,), 0, 4)
    stage, seen = env.step(stage, action)
    return stage, (seen, stage.env)

  keys = jax.random.split(seeds.key(2), 20)
  _, (seen, after) = jax.jit(lambda s: jax.lax.scan(step, s, keys))(stage)
  ended = np.asarray(seen.terminated | seen.truncated)
  assert ended.any(0).all()
  np.testing.assert_array_equal(after.level, np.tile([3, 5, 3, 7], (20, 1)))
  for time, lane in zip(*np.nonzero(ended), strict=True):
    np.testing.assert_array_equal(
      seen.observation[time, lane], observation[lane]
    )


def test_settings_are_checked():
  for bad in ({'temperature': 0.0}, {'stale': 2.0}, {'replay': -0.1}):
    with pytest.raises(ValueError, match=next(iter(bad))):
      levels.Replay(N, **bad)
