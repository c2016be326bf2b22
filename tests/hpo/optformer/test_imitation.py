"""References of imitation."""

import math

import numpy as np
import pytest

from hpo import spaces, studies
from hpo.optformer import imitation
from tests import seeds

SPACE = spaces.Space(
  (spaces.Float('a', 0, 1), spaces.Categorical('b', ('p', 'q')))
)


def study(algorithm):
  codes = SPACE.sample(seeds.rng(0), 5)
  problem = studies.Problem(SPACE, algorithm=algorithm)
  return studies.Study(problem, codes, codes[:, 0], np.zeros(5, np.int8))


def test_references():
  uniform = math.log(2000) / 2
  found = imitation.references([study('designer_random_search')] * 3)
  assert found.floor == pytest.approx(uniform)
  assert found.uniform == pytest.approx(uniform)
  grid = imitation.references([study('designer_grid_search')])
  assert grid.floor == 0
  assert grid.closed(uniform) == pytest.approx(0)
  assert grid.closed(uniform / 4) == pytest.approx(0.75)
  gp = imitation.references([study('designer_recursive_gp')])
  assert gp.floor is None
  assert gp.closed(1.0) is None
