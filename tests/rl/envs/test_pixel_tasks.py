"""Rules of the dodging, driving and grid tasks, against plain Python."""

import collections
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rl.envs import dodge, grid_levels, lane_following, lanes, levels

KEY = jax.random.key(21)
road_offset = jax.jit(lane_following.road_offset)


def _episodes(env, policies, count, steps):
  """Returns of `count` episodes of each policy; they see the state."""
  vector = lanes.Lanes(env, count, auto_reset=False, max_steps=steps)

  @jax.jit
  @functools.partial(jax.vmap, in_axes=(0, None))
  def run(number, key):
    state, _ = vector.reset(jax.random.split(key, count))
    policy = functools.partial(jax.lax.switch, number, policies)

    def step(state, key):
      keys = jax.random.split(key, count)
      action = jax.vmap(policy)(state.env, keys)
      state, move = vector.step(state, action)
      return state, move.reward

    _, reward = jax.lax.scan(step, state, jax.random.split(key, steps))
    return reward.sum(0)

  return np.asarray(run(jnp.arange(len(policies)), KEY))


def test_dodge_moves_as_it_says():
  env = dodge.Dodge(size=8, objects=3)
  state, _ = jax.jit(env.reset)(KEY)
  assert (state.objects[:, 1] >= dodge.TOP).all()
  step = jax.jit(env.step)
  rng = np.random.default_rng(2)
  hits = 0
  for t in range(80):
    action = int(rng.integers(3))
    after, out = jax.device_get(
      step(state, np.int32(action), jax.random.fold_in(KEY, t))
    )
    player = np.clip(float(state.player) + 0.08 * (action - 1), -0.9, 0.9)
    np.testing.assert_allclose(after.player, player, atol=1e-6)
    objects = np.asarray(state.objects, np.float64)
    objects[:, 1] -= np.asarray(state.speeds)
    away = np.hypot(objects[:, 0] - player, objects[:, 1] + 0.85)
    assert bool(out.terminated) == (away.min() < 0.2)
    assert float(out.reward) == 1.0 - float(out.terminated)
    hits += bool(out.terminated)
    landed = objects[:, 1] < -1.1
    np.testing.assert_allclose(
      after.objects[~landed], objects[~landed], atol=1e-5
    )
    fresh, speeds = after.objects[landed], after.speeds[landed]
    assert (fresh[:, 1] >= 1.1).all()
    assert (abs(fresh[:, 0]) <= 0.9).all()
    assert ((speeds >= 0.04) & (speeds <= 0.09)).all()
    state = after
  assert hits


def test_dodging_pays():
  env = dodge.Dodge(size=8)

  def dodging(state, key):
    """Of three moves the one that keeps the nearest disc farthest."""
    del key
    places = jnp.clip(state.player + 0.08 * jnp.arange(-1, 2), -0.9, 0.9)
    ahead = state.objects[:, 1] - dodge.PLAYER_HEIGHT
    danger = (ahead > -0.25) & (ahead < 0.9)
    side = jnp.abs(state.objects[:, 0] - places[:, None])
    margin = jnp.where(danger, jnp.minimum(side, 0.35) + 0.3 * ahead, 1.0)
    return jnp.argmax(margin.min(1) - 0.01 * jnp.abs(places))

  def idle(state, key):
    del state
    return jax.random.randint(key, (), 0, 3)

  careful, careless = _episodes(env, (dodging, idle), 32, 200)
  assert careful.mean() > 1.5 * careless.mean(), (careful, careless)


def _curve(waves, angles):
  """Centre line in float64, from the definition."""
  radius = np.ones_like(angles)
  for k, (a, b) in enumerate(np.asarray(waves, np.float64), start=2):
    radius = radius + a * np.cos(k * angles) + b * np.sin(k * angles)
  return radius[:, None] * np.stack([np.cos(angles), np.sin(angles)], axis=1)


def test_road_offset_is_the_distance():
  env = lane_following.LaneFollowing(size=8)
  state, _ = jax.jit(env.reset)(KEY)
  curve = _curve(state.waves, np.linspace(0, 2 * np.pi, 20001))
  rng = np.random.default_rng(4)
  points = curve[rng.integers(0, 20000, 200)] + rng.normal(0, 0.05, (200, 2))
  want = np.linalg.norm(points[:, None] - curve[None], axis=-1).min(1)
  outside = np.linalg.norm(points, axis=1)
  got = road_offset(jnp.asarray(points, jnp.float32), state.waves)
  np.testing.assert_allclose(np.abs(got), want, rtol=0.1, atol=3e-3)
  assert (np.sign(got) == 1).any()
  assert (np.sign(got) == -1).any()
  assert outside.shape == got.shape


def _chase(state, key):
  """Steers towards the centre line a little ahead; knows the track."""
  del key
  forward = jnp.stack([jnp.cos(state.heading), jnp.sin(state.heading)])
  ahead = state.position + 0.12 * forward
  return jnp.clip(6 * road_offset(ahead, state.waves), -1, 1)[None]


def test_a_lap_gives_a_hundred():
  env = lane_following.LaneFollowing(size=8)
  steer = lambda state, key: jax.random.uniform(key, (1,), minval=-1)
  good, wild = _episodes(env, (_chase, steer), 16, 150)
  # 150 steps of 0.04 on a loop of about 2 pi: some 95 percent of it.
  assert good.min() > 75
  assert good.max() < 130
  assert wild.mean() < 0.5 * good.mean()


def test_lap_reward_is_the_angle_made_good():
  env = lane_following.LaneFollowing(size=8)
  state, _ = jax.jit(env.reset)(KEY)
  step, chase = jax.jit(env.step), jax.jit(_chase)
  total, turned = 0.0, 0.0
  off_road = 0
  for t in range(60):
    steer = chase(state, KEY) if t < 40 else jnp.zeros(1)
    before = np.asarray(state.position, np.float64)
    state, out = step(state, steer, KEY)
    after = np.asarray(state.position, np.float64)
    np.testing.assert_allclose(np.hypot(*(after - before)), 0.04, rtol=1e-4)
    swept = np.angle(complex(*after) / complex(*before))
    offset = abs(float(road_offset(state.position, state.waves)))
    turned += swept if offset <= 0.1 else 0.0
    off_road += offset > 0.1
    total += float(out.reward)
    assert bool(out.terminated) == (offset > 0.3)
  assert off_road
  np.testing.assert_allclose(total, 100 * turned / (2 * np.pi), rtol=1e-3)


GRID = grid_levels.GridLevels(cells=7, size=8)


def _built(env, numbers):
  build = jax.jit(jax.vmap(env.build))
  return jax.device_get(build(jnp.asarray(numbers, jnp.int32)))


def _reachable(cells, start):
  """Cells that can be walked to without dying, by breadth-first search."""
  seen, queue = {start}, collections.deque([start])
  while queue:
    row, column = queue.popleft()
    for goes in (
      (row - 1, column),
      (row + 1, column),
      (row, column - 1),
      (row, column + 1),
    ):
      inside = min(goes) >= 0 and max(goes) < len(cells)
      if not inside or goes in seen:
        continue
      if cells[goes] not in (grid_levels.WALL, grid_levels.HAZARD):
        seen.add(goes)
        queue.append(goes)
  return seen


def test_every_goal_can_be_reached():
  states = _built(GRID, np.arange(200))
  blocked = 0
  for cells, agent in zip(states.cells, states.agent, strict=True):
    assert (cells == grid_levels.GOAL).sum() == 1
    start = tuple(map(int, agent))
    assert cells[start] == grid_levels.FLOOR
    goal = tuple(map(int, np.argwhere(cells == grid_levels.GOAL)[0]))
    assert goal in _reachable(cells, start)
    blocked += len(_reachable(cells, start)) < 49
  assert blocked > 190, 'levels need obstacles, or nothing was shown'
  kinds = [(states.cells == code).mean() for code in range(5)]
  assert kinds[grid_levels.WALL] == pytest.approx(0.2, abs=0.05)
  assert min(kinds) > 0.01


def test_levels_are_functions_of_their_numbers():
  again = [_built(GRID, [5, 6, 5]) for _ in range(2)]
  jax.tree.map(np.testing.assert_array_equal, *again)
  cells = again[0].cells
  np.testing.assert_array_equal(cells[0], cells[2])
  assert (cells[0] != cells[1]).any()


@pytest.mark.parametrize(
  ('num', 'start', 'low', 'high'),
  [(1, 0, 0, 1), (3, 0, 0, 3), (5, 200, 200, 205)],
)
def test_levels_of_a_range(num, start, low, high):
  keys = jax.random.split(KEY, 100)
  draw = jax.vmap(lambda key: levels.draw_level(key, num, start))
  assert set(np.asarray(draw(keys)).tolist()) == set(range(low, high))


def test_train_and_test_levels_are_disjoint():
  keys = jax.random.split(KEY, 64)

  def cells(num, start):
    env = grid_levels.GridLevels(
      cells=7, size=8, num_levels=num, start_level=start
    )
    state, _ = jax.jit(jax.vmap(env.reset))(keys)
    pictures = {x.tobytes() for x in np.asarray(state.cells)}
    return set(np.asarray(state.level).tolist()), pictures

  train, train_cells = cells(50, 0)
  test, test_cells = cells(0, 50)
  assert not train & test
  assert not train_cells & test_cells
  assert len(train) > 30
  assert len(test) == 64, 'without a limit levels hardly repeat'


def test_grid_walk_follows_the_rules():
  step = jax.jit(jax.vmap(GRID.step))
  count = 16
  state = _built(GRID, np.arange(count))
  rng = np.random.default_rng(7)
  events = collections.Counter()
  cells = state.cells.copy()
  places = [tuple(map(int, a)) for a in state.agent]
  moves = [(0, 0), (-1, 0), (1, 0), (0, -1), (0, 1)]
  keys = jax.random.split(KEY, count)
  state = jax.tree.map(jnp.asarray, state)
  for _ in range(40):
    action = rng.integers(0, 5, count)
    state, out = step(state, jnp.asarray(action, jnp.int32), keys)
    for i in range(count):
      goes = tuple(np.add(places[i], moves[action[i]]).tolist())
      inside = min(goes) >= 0 and max(goes) < 7
      if inside and cells[i][goes] != grid_levels.WALL:
        places[i] = goes
      else:
        events['blocked'] += 1
      found = int(cells[i][places[i]])
      events[found] += 1
      reward = {grid_levels.COIN: 1, grid_levels.GOAL: 10}.get(found, 0)
      if found == grid_levels.COIN:
        cells[i][places[i]] = grid_levels.FLOOR
      assert float(out.reward[i]) == reward
      dies = found in (grid_levels.GOAL, grid_levels.HAZARD)
      assert bool(out.terminated[i]) == dies
      assert tuple(np.asarray(state.agent[i]).tolist()) == places[i]
    np.testing.assert_array_equal(state.cells, cells)
  assert min(events[k] for k in ('blocked', 0, 2, 3, 4)) > 0, events


def test_impossible_ranges():
  with pytest.raises(ValueError, match='must not be negative'):
    grid_levels.GridLevels(num_levels=-1)
  with pytest.raises(ValueError, match='must not be negative'):
    lane_following.LaneFollowing(start_level=2**31 - 2, num_levels=5)
  with pytest.raises(ValueError, match='cells must be'):
    grid_levels.GridLevels(cells=2)
