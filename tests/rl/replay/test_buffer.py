"""The ring against a script: what may be sampled, how often, and its targets."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rl.envs import spaces
from rl.replay import buffer, off_policy
from tests import refusals
from tests.rl.replay import replay_cases as cases

UNROLL, LANES, LENGTH, N, DISCOUNT = 4, 2, 16, 3, 0.9
REPLAY = buffer.Replay(
  LENGTH, LANES, UNROLL, n_step=N, discount=DISCOUNT, exponent=0.5
)
insert = jax.jit(REPLAY.insert)
sample = jax.jit(REPLAY.sample, static_argnums=2)
update = jax.jit(REPLAY.update)
BATCH = 64


@functools.cache
def filled(rows, resets_at_once=False, seed=0):
  made = cases.script(rows, LANES, seed, resets_at_once)
  state = REPLAY.init(cases.OBSERVATIONS, cases.ACTIONS)
  for begin in range(0, rows, UNROLL):
    state = insert(state, cases.trajectory(made, begin, begin + UNROLL))
  return made, state


def leaves(state):
  count = LENGTH * LANES
  return np.asarray(state.tree.levels[0][:count]).reshape(LENGTH, LANES)


def check(made, state, rows, wrong=''):
  """Compares all that is sampled with the script."""
  right = {}
  for row in range(max(0, rows - LENGTH), rows):
    for lane in range(LANES):
      goal = cases.target(made, rows, row, lane, N, DISCOUNT, wrong)
      if goal is not None:
        right[row % LENGTH * LANES + lane] = (row, lane, goal)
  assert set(np.flatnonzero(leaves(state) > 0)) == set(right)
  assert int(state.size) == len(right)
  batch = sample(state, jax.random.key(rows), BATCH)
  for i, index in enumerate(np.asarray(batch.index)):
    row, lane, (total, power, bootstrap) = right[int(index)]
    assert batch.observation[i, 0] == made['observation'][row, lane, 0]
    assert batch.action[i] == made['action'][row, lane]
    np.testing.assert_allclose(batch.reward[i], total, atol=1e-5)
    np.testing.assert_allclose(batch.discount[i], power, atol=1e-6)
    if bootstrap is not None:
      assert batch.next_observation[i, 0] == bootstrap


@pytest.mark.parametrize('resets_at_once', [True, False])
@pytest.mark.parametrize('rows', [4, 16, 20, 44])
def test_what_is_sampled_and_its_targets(rows, resets_at_once):
  made, state = filled(rows, resets_at_once)
  check(made, state, rows)


@pytest.mark.parametrize(
  'wrong',
  [
    'samples resets',
    'reads over the newest row',
    'goes on after a truncation',
    'learns from truncated steps',
    'bootstraps from an end',
  ],
)
def test_the_script_tells_mistakes(wrong):
  made, state = filled(44)
  with pytest.raises(AssertionError):
    check(made, state, 44, wrong)


def test_a_cut_without_an_end_counts_as_truncation():
  made = cases.script(8, LANES, seed=3)
  for name in ('terminated', 'truncated'):
    made[name][:] = False
  made['valid'][:] = True
  state = REPLAY.init(cases.OBSERVATIONS, cases.ACTIONS)
  state = insert(state, cases.trajectory(made, 0, UNROLL))
  made['first'][UNROLL] = [True, False]
  state = insert(state, cases.trajectory(made, UNROLL, 8))
  with pytest.raises(AssertionError):
    check(made, state, 8)
  made['truncated'][UNROLL - 1] = [True, False]
  check(made, state, 8)


def test_new_steps_do_not_inherit_priorities():
  made, state = filled(16)
  every = jnp.arange(LENGTH * LANES)
  sampled = np.flatnonzero(leaves(state).ravel() > 0)
  high = jnp.where(jnp.isin(every, sampled), 100.0, 0.0)
  # Only what can be sampled is ever updated.
  state = update(state, jnp.asarray(sampled), high[sampled])
  waiting = leaves(state)[LENGTH - N :] == 0
  made = cases.script(20, LANES)
  after = insert(state, cases.trajectory(made, 16, 20))
  peak = np.sqrt(100.0)
  assert float(after.peak) == 100
  new = leaves(after)[:UNROLL]
  np.testing.assert_allclose(new[new > 0], peak)
  # What was updated keeps its priority; what waited gets that of new steps.
  tail = leaves(after)[LENGTH - N :]
  np.testing.assert_allclose(tail[waiting & (tail > 0)], peak)
  start = buffer.Replay(
    LENGTH,
    LANES,
    UNROLL,
    n_step=N,
    discount=DISCOUNT,
    exponent=0.5,
    initial_priority=4.0,
  )
  fresh = jax.jit(start.insert)(state, cases.trajectory(made, 16, 20))
  new = leaves(fresh)[:UNROLL]
  assert (new > 0).any()
  # Had they inherited, they would be 10.
  np.testing.assert_allclose(new[new > 0], 2.0)
  np.testing.assert_array_equal(
    leaves(fresh)[UNROLL : LENGTH - N], leaves(state)[UNROLL : LENGTH - N]
  )


@functools.cache
def drawn():
  _, state = filled(44)
  index = np.flatnonzero(leaves(state).ravel() > 0)
  rng = np.random.default_rng(5)
  priority = rng.lognormal(0, 1, index.size).astype(np.float32)
  state = update(state, jnp.asarray(index), jnp.asarray(priority))
  keys = jax.random.split(jax.random.key(7), 400)
  batches = jax.jit(jax.vmap(lambda k: REPLAY.sample(state, k, 16)))(keys)
  return state, index, priority, batches


def test_frequencies_follow_priorities():
  _, index, priority, batches = drawn()
  counts = np.bincount(np.ravel(batches.index), minlength=LENGTH * LANES)
  counts = counts[index]
  assert counts.sum() == batches.index.size

  def chi_square(weights):
    expected = counts.sum() * weights / weights.sum()
    return np.sum((counts - expected) ** 2 / expected)

  # Mean k - 1 and deviation sqrt(2 (k - 1)), less for stratified draws.
  degrees = index.size - 1
  bound = degrees + 4 * np.sqrt(2 * degrees)
  assert chi_square(priority.astype(np.float64) ** 0.5) < bound
  assert chi_square(priority.astype(np.float64)) > bound
  assert chi_square(np.ones(index.size)) > bound


def test_weighted_means_are_unbiased():
  state, index, priority, batches = drawn()
  value = np.arange(LENGTH * LANES) ** 2.0
  value[index] += 300 * (priority > 1)

  def z_score(exponent):
    weights = buffer.importance_weights(
      batches.probability.ravel(), state.size, exponent
    )
    weights = np.asarray(weights, np.float64).reshape(batches.index.shape)
    means = (weights * value[np.asarray(batches.index)]).mean(1)
    error = means.std(ddof=1) / np.sqrt(means.size)
    return abs(means.mean() - value[index].mean()) / error

  assert z_score(1.0) < 4
  assert z_score(0.0) > 4


def test_uniform_draws_and_no_priorities():
  uniform = buffer.Replay(LENGTH, LANES, UNROLL, n_step=N)
  made, add = cases.script(16, LANES), jax.jit(uniform.insert)
  state = uniform.init(cases.OBSERVATIONS, cases.ACTIONS)
  for begin in range(0, 16, UNROLL):
    trajectory = cases.trajectory(made, begin, begin + UNROLL)
    state = add(state, trajectory)
  assert set(np.ravel(leaves(state))) == {0.0, 1.0}
  same = uniform.update(state, jnp.array([0]), jnp.array([9.0]))
  assert same is state
  draw = jax.jit(uniform.sample, static_argnums=2)
  batch = draw(state, jax.random.key(0), 8)
  np.testing.assert_allclose(batch.probability, 1 / int(state.size), rtol=1e-6)


def test_agents_by_vmap_and_pixels():
  replay = buffer.Replay(8, 2, 4, exponent=1.0)
  state = replay.init(spaces.pixels(2), cases.ACTIONS)
  assert state.steps.observation.dtype == jnp.uint8

  def run(seed, state):
    key = jax.random.key(seed)
    zeros = jnp.zeros((4, 2))
    no = zeros.astype(bool)
    base = cases.trajectory(cases.script(4, 2), 0, 4)
    trajectory = base._replace(
      observation=jax.random.randint(key, (4, 2, 2, 2, 3), 0, 255, jnp.uint8),
      reward=jax.random.normal(key, (4, 2)),
      terminated=no,
      truncated=no,
      valid=~no,
      first=no,
    )
    state, _ = jax.lax.scan(
      lambda s, _: (replay.insert(s, trajectory), None), state, length=3
    )
    return replay.sample(state, key, 5)

  together = jax.jit(jax.vmap(run, in_axes=(0, None)))(jnp.arange(3), state)
  alone = jax.jit(run)(1, state)
  for ours, theirs in zip(together, alone, strict=True):
    np.testing.assert_array_equal(ours[1], theirs)


test_rejects_settings = refusals.settings(
  functools.partial(buffer.Replay, length=16, num_lanes=2, unroll_length=4),
  ({'length': 15}, 'multiple of unroll_length'),
  ({'length': 4, 'n_step': 1}, 'at least unroll_length'),
  ({'num_lanes': 0}, 'num_lanes'),
  ({'discount': 1.1}, 'discount'),
  ({'exponent': -1.0}, 'exponent'),
  ({'initial_priority': 0.0}, 'initial_priority'),
)


def test_rejects_other_shapes():
  state = REPLAY.init(cases.OBSERVATIONS, cases.ACTIONS)
  trajectory = cases.trajectory(cases.script(8, LANES), 0, 8)
  with pytest.raises(ValueError, match='rows and lanes'):
    REPLAY.insert(state, trajectory)


def test_settings_become_rows_and_updates():
  def fit(updates=2.0, **settings):
    chosen = off_policy.Settings(unroll_length=7, **settings)
    return chosen.fit(
      cases.OBSERVATIONS, cases.ACTIONS, 3, updates=updates, knobs='rate'
    )

  found = fit(capacity=1000, min_replay=400)
  assert found['replay'].length == 47 * 7
  assert found['num_updates'] == 2
  with pytest.raises(ValueError, match='capacity'):
    fit(capacity=10, min_replay=1)
  for count in (1.5, 0.0):
    with pytest.raises(ValueError, match=r'unroll_length \* rate.*whole'):
      fit(updates=count)
  with pytest.raises(ValueError, match='half of the replay'):
    fit(capacity=1000, min_replay=494)
