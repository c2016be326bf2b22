"""Reads gin statements one by one, with a place for every mistake.

`Reader` walks the statements of files and parameters, checks the names in each
and stores its bindings. gin's own loop does the same without the place of a
binding, without includes relative to the including file, and without the
imports of the files on the command line.
"""

import dataclasses
import importlib
import importlib.util
import os
import pathlib
import pkgutil
import sys
import tokenize
import types
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

from gin import config as gin_config
from gin import config_parser

from runtime.config import bindings as bindings_lib
from runtime.config import errors, gin_state, trust
from runtime.config import files as files_lib
from runtime.config import types as types_lib

__all__ = ['Reader']

ConfigError = errors.ConfigError

_DYNAMIC = '__gin__.dynamic_registration'
_PLACE = config_parser.Location(None, 0, None, '')


@dataclasses.dataclass
class _Source:
  """The names that one file, or the command line, may use."""

  label: str
  lines: bool = True
  dynamic: bool = False
  allowed: Collection[str] = trust.TRUSTED
  symbols: dict[str, types.ModuleType] = dataclasses.field(default_factory=dict)

  def at(self, line: int) -> str:
    """Returns the place of a line in messages."""
    return f'{self.label}:{line}' if self.lines else self.label

  def resolve(self, selector: str) -> Any:
    """Returns the function or class that a selector names.

    Args:
      selector: names joined by dots; the first one is imported.

    Returns:
      The object; None for gin's own configurables.

    Raises:
      ConfigError: if there is no such object or it cannot be called.
    """
    first, *rest = selector.split('.')
    if first == 'gin':
      return None
    if not self.dynamic:
      raise ConfigError(
        f'{selector} cannot be resolved: the file must begin with '
        '`from __gin__ import dynamic_registration`'
      )
    if first not in self.symbols:
      near = errors.nearest(first, self.symbols)
      raise ConfigError(f'{selector}: {first!r} is not imported here{near}')
    found, path = self.symbols[first], first
    for name in rest:
      if not hasattr(found, name):
        public = [n for n in dir(found) if not n.startswith('_')]
        near = errors.nearest(name, public)
        raise ConfigError(f'{path} has no {name!r}{near}')
      found, path = getattr(found, name), f'{path}.{name}'
      trust.check_object(found, path, self.allowed)
    if not callable(found):
      raise ConfigError(f'{path} is not a function or a class')
    return found


class _Delegate(gin_config.ParserDelegate):
  """Checks the names of references before gin resolves them."""

  def __init__(self, source: _Source) -> None:
    super().__init__()
    self._source = source

  def configurable_reference(self, scoped_selector: str, evaluate: bool) -> Any:
    """Returns gin's reference; raises ConfigError for an unknown name."""
    self._source.resolve(scoped_selector.rsplit('/', 1)[-1])
    return super().configurable_reference(scoped_selector, evaluate)


class Reader:
  """Reads the statements of one session into its bindings.

  Attributes:
    bindings: the bindings that were read.
  """

  def __init__(
    self,
    fixed: Mapping[Callable[..., Any], Sequence[str]],
    allowed: Collection[str] = trust.TRUSTED,
  ) -> None:
    """Starts with nothing bound.

    Args:
      fixed: parameters, by function, that cannot be bound.
      allowed: modules that may be named; see `trust`.
    """
    self._allowed = allowed
    self.bindings = bindings_lib.Bindings()
    self._fixed = fixed
    # By bound name, each with the depth of its file among the includes.
    self._imports: dict[str, tuple[int, config_parser.ImportStatement]] = {}
    self._open: list[pathlib.Path] = []

  def read_file(self, name: str | os.PathLike[str]) -> None:
    """Reads a file and the files that it includes.

    Args:
      name: the file, as `files_lib.find` looks for it.

    Raises:
      ConfigError: for every mistake in it.
    """
    beside = [path.parent for path in self._open[-1:]]
    path = files_lib.find(name, beside=beside)
    if path in self._open:
      raise ConfigError(f'{files_lib.shown(path)} includes itself')
    text = files_lib.read(path)
    self._open.append(path)
    source = _Source(files_lib.shown(path), allowed=self._allowed)
    self._read(source, text, ())
    self._open.pop()

  def read_param(self, text: str) -> None:
    """Reads one statement of the command line.

    Args:
      text: the statement; it may use every import of the files. Where two of
        them import modules under one name, that of the file that includes the
        other one is meant, and else the last one.

    Raises:
      ConfigError: for every mistake in it.
    """
    dynamic = config_parser.ImportStatement(_DYNAMIC, True, None, _PLACE)
    label = f'--gin_param {text!r}'
    source = _Source(label, lines=False, allowed=self._allowed)
    imports = (statement for _, statement in self._imports.values())
    self._read(source, text, (dynamic, *imports))

  def _read(
    self,
    source: _Source,
    text: str,
    imports: Sequence[config_parser.ImportStatement],
  ) -> None:
    """Reads the statements of one source in a gin context of its own."""
    with gin_state.parse_scope() as context:
      for statement in imports:
        self._import(source, context, statement)
      for statement in _statements(source, text):
        where = source.at(statement.location.line_num)
        try:
          self._apply(source, context, statement)
        except ConfigError as error:
          if error.where:
            raise
          raise ConfigError(error.message, where) from error
        except (ValueError, SyntaxError) as error:  # gin's further checks.
          reason = error.msg if isinstance(error, SyntaxError) else error
          raise ConfigError(str(reason), where) from error

  def _apply(
    self, source: _Source, context: gin_config.ParseContext, statement: Any
  ) -> None:
    """Applies one statement."""
    if isinstance(statement, config_parser.ImportStatement):
      self._import(source, context, statement)
    elif isinstance(statement, config_parser.IncludeStatement):
      self.read_file(statement.filename)
    elif isinstance(statement, config_parser.BlockDeclaration):
      source.resolve(statement.selector)
    elif statement.arg_name:
      self._bind(source, statement)
    else:
      self._define(source, statement)

  def _import(
    self,
    source: _Source,
    context: gin_config.ParseContext,
    statement: config_parser.ImportStatement,
  ) -> None:
    """Imports a module, or switches dynamic registration on."""
    if statement.module.startswith('__gin__'):
      source.dynamic = statement.module == _DYNAMIC
    else:
      if importlib.util.find_spec(statement.module.split('.')[0]) is not None:
        trust.check_module(statement.module, self._allowed)
      module = _import_module(statement.module)
      if not (statement.is_from or statement.alias):
        module = sys.modules[statement.module.split('.')[0]]
      name = statement.bound_name()
      source.symbols[name] = module
      depth = len(self._open)
      if depth <= self._imports.get(name, (depth,))[0]:
        self._imports[name] = depth, statement
    context.process_import(statement)

  def _define(
    self, source: _Source, statement: config_parser.BindingStatement
  ) -> None:
    """Stores `NAME = value`."""
    scope, name = statement.scope, statement.selector
    macro = f'{scope}/{name}' if scope else name
    key = gin_config.ParsedBindingKey.parse(
      (macro, bindings_lib.MACRO, 'value')
    )
    bound = bindings_lib.Bound(
      statement.value,
      name=macro,
      target=f'%{macro}',
      hint=Any,
      where=source.at(statement.location.line_num),
      given=not source.lines,
    )
    self.bindings.add(key, bound)

  def _bind(
    self, source: _Source, statement: config_parser.BindingStatement
  ) -> None:
    """Checks and stores `scope/selector.argument = value`."""
    scope, selector, argument, value, location = statement
    found = source.resolve(selector)
    if found is not None:
      self._check_argument(found, selector, argument)
    hints = {} if found is None else types_lib.annotations(found)
    key = gin_config.ParsedBindingKey.parse((scope, selector, argument))
    bound = bindings_lib.Bound(
      value,
      name=f'{scope}/{selector}.{argument}'.lstrip('/'),
      target=key.complete_selector,
      hint=hints.get(argument, Any),
      where=source.at(location.line_num),
      given=not source.lines,
    )
    self.bindings.add(key, bound)

  def _check_argument(
    self, found: Callable[..., Any], selector: str, argument: str
  ) -> None:
    """Raises ConfigError for a parameter that cannot be bound."""
    known, takes_any = types_lib.parameters(found)
    if argument not in known and not takes_any:
      near = errors.nearest(argument, known)
      raise ConfigError(f'{selector} has no parameter {argument!r}{near}')
    if argument in self._fixed.get(found, ()):
      raise ConfigError(
        f'{selector}.{argument} cannot be bound: the caller of {selector} '
        f'passes it (the flag --{argument} on the command line)'
      )


def _statements(source: _Source, text: str) -> Iterator[Any]:
  """Parses the statements of a text, lazily: each sees those before it."""
  line = 1
  try:
    parser = config_parser.ConfigParser(text, _Delegate(source))
    line = parser.current_token.start[0]
    for statement in parser:
      yield statement
      line = parser.current_token.start[0]
  except ConfigError as error:
    raise ConfigError(error.message, error.where or source.at(line)) from error
  except SyntaxError as error:
    line = error.lineno or line
    code = (error.text or '').strip()
    reason = error.msg.splitlines()[-1].strip()
    quotes = '; text needs quotes' if 'parse token' in reason else ''
    raise ConfigError(
      f'syntax error: {reason} in {code!r}{quotes}', source.at(line)
    ) from error
  except tokenize.TokenError as error:
    raise ConfigError(f'syntax error: {error.args[0]}', source.at(line)) from (
      error
    )
  except ValueError as error:
    raise ConfigError(str(error), source.at(line)) from error


def _import_module(name: str) -> types.ModuleType:
  """Imports a module; raises ConfigError if it does not exist."""
  try:
    return importlib.import_module(name)
  except ModuleNotFoundError as error:
    missing = error.name or ''
    if name != missing and not name.startswith(f'{missing}.'):
      raise ConfigError(
        f'import of {name} fails: module {missing} is not installed'
      ) from error
    parent, _, last = missing.rpartition('.')
    path = None  # Of the top-level modules.
    if parent:
      path = getattr(importlib.import_module(parent), '__path__', None)
      if path is None:
        raise ConfigError(
          f'{parent} is a module; import it and write {parent}.{last}'
        ) from error
    known = [entry.name for entry in pkgutil.iter_modules(path)]
    near = errors.nearest(last, known)
    raise ConfigError(f'no module {missing!r}{near}') from error
