"""The bindings of one session: their values, places and uses.

gin stores a bound value and copies it deeply whenever it injects it. `Bound`
wraps the value, so that this copy checks the type and notes the use; `Bindings`
keeps all of them and finds what is missing or has no effect.
"""

import contextlib
import contextvars
import copy
import functools
import inspect
import math
import re
from collections.abc import Iterable, Iterator
from typing import Any, NoReturn

from gin import config as gin_config

from runtime import seeds
from runtime.config import errors
from runtime.config import types as types_lib

__all__ = ['MACRO', 'Bindings', 'Bound', 'detached']

MACRO = 'gin.macro'
_RATE = 'learning_rate'
_SEED = re.compile(r'\b(\w+_)?seed$|\bSeeds\.')  # Not counts: num_seeds.
_LARGEST = 2**31 - 1  # Counters and shapes of a run hold 32 bits.


def _targets(value: Any) -> set[str]:
  """Names the reference in a value: `%NAME`, or a callable's selector."""
  names = set()
  for reference in gin_config.iterate_references(value):
    selector = reference.configurable.selector
    scope = '/'.join(reference.scopes)
    names.add(f'%{scope}' if selector == MACRO else selector)
  return names


def _requires(value: Any) -> bool:
  """Tells whether a value contains `%gin.REQUIRED`."""
  return any(
    reference.config_key == ('gin.REQUIRED', 'gin.constant')
    for reference in gin_config.iterate_references(value)
  )


def _exceeds(value: Any, hint: Any) -> bool:
  """Tells whether a value has whole numbers of more than 32 bits.

  Where the type also takes fractions, such numbers are quantities, not counts.
  """
  if max(map(abs, _whole_numbers(value)), default=0) <= _LARGEST:
    return False
  return not types_lib.accepts(_with_fractions(value), hint)


def _whole_numbers(value: Any) -> Iterator[int]:
  if isinstance(value, dict):
    value = tuple(value.values())
  if isinstance(value, (list, tuple)):
    for item in value:
      yield from _whole_numbers(item)
  elif isinstance(value, int) and not isinstance(value, bool):
    yield value


def _with_fractions(value: Any) -> Any:
  """The value with a fraction in place of each large whole number."""
  if isinstance(value, dict):
    return {key: _with_fractions(item) for key, item in value.items()}
  if isinstance(value, (list, tuple)):
    return type(value)(map(_with_fractions, value))
  is_large = isinstance(value, int) and abs(value) > _LARGEST
  return 0.5 if is_large else value


_is_detached: contextvars.ContextVar[bool] = contextvars.ContextVar(
  'is_detached', default=False
)


@contextlib.contextmanager
def detached() -> Iterator[None]:
  """Injects functions that keep their values after the session.

  gin reads the values that are bound to a reference such as `@f` at the call of
  `f`: an object that calls it after the session would get the defaults. In the
  block, a `functools.partial` of the plain function and its values is injected.
  """
  token = _is_detached.set(True)
  try:
    yield
  finally:
    _is_detached.reset(token)


def _injected(value: Any, memo: dict[int, Any]) -> Any:
  """A copy of a value, with its references replaced."""
  if not _is_detached.get():
    return copy.deepcopy(value, memo)
  if isinstance(value, (list, tuple)):
    return type(value)(_injected(item, memo) for item in value)
  if isinstance(value, dict):
    return {key: _injected(item, memo) for key, item in value.items()}
  is_reference = isinstance(value, gin_config.ConfigurableReference)
  if not is_reference or value.evaluate:
    return copy.deepcopy(value, memo)
  scope = value.scopes or gin_config.current_scope()
  with gin_config.config_scope(scope):
    bound = gin_config.get_bindings(value.configurable.selector)
  plain = value.configurable.wrapped
  return functools.partial(plain, **bound) if bound else plain


class _UnknownError(Exception):
  """A value that only a call can tell."""


class Bound:
  """A bound value; gin copies it deeply to inject it, and gets the inside.

  Attributes:
    value: literals and gin references.
    name: the left side of the statement.
    target: the configured object: `%NAME` for a macro, else a selector.
    hint: annotated type of the parameter; `Any` if there is none.
    where: place of the statement.
    given: whether the statement is one of the command line.
    time: number of the statement in the order of reading.
    used: whether gin has injected the value.
  """

  def __init__(
    self,
    value: Any,
    *,
    name: str,
    target: str,
    hint: Any,
    where: str,
    given: bool = False,
  ) -> None:
    """Wraps a value that is not used yet; the store sets `time`."""
    self.value = value
    self.name = name
    self.target = target
    self.hint = hint
    self.where = where
    self.given = given
    self.time = -1
    self.used = False

  def __deepcopy__(self, memo: dict[int, Any]) -> Any:
    self.used = True
    value = _injected(self.value, memo)
    self.check(value)
    return value

  def check(self, value: Any) -> None:
    """Raises ConfigError if `value`, made from this one, does not fit."""
    if not types_lib.accepts(value, self.hint):
      forgot = inspect.isclass(value) or inspect.isfunction(value)
      hint = '; are its parentheses missing, as in @name()?' if forgot else ''
      self._refuse(
        f'be {types_lib.describe(self.hint)}, '
        f'got {value!r} ({type(value).__name__}){hint}'
      )
    if isinstance(value, float) and not math.isfinite(value):
      self._refuse(f'be finite, got {value}')
    if _SEED.search(self.name):
      if not all(0 <= seed <= seeds.LARGEST for seed in _whole_numbers(value)):
        self._refuse(f'be between 0 and 2^32 - 1, got {value}')
    elif _exceeds(value, self.hint):
      self._refuse(f'be between -2^31 and 2^31, got {value}')
    # optax accepts a negative rate, and climbs.
    rate = self._argument == _RATE and isinstance(value, float | int)
    if rate and value < 0:
      self._refuse(f'not be negative, got {value}')

  @property
  def _argument(self) -> str:
    return self.name.rpartition('.')[2]

  def _refuse(self, rule: str) -> NoReturn:
    macros = sorted(t[1:] for t in _targets(self.value) if t.startswith('%'))
    knobs = [f'{macro} sets {self._argument}' for macro in macros]
    clause = f' ({", ".join(knobs)})' if knobs else ''
    raise errors.ConfigError(f'{self.name} must {rule}{clause}', self.where)

  def __repr__(self) -> str:
    return repr(self.value)

  # gin walks into values that can be iterated to find their references.
  def __iter__(self) -> Iterator[Any]:
    return iter((self.value,))


class Bindings:
  """All bindings of one session, by scope, selector and argument."""

  def __init__(self) -> None:
    self._bound: dict[tuple[str, str, str], Bound] = {}
    self._time = 0
    # When a statement that referred to a target was last replaced.
    self._replaced: dict[str, int] = {}

  def add(self, key: gin_config.ParsedBindingKey, bound: Bound) -> None:
    """Stores a binding and gives it to gin; it replaces one with its key."""
    bound.time = self._time
    self._time += 1
    before = self._bound.get(key.scope_selector_arg)
    for target in _targets(before):
      self._replaced[target] = bound.time
    gin_config.bind_parameter(key, bound)
    self._bound[key.scope_selector_arg] = bound

  def check(self) -> None:
    """Checks bindings as far as possible before anything is built.

    Raises:
      ConfigError: for a macro that is not defined or that nothing refers to, a
        value that is still required, a literal of a wrong type.
    """
    defined = {b.target[1:]: b for b in self._macros()}
    referred = {}
    for bound in self._bound.values():
      for target in _targets(bound.value):
        if target.startswith('%'):
          referred.setdefault(target[1:], bound)
    self._check_macros(defined, referred)
    missing = [b for b in self._bound.values() if _requires(b.value)]
    if missing:
      lines = [f'{b.name} must be given a value ({b.where})' for b in missing]
      example = f'--gin_param "{missing[0].name} = ..."'
      lines.append(f'set it in a gin file or with {example}')
      raise errors.ConfigError('\n  '.join(lines))
    for bound in self._bound.values():
      with contextlib.suppress(_UnknownError):  # Checked when it is injected.
        bound.check(self._literal(bound.value))

  def _macros(self) -> Iterable[Bound]:
    return [b for b in self._bound.values() if b.target.startswith('%')]

  def _check_macros(
    self, defined: dict[str, Bound], referred: dict[str, Bound]
  ) -> None:
    """Compares the defined macros with the macros that values refer to."""
    for name, bound in referred.items():
      if name not in defined:
        near = errors.nearest(name, defined)
        raise errors.ConfigError(
          f'{bound.name} refers to %{name}, which is not defined{near}',
          bound.where,
        )
    for name, bound in defined.items():
      replaced = self._replaced.get(bound.target, -1)
      if name not in referred and replaced < bound.time:
        near = errors.nearest(name, referred, listed=0)
        raise errors.ConfigError(
          f'macro {name} is defined, but nothing refers to it{near}',
          bound.where,
        )

  def check_used(self) -> None:
    """Raises ConfigError if a binding has had no effect until now.

    A binding that is unused because a later statement replaced the reference to
    its target, or because a later one in an inner scope goes before it, is the
    normal way to override a file.
    """
    unused = [b for b in self._bound.values() if not b.used]
    replaced = self._replaced_later(unused)
    lines = [
      f'{bound.name} = {bound!r} ({bound.where})'
      for key, bound in self._bound.items()
      if not bound.used
      and replaced.get(bound.target, -1) < bound.time
      and not self._shadowed(key)
    ]
    if lines:
      raise errors.ConfigError(
        'bound, but never used: nothing builds or calls the targets of these '
        'statements, or a later statement replaces them:\n  '
        + '\n  '.join(lines)
      )

  def knobs(
    self, parameters: Iterable[str], *, name: str = '', scope: str = ''
  ) -> list[str]:
    """Says which macros set parameters.

    Args:
      parameters: their names, such as 'batch_size'.
      name: of the object that was built, whose parameters are meant if it has
        such ones; empty: unknown.
      scope: that it was built in.

    Returns:
      Clauses such as 'BATCH_SIZE sets batch_size'; none for a parameter that no
      macro sets.
    """
    found: dict[str, None] = {}
    for parameter in dict.fromkeys(parameters):
      for bound in self._binding(parameter, name, scope):
        for macro in self._macros_behind(bound.value):
          found[f'{macro} sets {parameter}'] = None
    return list(found)

  def _binding(self, parameter: str, name: str, scope: str) -> list[Bound]:
    """The binding of a built object's parameter; if none, all of that name."""
    inside, anywhere = {}, []
    for (outer, selector, argument), bound in self._bound.items():
      if argument != parameter or selector == MACRO:
        continue
      anywhere.append(bound)
      if f'.{selector}'.endswith(f'.{name}') and f'{scope}/'.startswith(
        f'{outer}/' if outer else ''
      ):
        inside[outer] = bound
    return [inside[max(inside, key=len)]] if inside else anywhere

  def largest(self, count: int) -> list[str]:
    """Statements of the largest whole numbers, such as 'SIZE = 10000'."""
    sizes = {}
    for bound in self._bound.values():
      numbers = map(abs, _whole_numbers(bound.value))
      sizes[f'{bound.name} = {bound.value}'] = max(numbers, default=0)
    found = sorted(sizes, key=sizes.get, reverse=True)[:count]
    return [statement for statement in found if sizes[statement]]

  def given(self) -> dict[str, str]:
    """Statements of the command line, such as 'SIZE = 8', by left side."""
    return {
      bound.name: f'{bound.name} = {bound!r}'
      for bound in self._bound.values()
      if bound.given
    }

  def _macros_behind(self, value: Any) -> Iterator[str]:
    """Names of the macros in a value, and in the objects that it builds."""
    for reference in gin_config.iterate_references(value):
      scope = '/'.join(reference.scopes)
      selector = reference.configurable.selector
      if selector == MACRO:
        yield scope
        continue
      for (inner, target, _), bound in self._bound.items():
        if (inner, target) == (scope, selector) and scope:
          yield from self._macros_behind(bound.value)

  def _replaced_later(self, unused: list[Bound]) -> dict[str, int]:
    """Adds to replaced targets those that only replaced targets refer to."""
    replaced = dict(self._replaced)
    waiting = list(unused)
    while waiting:
      bound = waiting.pop()
      time = replaced.get(bound.target, -1)
      if time < bound.time:
        continue
      for target in _targets(bound.value):
        if replaced.get(target, -1) < time:
          replaced[target] = time
          waiting.extend(b for b in unused if b.target == target)
    return replaced

  def _shadowed(self, key: tuple[str, str, str]) -> bool:
    """Tells whether a later binding of an inner scope took the place."""
    scope, *argument = key
    return any(
      list(other[1:]) == argument
      and (not scope or other[0].startswith(f'{scope}/'))
      and bound.used
      and bound.time > self._bound[key].time
      for other, bound in self._bound.items()
    )

  def _literal(self, value: Any, seen: tuple[str, ...] = ()) -> Any:
    """Returns a value with its macros replaced, without calling anything.

    Args:
      value: literals and gin references.
      seen: names of the macros that led here.

    Returns:
      The value that gin will inject.

    Raises:
      ConfigError: if a macro is defined by itself.
      _UnknownError: if a reference has to be called.
    """
    if isinstance(value, (list, tuple)):
      return type(value)(self._literal(item, seen) for item in value)
    if isinstance(value, dict):
      return {key: self._literal(item, seen) for key, item in value.items()}
    if not isinstance(value, gin_config.ConfigurableReference):
      return value
    if not value.evaluate:
      return value.scoped_configurable_fn
    scope, selector = value.config_key
    if selector != MACRO:
      raise _UnknownError
    bound = self._bound[scope, MACRO, 'value']
    if scope in seen:
      raise errors.ConfigError(
        f'macro {scope} is defined by itself', bound.where
      )
    return self._literal(bound.value, (*seen, scope))
