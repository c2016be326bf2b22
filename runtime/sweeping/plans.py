"""What a sweep runs: settings as gin statements, grids, tuners by name."""

import ast
import dataclasses
import importlib
import itertools
import json
import pathlib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

__all__ = [
  'GOALS',
  'TUNERS',
  'Job',
  'Listed',
  'Plan',
  'Tuner',
  'grid',
  'make_tuner',
  'read_space',
  'statement',
]

GOALS = ('MAXIMIZE', 'MINIMIZE')
Point = dict[str, Any]
# Tuners that are given by a bare name are functions of this module.
TUNERS = 'hpo.autorl.tuners'
_OPENING, _CLOSING = '([{', ')]}'
_TUNER = re.compile(
  r'(?:(?P<module>[\w.]+):)?(?P<name>\w+)(?P<options>\(.*\))?'
)


class Job(NamedTuple):
  """What a tuner wants to be run.

  Attributes:
    id: number of the job, from 0 on.
    params: values by name.
    budget: steps that the run has made in the end, those of its parent
      included; None: as configured.
    parent: id of the job whose run is continued; None: a fresh run.
  """

  id: int
  params: Mapping[str, Any]
  budget: int | None = None
  parent: int | None = None


class Tuner(Protocol):
  """Chooses jobs; whatever has these methods, such as `hpo`'s tuners."""

  def ask(self, count: int) -> Sequence[Job]:
    """At most `count` jobs; none if it waits for results, or is finished."""
    ...

  def tell(self, job: int, score: float | None, step: int | None) -> None:
    """Records a score, which is maximised; None: the job is infeasible."""
    ...

  def state(self) -> Any:
    """All that `restore` needs, as an object of JSON."""
    ...

  def restore(self, state: Any) -> None:
    """Continues where `state` was taken; ValueError if it is another's."""
    ...


class Listed:
  """A `Tuner` of points that are known beforehand.

  Args:
    points: to run, in this order.
  """

  def __init__(self, points: Sequence[Point]) -> None:
    self._points = list(points)
    self._asked = 0

  def ask(self, count: int) -> list[Job]:
    """See `Tuner`."""
    first = self._asked
    found = self._points[first : first + count]
    self._asked += len(found)
    return [Job(i, point) for i, point in enumerate(found, first)]

  def tell(self, job: int, score: float | None, step: int | None) -> None:
    """Nothing depends on scores."""

  def state(self) -> int:
    """See `Tuner`."""
    return self._asked

  def restore(self, state: int) -> None:
    """See `Tuner`."""
    self._asked = state


@dataclasses.dataclass(frozen=True)
class Plan:
  """A sweep before it runs.

  Attributes:
    files: gin files of every member.
    params: gin statements of every member; those of a point come after them.
    allow: modules that configurations may name.
    points: that are run; None: a tuner chooses them from the space.
    space: parameters as objects of JSON, as `hpo.spaces` writes them; empty
      where points are listed.
    tuner: name of the tuner; see `make_tuner`.
    seeds: number of members of a point, with seeds 0, 1, ...
    metric: whose last value is the score of a run, such as 'eval/valid/loss'.
    goal: one of `GOALS`; empty without a metric.
    budget: setting that a tuner's budgets are values of, such as 'STEPS'.

  Raises:
    ValueError: settings do not fit each other.
  """

  files: tuple[str, ...]
  params: tuple[str, ...] = ()
  allow: tuple[str, ...] = ()
  points: tuple[Point, ...] | None = None
  space: tuple[Mapping[str, Any], ...] = ()
  tuner: str = ''
  seeds: int = 1
  metric: str = ''
  goal: str = ''
  budget: str = ''

  def __post_init__(self) -> None:
    if self.seeds < 1:
      raise ValueError(f'seeds must be positive, got {self.seeds}')
    if bool(self.tuner) != bool(self.space):
      raise ValueError(
        'a tuner needs a space, and a space a tuner, got '
        f'{self.tuner=} {self.space=}'
      )
    if self.tuner and self.points is not None:
      raise ValueError('points come from a tuner or from a list, got both')
    if self.tuner and not self.metric:
      raise ValueError(f'the tuner {self.tuner} needs a metric')
    if bool(self.metric) != bool(self.goal):
      raise ValueError(
        'a metric has a goal, MAXIMIZE or MINIMIZE, and a goal a metric, got '
        f'{self.metric=} {self.goal=}'
      )
    if self.metric and not self.metric.startswith(('eval/', 'train/')):
      raise ValueError(
        "metric must be a name of metrics.jsonl, such as 'eval/valid/loss' or "
        f"'train/loss', got {self.metric!r}"
      )

  @property
  def sign(self) -> int:
    """Scores are values of the metric times the sign."""
    return 1 if self.goal == 'MAXIMIZE' else -1

  def described(self) -> dict[str, Any]:
    """The plan as an object of JSON."""
    return json.loads(json.dumps(dataclasses.asdict(self)))

  def statements(
    self, params: Mapping[str, Any], budget: int | None = None
  ) -> tuple[str, ...]:
    """The gin statements of a point.

    Raises:
      ValueError: a tuner has budgets and the plan names no setting for them.
    """
    if budget is not None and not self.budget:
      raise ValueError(
        f'the tuner {self.tuner} gives runs budgets, here {budget}: name the '
        'setting that takes them, as in --budget=STEPS'
      )
    own = {**params, **({} if budget is None else {self.budget: budget})}
    return (*self.params, *(statement(k, v) for k, v in own.items()))

  def probes(self) -> list[Point]:
    """Points to check before anything runs.

    All points of a list. Of a space every end of every parameter: one point, and
    those that differ from it in one parameter.
    """
    if self.points is not None:
      return list(self.points)
    ends = {p['name']: _ends(p) for p in self.space}
    base = {name: values[0] for name, values in ends.items()}
    others = [
      base | {name: value}
      for name, values in ends.items()
      for value in values[1:]
    ]
    return [base, *others]


def _ends(parameter: Mapping[str, Any]) -> list[Any]:
  if 'values' in parameter:
    return list(parameter['values'])
  return [parameter['low'], parameter['high']]


def statement(name: str, value: Any) -> str:
  """A gin statement that sets a value.

  A text is written as it is if gin can read it as a value: a reference such as
  '@attention.Exact()', a number, a tuple, a text in quotes. Another text is put
  into quotes.
  """
  if isinstance(value, str):
    is_gin = value.startswith(('@', '%', *_OPENING)) or _is_literal(value)
    return f'{name} = {value if is_gin else repr(value)}'
  return f'{name} = {value!r}'


def _is_literal(text: str) -> bool:
  try:
    ast.literal_eval(text)
  except (ValueError, SyntaxError):
    return False
  return True


def grid(texts: Sequence[str]) -> tuple[Point, ...]:
  """All combinations of values, the last name fastest.

  Args:
    texts: such as 'LEARNING_RATE=[1e-3, 3e-4]'; the values are gin's.

  Returns:
    Points, whose values are texts; one empty point without texts.

  Raises:
    ValueError: a text is malformed, a name comes twice, or a value does.
  """
  axes: dict[str, list[str]] = {}
  for text in texts:
    name, equals, values = (part.strip() for part in text.partition('='))
    listed = values.startswith('[') and values.endswith(']')
    if not equals or not name or not listed:
      raise ValueError(f'a grid is NAME=[VALUE, VALUE], got {text!r}')
    if name in axes:
      raise ValueError(f'the grid has {name} twice')
    axes[name] = _split(values[1:-1], text)
    if len(set(axes[name])) < len(axes[name]):
      raise ValueError(f'a grid has each value once, got {text!r}')
  rows = itertools.product(*axes.values())
  return tuple(dict(zip(axes, row, strict=True)) for row in rows)


def _split(values: str, text: str) -> list[str]:
  """Values between commas that are in no brackets and no quotes."""
  parts, depth, quote = [''], 0, ''
  for mark in values:
    if depth < 0:
      break
    if quote:
      quote = '' if mark == quote else quote
    elif mark in '\'"':
      quote = mark
    else:
      depth += (mark in _OPENING) - (mark in _CLOSING)
    if mark == ',' and not depth and not quote:
      parts.append('')
    else:
      parts[-1] += mark
  if depth or quote:
    raise ValueError(f'a bracket or a quote does not close, in {text!r}')
  found = [part.strip() for part in parts]
  if len(found) > 1 and not found[-1]:  # A comma after the last value.
    del found[-1]
  if not all(found):
    raise ValueError(f'a grid needs a value between commas, got {text!r}')
  return found


def read_space(path: pathlib.Path) -> tuple[Mapping[str, Any], ...]:
  """The parameters of a JSON file, as `hpo.spaces.Space.to_json` writes them.

  Raises:
    OSError: there is no such file.
    ValueError: it is no list of parameters; names the file.
  """
  try:
    found = json.loads(path.read_text(encoding='utf-8'))
  except ValueError as error:
    raise ValueError(f'{path}: {error}') from error
  for one in found if found and isinstance(found, list) else [found]:
    if not isinstance(one, dict) or not (
      'name' in one and ('values' in one or {'low', 'high'} <= one.keys())
    ):
      raise ValueError(
        f'{path}: a space is a list of parameters with a name, and with values '
        f'or low and high, got {one!r}'
      )
  return tuple(found)


def make_tuner(
  name: str, space: Sequence[Mapping[str, Any]], seed: int
) -> Tuner:
  """The tuner that a name means.

  Args:
    name: 'module:function', with options as in 'module:function(eta=3)'; without
      a module, a function of `TUNERS`. The function is called with the space,
      `seed` and the options, and returns a `Tuner`.
    space: parameters as objects of JSON.
    seed: of all draws.

  Raises:
    ValueError: the name is malformed, or there is no such function.
  """
  found = _TUNER.fullmatch(name)
  if found is None:
    raise ValueError(
      'a tuner is NAME or module:function, perhaps with options as in '
      f'asha(eta=3), got {name!r}'
    )
  module = found['module'] or TUNERS
  function = _function(module, found['name'])
  options = _options(name, found['options'] or '()')
  try:
    return function(space, seed=seed, **options)
  except TypeError as error:
    raise ValueError(f'the tuner {name} cannot be made: {error}') from error


def _function(module: str, name: str) -> Callable[..., Tuner]:
  try:
    home = importlib.import_module(module)
  except ModuleNotFoundError as error:
    raise ValueError(f'the module of tuners {module}: {error}') from error
  if not callable(getattr(home, name, None)):
    known = getattr(home, '__all__', [])
    raise ValueError(f'{module} has no tuner {name!r}; it has {known}')
  return getattr(home, name)


def _options(name: str, text: str) -> dict[str, Any]:
  """Keyword arguments that are literals, from their brackets."""
  try:
    call = ast.parse(f'f{text}', mode='eval').body
    if not isinstance(call, ast.Call) or call.args:
      raise ValueError('options have names')
    return {word.arg: ast.literal_eval(word.value) for word in call.keywords}
  except (SyntaxError, ValueError) as error:
    raise ValueError(f'options of the tuner {name}: {error}') from error
