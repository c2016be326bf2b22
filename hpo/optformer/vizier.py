"""OptFormer as a designer of Vizier.

  designer = OptFormerDesigner(problem, trained.load(path))
  [suggestion] = designer.suggest(1)
  designer.update(vza.CompletedTrials(done), vza.ActiveTrials())

Vizier's `DesignerPolicy` makes it a policy, which Vizier's service can run. The
problem must have one objective, and no parameter that depends on another one.
"""

import types
from collections.abc import Iterable, Sequence
from typing import Any

import jax
import numpy as np

from hpo import spaces, studies
from hpo.optformer import predicting, suggesting
from hpo.optformer import trained as trained_lib
from runtime import optional, seeds

__all__ = [
  'OptFormerDesigner',
  'metric_name',
  'to_point',
  'to_problem',
  'to_statement',
  'to_trials',
]


class OptFormerDesigner:
  """See the module; counts as a `vizier.algorithms.Designer`.

  Args:
    problem: Vizier's problem statement.
    trained: the model.
    policy: how points are chosen; None: `suggesting.usual`.
    seed: of all draws, 0..2**32-1.

  Raises:
    ValueError: the problem is not one that OptFormer can optimise.
  """

  def __init__(
    self,
    problem: Any,
    trained: trained_lib.Trained,
    *,
    policy: suggesting.Policy | None = None,
    seed: int = 0,
  ) -> None:
    algorithms = optional.load('vizier.algorithms', extra='vizier')
    # Not derived from them: this module can be imported without Vizier.
    algorithms.Designer.register(type(self))
    algorithms.Predictor.register(type(self))
    self._metric = problem.metric_information.item().name
    self._problem = to_problem(problem)
    self._trained = trained
    self._policy = policy
    seeds.check(seed)
    self._key = jax.random.key(seed)
    self._completed: list[studies.Trial] = []
    self._active: list[studies.Trial] = []
    self._calls = 0

  def update(self, completed: Any, all_active: Any = None) -> None:
    """See Vizier.

    Args:
      completed: trials that were completed since the last call.
      all_active: all trials that run; None: none.
    """
    self._completed += to_trials(completed.trials, self._metric)
    running = [] if all_active is None else all_active.trials
    self._active = [
      studies.Trial(to_point(trial), None, 'PENDING') for trial in running
    ]

  def suggest(self, count: int | None = None) -> Sequence[Any]:
    """See Vizier.

    Args:
      count: of the suggestions; None: 1.
    """
    self._calls += 1
    number = len(self._completed) + len(self._active)
    key = jax.random.fold_in(jax.random.fold_in(self._key, number), self._calls)
    found = suggesting.suggest(
      self._trained,
      self._problem,
      [*self._completed, *self._active],
      key,
      count=1 if count is None else count,
      policy=self._policy,
    )
    suggestion = _pyvizier().TrialSuggestion
    return [suggestion(parameters=point) for point in found.points]

  def predict(
    self,
    trials: Sequence[Any],
    rng: Any = None,
    num_samples: int | None = None,
  ) -> Any:
    """See Vizier: means and standard deviations of points.

    Args:
      trials: or suggestions; only their parameters count.
      rng: not needed, since the forecasts are exact.
      num_samples: not needed.
    """
    found = predicting.predict(
      self._trained,
      self._problem,
      self._completed,
      [to_point(trial) for trial in trials],
    )
    algorithms = optional.load('vizier.algorithms', extra='vizier')
    return algorithms.Prediction(mean=found.mean, stddev=found.stddev)


def to_problem(problem: Any) -> studies.Problem:
  """The problem of a problem statement of Vizier.

  Raises:
    ValueError: it has several objectives, or conditional parameters.
  """
  if not problem.is_single_objective or len(problem.metric_information) != 1:
    raise ValueError(
      'OptFormer optimises one objective without constraints, '
      f'got {problem.metric_information}'
    )
  if problem.search_space.is_conditional:
    raise ValueError(
      'OptFormer knows no conditional parameters, '
      f'got {problem.search_space.parameters}'
    )
  metric = problem.metric_information.item()
  parameters = tuple(map(_parameter, problem.search_space.parameters))
  goal = 'MAXIMIZE' if metric.goal.is_maximize else 'MINIMIZE'
  return studies.Problem(spaces.Space(parameters), goal, metric=metric.name)


def to_statement(problem: studies.Problem) -> Any:
  """The problem statement of Vizier for a problem; the inverse of `to_problem`."""
  vz = _pyvizier()
  statement = vz.ProblemStatement()
  root = statement.search_space.root
  for p in problem.space.parameters:
    if isinstance(p, spaces.Categorical):
      root.add_categorical_param(p.name, p.values)
      continue
    scale = vz.ScaleType[p.scale]
    if isinstance(p, spaces.Discrete):
      root.add_discrete_param(p.name, p.values, scale_type=scale)
    else:
      is_whole = isinstance(p, spaces.Int)
      add = root.add_int_param if is_whole else root.add_float_param
      add(p.name, p.low, p.high, scale_type=scale)
  goal = vz.ObjectiveMetricGoal[problem.goal]
  information = vz.MetricInformation(metric_name(problem), goal=goal)
  statement.metric_information.append(information)
  return statement


def metric_name(problem: studies.Problem) -> str:
  """The name of the objective in Vizier, which must have one."""
  return problem.metric or 'objective'


def to_trials(trials: Iterable[Any], metric: str) -> list[studies.Trial]:
  """Completed trials of Vizier.

  Args:
    trials: those without a finite value count as infeasible.
    metric: name of the objective.
  """
  found = []
  for trial in trials:
    measured = trial.final_measurement
    value = None
    if measured is not None and metric in measured.metrics:
      value = measured.metrics[metric].value
    if trial.infeasible or value is None or not np.isfinite(value):
      found.append(studies.Trial(to_point(trial), None, 'INFEASIBLE'))
    else:
      found.append(studies.Trial(to_point(trial), float(value)))
  return found


def _pyvizier() -> types.ModuleType:
  return optional.load('vizier.pyvizier', extra='vizier')


def to_point(trial: Any) -> dict[str, spaces.Value]:
  """The values of a trial or suggestion of Vizier, by name.

  Truth values become the texts that Vizier lists for them, 'True' and 'False'.
  """
  return {
    name: x.as_str if isinstance(x.value, bool) else x.value
    for name, x in trial.parameters.items()
  }


def _parameter(config: Any) -> spaces.Parameter:
  kinds = _pyvizier().ParameterType
  name = config.name
  if config.type in (kinds.DOUBLE, kinds.INTEGER):
    make = spaces.Float if config.type == kinds.DOUBLE else spaces.Int
    return make(name, *config.bounds, _scale(config))
  values = config.feasible_values
  if config.type == kinds.DISCRETE:
    return spaces.Discrete(name, sorted(values), _scale(config))
  if config.type == kinds.CATEGORICAL:
    return spaces.Categorical(name, values)
  raise ValueError(f'parameter {name!r} has an unknown type, {config.type}')


def _scale(config: Any) -> str:
  scale = config.scale_type
  name = 'LINEAR' if scale is None else scale.name
  # Equal distances between listed values: what 'LINEAR' means here.
  return 'LINEAR' if name == 'UNIFORM_DISCRETE' else name
