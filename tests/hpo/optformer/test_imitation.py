"""References of imitation, and losses of the policy."""

import math

import jax
import numpy as np
import pytest

from hpo import spaces, studies
from hpo.optformer import decoding, histories, imitation, quantizing
from tests import seeds
from tests.hpo.optformer import optformer_cases as cases

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


def test_losses_are_those_of_decoding(untrained, model, variables):
  """Trial by trial, with the chain rule of drawn candidates."""
  made = untrained(decoder=64)
  maker = made.tokenizer
  rng = seeds.rng(1)
  wide = spaces.Space((*SPACE.parameters, spaces.Discrete('c', (1, 2, 3))))
  found = [cases.study(rng, space, 5) for space in (wide, SPACE, wide)]
  costs = imitation.losses(made, found, batch_size=2)
  for study, cost in zip(found, costs, strict=True):
    assert cost.shape == (5,)
    order = tuple(range(len(study.problem.space)))
    scale = quantizing.ObjectiveRange.of(study.gains)
    drawn = maker.parameters(study, order)
    for number in range(5):
      read = histories.reading(
        made, study.take(slice(number)), order, scale=scale
      )
      history = decoding.advance(
        model,
        variables,
        read.metadata[None],
        read.ids(made)[None],
        read.legal[None],
        projections=made.projections,
      )
      given = np.zeros((1, 1, read.legal.size), np.int32)
      given[0, 0, : len(order)] = drawn[number]
      candidates = decoding.propose(
        model,
        variables,
        history.prefix,
        read.legal[None],
        given,
        jax.random.key(0)[None],
        star=maker.ids.star,
        count=1,
        projections=made.projections,
      )
      expected = -float(candidates.log_probs[0, 0])
      assert cost[number] == pytest.approx(expected, abs=2e-4)
