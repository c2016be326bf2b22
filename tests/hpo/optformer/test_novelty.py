"""New points: by tokens for candidates, by values for uniform draws."""

import numpy as np

from hpo import spaces
from hpo.optformer import novelty
from tests import seeds

GRID = spaces.Space(
  (
    spaces.Int('n', 3, 42),
    spaces.Categorical('c', tuple(map(str, range(40)))),
    spaces.Discrete('d', (0.5, 2.0)),
    spaces.Float('fixed', 7.0, 7.0),
  )
)


def grid():
  found = np.stack(list(np.ndindex(40, 40, 2))).astype(float)
  return np.column_stack(
    [found + np.array([3, 0, 0]), np.full(len(found), 7.0)]
  )


def test_the_last_point_of_a_grid_is_found():
  """A thousand draws find it with a chance of 27 %."""
  rng = seeds.rng(0)
  rows = rng.permutation(grid())
  seen = novelty.Seen(GRID, (0, 1, 2), 1000)
  seen.add(rows[1:])
  np.testing.assert_array_equal(seen.draw(rng), rows[0])
  assert seen.is_new(rows[:1]).all()
  assert not seen.is_new(rows[1:]).any()
  seen.add(rows[:1])
  # All are used up: any legal point.
  assert tuple(seen.draw(rng)) in set(map(tuple, rows.tolist()))


def test_draws_are_new_and_uniform_while_most_points_are():
  rng = seeds.rng(1)
  seen = novelty.Seen(GRID, (2, 1, 0), 1000)
  rows = grid()
  seen.add(rows[: len(rows) // 2])
  drawn = np.stack([seen.draw(rng) for _ in range(200)])
  assert (drawn[:, 0] >= 23).all()
  assert len(np.unique(drawn, axis=0)) > 150
  np.testing.assert_array_equal(
    seen.tokens(rows[:1])[0], [rows[0, 2], rows[0, 1], 0]
  )


def test_candidates_with_equal_tokens_are_not_new():
  space = spaces.Space((spaces.Float('x', 0.0, 1.0), spaces.Int('n', 0, 9999)))
  seen = novelty.Seen(space, (0, 1), 1000)
  seen.add(np.array([[0.12341, 77.0]]))
  rows = np.array(
    [[0.1235, 77.0], [0.1235, 79.0], [0.1245, 77.0], [0.1235, 87]]
  )
  np.testing.assert_array_equal(seen.is_new(rows), [False, False, True, True])
