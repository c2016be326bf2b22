"""Tuners by name, as sweeps make them."""

import pytest

from hpo import spaces
from hpo.autorl import tuners
from runtime.sweeping import plans
from tests import marks

SPACE = spaces.Space(
  (spaces.Float('LR', 1e-4, 0.1, 'LOG'), spaces.Int('WIDTH', 8, 64))
)


def make(name):
  return plans.make_tuner(name, SPACE.to_json(), 3)


@pytest.mark.parametrize(
  'name',
  [
    *('random', 'sobol', 'grid(resolution=3)', 'asha(max_budget=9, unit=3)'),
    *('hyperband(max_budget=9)', 'optuna'),
    *marks.slow('gp', 'optformer', 'pbt(size=2, rounds=2, interval=3)'),
    *marks.slow('pb2(size=2, rounds=2, interval=3)'),
  ],
)
def test_a_tuner_by_its_name_continues_where_it_was(name):
  first, second = make(name), make(name)
  told = [job for job in first.ask(3) if first.tell(job.id, job.id, 3) is None]
  second.restore(first.state())
  assert first.ask(2) == second.ask(2)
  assert all(set(job.params) == {'LR', 'WIDTH'} for job in told)


def test_options_are_those_of_the_method():
  assert [job.budget for job in make('asha(max_budget=9, unit=3)').ask(1)] == [
    3
  ]
  with pytest.raises(ValueError, match='cannot be made'):
    make('asha(max_budgets=9)')
  with pytest.raises(ValueError, match=r"no tuner 'ransom'; .*'random'"):
    make('ransom')
  assert all(callable(getattr(tuners, name)) for name in tuners.__all__)
