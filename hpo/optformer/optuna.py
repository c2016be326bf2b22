"""OptFormer as a sampler of Optuna.

  study = optuna.create_study(sampler=OptFormerSampler(trained.load(path)))
  study.optimize(objective, n_trials=50)

The model chooses the parameters that every completed trial has with the same
range, all at once. Other parameters, such as lists of more than 1000 values or
whole numbers beyond 2**53, and all parameters of the first trial, are drawn
uniformly. Trials that were pruned, failed, or have an infinite value
count as infeasible. Trials that run in other threads or processes are known to
the model, so that parallel suggestions differ. Trials without some of the
chosen parameters, or with values out of range (`enqueue_trial` allows them),
are not shown to the model.
"""

import math
import types
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from hpo import spaces, studies
from hpo.optformer import quantizing, suggesting
from hpo.optformer import trained as trained_lib
from runtime import optional, seeds

__all__ = [
  'Column',
  'OptFormerSampler',
  'shared_space',
  'to_problem',
  'to_trials',
]

# Steps beyond the bins of the model are rounded to, and not listed.
_MOST_LISTED = quantizing.NUM_BINS
_OFF_STEP = 1e-8  # Of a step: what Optuna takes for rounding.


class OptFormerSampler:
  """See the module; counts as an `optuna.samplers.BaseSampler`.

  Args:
    trained: the model.
    policy: how points are chosen; None: `suggesting.usual`.
    seed: of all draws; None: of the operating system.

  Raises:
    ValueError: the seed is out of range.
  """

  def __init__(
    self,
    trained: trained_lib.Trained,
    *,
    policy: suggesting.Policy | None = None,
    seed: int | None = None,
  ) -> None:
    if seed is not None:
      seeds.check(seed)
    optuna = _optuna()
    # Not derived from it: this module can be imported without Optuna.
    optuna.samplers.BaseSampler.register(type(self))
    self._trained = trained
    self._policy = policy
    self._intersection = optuna.search_space.IntersectionSearchSpace()
    self._random = optuna.samplers.RandomSampler(seed)
    self._seed = seed
    if seed is None:
      self._draw_seed()

  def reseed_rng(self) -> None:
    """See Optuna: before a copy of the sampler works in another process."""
    self._random.reseed_rng()
    self._draw_seed()

  def _draw_seed(self) -> None:
    self._seed = int(np.random.default_rng().integers(2**32))

  def infer_relative_search_space(
    self, study: Any, trial: Any
  ) -> dict[str, Any]:
    """See Optuna: what all completed trials have, can vary and can be read."""
    found = _varying(self._intersection.calculate(study))
    bins = self._trained.tokenizer.ids.bins
    return {name: x for name, x in found.items() if _is_read(name, x, bins)}

  def sample_relative(
    self, study: Any, trial: Any, search_space: Mapping[str, Any]
  ) -> dict[str, Any]:
    """See Optuna.

    Raises:
      ValueError: the study has several objectives.
    """
    if not search_space:
      return {}
    problem, columns = to_problem(study, search_space)
    others = study.get_trials(deepcopy=False)
    found = suggesting.suggest(
      self._trained,
      problem,
      to_trials(
        [t for t in others if t.number != trial.number], columns, problem
      ),
      jax.random.fold_in(jax.random.key(self._seed), trial.number),
      policy=self._policy,
    )
    [point] = found.points
    return {name: columns[name].outside(x) for name, x in point.items()}

  def before_trial(self, study: Any, trial: Any) -> None:
    """See Optuna: nothing to do."""

  def after_trial(
    self, study: Any, trial: Any, state: Any, values: Any
  ) -> None:
    """See Optuna: the model reads trials when it needs them."""

  def sample_independent(
    self, study: Any, trial: Any, param_name: str, param_distribution: Any
  ) -> Any:
    """See Optuna: uniform, for parameters that the model cannot choose."""
    return self._random.sample_independent(
      study, trial, param_name, param_distribution
    )


def _optuna() -> types.ModuleType:
  return optional.load('optuna', extra='optuna')


def _varying(found: Mapping[str, Any]) -> dict[str, Any]:
  return {name: x for name, x in found.items() if not x.single()}


def _is_read(name: str, given: Any, bins: int) -> bool:
  """Whether a model of so many bins can read, and choose, a parameter."""
  try:
    quantizing.legal_counts((_column(name, given).parameter,), bins)
  except ValueError:
    return False
  return True


class Column(NamedTuple):
  """A parameter here, and the maps of its values from and to Optuna's."""

  parameter: spaces.Parameter
  inside: Callable[[Any], spaces.Value]
  outside: Callable[[spaces.Value], Any]


def _column(name: str, given: Any) -> Column:
  kinds = _optuna().distributions
  if isinstance(given, kinds.CategoricalDistribution):
    texts = [str(choice) for choice in given.choices]
    if len(set(texts)) < len(texts) or '' in texts:
      texts = [str(place) for place in range(len(texts))]
    places = {text: place for place, text in enumerate(texts)}
    return Column(
      spaces.Categorical(name, texts),
      lambda value: texts[given.to_internal_repr(value)],
      lambda text: given.choices[places[text]],
    )
  is_whole = isinstance(given, kinds.IntDistribution)
  kind, convert = (spaces.Int, int) if is_whole else (spaces.Float, float)
  scale = 'LOG' if given.log else 'LINEAR'
  if given.step is None or (is_whole and given.step == 1):
    parameter = kind(name, given.low, given.high, scale)
    return Column(parameter, convert, convert)
  return _stepped(name, given, kind, convert)


def _stepped(
  name: str, given: Any, kind: type[spaces.Float | spaces.Int], convert: type
) -> Column:
  """Numbers at equal distances; those that Optuna refuses are left as they are."""
  places = lambda x: (x - given.low) / given.step
  # Rounding must not lift the last one above the bound.
  value = lambda place: convert(min(given.low + given.step * place, given.high))
  nearest = lambda x: value(round(places(x)))

  def inside(x: float | int) -> float | int:
    is_step = abs(places(x) - round(places(x))) < _OFF_STEP
    return nearest(x) if is_step and given.low <= x <= given.high else x

  count = round(places(given.high)) + 1
  if count > _MOST_LISTED:
    return Column(kind(name, given.low, given.high), convert, nearest)
  values = [value(place) for place in range(count)]
  return Column(spaces.Discrete(name, values), inside, convert)


def shared_space(study: Any) -> dict[str, Any]:
  """The distributions of Optuna that all completed trials of a study share.

  Args:
    study: an `optuna.Study`.

  Returns:
    Distributions by name, of the parameters that vary.
  """
  space = _optuna().search_space.intersection_search_space
  return _varying(space(study.get_trials(deepcopy=False)))


def to_problem(
  study: Any, search_space: Mapping[str, Any]
) -> tuple[studies.Problem, dict[str, Column]]:
  """The problem of a study of Optuna, and its parameters by name.

  Args:
    study: an `optuna.Study`.
    search_space: distributions of Optuna by name.

  Raises:
    ValueError: the study has several objectives.
  """
  if len(study.directions) > 1:
    raise ValueError(
      'OptFormer optimises one objective, '
      f'got a study of {len(study.directions)}'
    )
  columns = {name: _column(name, x) for name, x in search_space.items()}
  space = spaces.Space(tuple(c.parameter for c in columns.values()))
  is_min = study.direction == _optuna().study.StudyDirection.MINIMIZE
  goal = 'MINIMIZE' if is_min else 'MAXIMIZE'
  return studies.Problem(space, goal), columns


def to_trials(
  found: Iterable[Any],
  columns: Mapping[str, Column],
  problem: studies.Problem,
) -> list[studies.Trial]:
  """Trials of Optuna that have all parameters in range.

  Args:
    found: of type `optuna.trial.FrozenTrial`.
    columns: of `to_problem`.
    problem: of `to_problem`.

  Returns:
    The trials in their order, but those that run are the last.
  """
  state = _optuna().trial.TrialState
  finished, running = [], []
  for trial in found:
    point = _point(trial.params, columns, problem.space)
    if point is None:
      continue
    if trial.state == state.COMPLETE and math.isfinite(trial.value):
      finished.append(studies.Trial(point, trial.value))
    elif trial.state.is_finished():
      finished.append(studies.Trial(point, None, 'INFEASIBLE'))
    else:
      running.append(studies.Trial(point, None, 'PENDING'))
  return finished + running


def _point(
  params: Mapping[str, Any], columns: Mapping[str, Column], space: spaces.Space
) -> dict[str, spaces.Value] | None:
  """The values of the parameters; None if one is missing or out of range."""
  if not set(columns) <= set(params):
    return None
  try:
    point = {name: c.inside(params[name]) for name, c in columns.items()}
    space.codes(point)
  except ValueError:
    return None
  return point
