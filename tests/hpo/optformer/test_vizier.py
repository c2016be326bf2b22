"""The designer in Vizier's own types and loops."""

import numpy as np
import pytest

from hpo.optformer import suggesting
from hpo.optformer import vizier as adapter

pytest.importorskip('vizier')
vz = pytest.importorskip('vizier.pyvizier')
vza = pytest.importorskip('vizier.algorithms')
POLICY = suggesting.Policy(num_candidates=8)


def statement():
  problem = vz.ProblemStatement()
  root = problem.search_space.root
  root.add_float_param('rate', 1e-4, 1.0, scale_type=vz.ScaleType.LOG)
  root.add_int_param('layers', 1, 4)
  root.add_discrete_param('width', [8, 16, 64])
  root.add_categorical_param('kind', ['p', 'q'])
  root.add_bool_param('flag')
  problem.metric_information.append(
    vz.MetricInformation('loss', goal=vz.ObjectiveMetricGoal.MINIMIZE)
  )
  return problem


def completed(suggestions, start):
  found = []
  for number, suggestion in enumerate(suggestions, start):
    trial = suggestion.to_trial(number)
    if number == 2:
      trial.complete(vz.Measurement(), infeasibility_reason='too large')
    else:
      value = suggestion.parameters.get_value('rate')
      trial.complete(vz.Measurement(metrics={'loss': value}))
    found.append(trial)
  return found


def test_suggests_and_updates(made):
  problem = statement()
  designer = adapter.OptFormerDesigner(problem, made, policy=POLICY)
  assert isinstance(designer, vza.Designer)
  first = designer.suggest(3)
  assert len({str(s.parameters.as_dict()) for s in first}) == 3
  for suggestion in first:
    assert problem.search_space.contains(suggestion.parameters)
  done = completed(first[:2], 1)
  running = [first[2].to_trial(3)]
  designer.update(vza.CompletedTrials(done), vza.ActiveTrials(running))
  [more] = designer.suggest()
  known = [s.parameters.as_dict() for s in first]
  assert more.parameters.as_dict() not in known
  found = designer.predict(first)
  assert found.mean.shape == found.stddev.shape == (3,)
  assert np.isfinite(found.mean).all()
  statuses = [t.status for t in adapter.to_trials(done, 'loss')]
  assert statuses == ['COMPLETED', 'INFEASIBLE']


def test_truth_values_are_texts():
  parameters = {'flag': True, 'other': 'False', 'count': 2}
  trial = vz.Trial(id=1, parameters=parameters)
  expected = {'flag': 'True', 'other': 'False', 'count': 2}
  assert adapter.to_point(trial) == expected


def test_problems():
  found = adapter.to_problem(statement())
  assert found.goal == 'MINIMIZE'
  assert found.space.names == ('rate', 'layers', 'width', 'kind', 'flag')
  kinds = [p.kind for p in found.space.parameters]
  assert kinds == ['FLOAT', 'INT', 'DISCRETE', 'CATEGORICAL', 'CATEGORICAL']
  assert found.space.parameters[0].scale == 'LOG'
  two = statement()
  two.metric_information.append(
    vz.MetricInformation('size', goal=vz.ObjectiveMetricGoal.MINIMIZE)
  )
  with pytest.raises(ValueError, match='one objective'):
    adapter.to_problem(two)
  child = statement()
  parent = child.search_space.root.select('kind', ['p'])
  parent.add_float_param('momentum', 0.0, 1.0)
  with pytest.raises(ValueError, match='conditional'):
    adapter.to_problem(child)


def test_runs_as_a_policy(made):
  """In Vizier's own loop of a policy and a store of trials."""
  policies = pytest.importorskip(
    'vizier._src.algorithms.policies.designer_policy'
  )
  pythia = pytest.importorskip('vizier.pythia')
  problem = statement()
  supporter = pythia.InRamPolicySupporter(problem)
  policy = policies.DesignerPolicy(
    supporter,
    lambda problem, **_: adapter.OptFormerDesigner(
      problem, made, policy=POLICY
    ),
  )
  for start in (1, 3):
    trials = supporter.SuggestTrials(policy, 2)
    assert [trial.id for trial in trials] == [start, start + 1]
    for trial in trials:
      trial.complete(vz.Measurement(metrics={'loss': float(trial.id)}))
  points = {str(t.parameters.as_dict()) for t in supporter.trials}
  assert len(points) == 4
