"""Mazes against a breadth-first search in Python."""

import collections

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rl.envs import lanes, mazes
from tests import marks, seeds


def reference(walls, goal):
  """Steps to the goal by breadth-first search."""
  far = walls.size
  found = np.full(walls.shape, far)
  found[tuple(goal)] = 0
  queue = collections.deque([tuple(goal)])
  while queue:
    i, j = queue.popleft()
    for a, b in ((i - 1, j), (i + 1, j), (i, j - 1), (i, j + 1)):
      inside = min(a, b) >= 0 and max(a, b) < len(walls)
      if inside and not walls[a, b] and found[a, b] == far:
        found[a, b] = found[i, j] + 1
        queue.append((a, b))
  return found


def built(env, count=200):
  numbers = jnp.arange(count)
  return jax.device_get(jax.jit(jax.vmap(env.build))(numbers))


def test_distances_are_those_of_a_search():
  rng = seeds.rng(1)
  for share in (0.0, 0.3, 0.6):
    walls = rng.random((5, 5)) < share
    goal = rng.integers(5, size=2)
    walls[tuple(goal)] = False
    found = jax.jit(mazes.distances)(walls, jnp.asarray(goal, jnp.int32))
    np.testing.assert_array_equal(found, reference(walls, goal))


@pytest.mark.parametrize('walls', [0.4, 1.0])
def test_solvable_levels_have_a_way(walls):
  state = built(mazes.Maze(walls=walls))
  lengths = [
    reference(w, g)[tuple(s)]
    for w, g, s in zip(state.walls, state.goal, state.start, strict=True)
  ]
  assert min(lengths) >= 1
  assert max(lengths) < 25
  assert len(set(lengths)) > 4


def test_some_levels_have_none_unless_asked():
  state = built(mazes.Maze(solvable=False))
  ways = [
    reference(w, g)[tuple(s)] < 25
    for w, g, s in zip(state.walls, state.goal, state.start, strict=True)
  ]
  assert 0.2 < np.mean(ways) < 0.9
  np.testing.assert_allclose(state.walls.mean(), 0.4, atol=0.06)
  assert not np.any(np.all(state.goal == state.start, -1))


def test_drawn_levels_are_as_easy_as_asked():
  env = mazes.Maze()
  keys = jax.random.split(seeds.key(2), 200)
  draw = jax.jit(jax.vmap(env.draw, in_axes=(0, None, None)))
  for walls, distance in ((0.0, 1.0), (0.3, 3.9)):
    state = jax.device_get(
      draw(keys, jnp.float32(walls), jnp.float32(distance))
    )
    lengths = [
      reference(w, g)[tuple(s)]
      for w, g, s in zip(state.walls, state.goal, state.start, strict=True)
    ]
    assert set(lengths) == set(range(1, int(distance) + 1))


@pytest.mark.parametrize('colors', [*marks.slow(False), True])
def test_the_shortest_way_ends_at_the_goal(colors):
  env = mazes.Maze(colors=colors)
  build, restart, step = map(jax.jit, (env.build, env.restart, env.step))
  for number in range(4):
    state, shown = restart(build(number))
    assert env.observation_space.contains(shown)
    to_go = reference(np.asarray(state.walls), np.asarray(state.goal))
    for left in range(to_go[tuple(state.agent)], 0, -1):
      assert to_go[tuple(state.agent)] == left
      nexts = [step(state, jnp.int32(a), seeds.key(0)) for a in range(4)]
      state, seen = min(nexts, key=lambda n: to_go[tuple(n[0].agent)])
    assert seen.terminated
    assert seen.reward == 1
    again, shown_again = restart(state)
    np.testing.assert_array_equal(shown, shown_again)
    np.testing.assert_array_equal(again.agent, state.start)


def test_colours_are_a_function_of_the_level():
  env = mazes.Maze(colors=True, tint=0.2)
  state = built(env, 50)
  assert np.abs(state.tint).max() <= 0.2
  assert state.tint.std() > 0.1
  plain = built(mazes.Maze(), 50)
  np.testing.assert_array_equal(state.walls, plain.walls)


def test_lanes_walk_in_numbered_levels():
  env = lanes.Lanes(mazes.Maze(num_levels=3, start_level=7, max_steps=4), 6)

  def step(state, key):
    action = jax.random.randint(key, (6,), 0, 4)
    state, seen = env.step(state, action)
    return state, (seen.truncated, seen.terminated, state.env.level)

  keys = jax.random.split(seeds.key(4), 30)

  @jax.jit
  def run(key):
    state, _ = env.reset(jax.random.split(key, 6))
    return jax.lax.scan(step, state, keys)[1]

  late, ended, level = run(seeds.key(3))
  assert late.any()
  assert ended.any()
  assert set(np.asarray(level).ravel()) == {7, 8, 9}


def test_settings_are_checked():
  with pytest.raises(ValueError, match='cells must be at least 2'):
    mazes.Maze(cells=1)
  with pytest.raises(ValueError, match='walls'):
    mazes.Maze(walls=1.5)
