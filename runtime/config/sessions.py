"""Gin configurations for one root function: read, check, build.

```python
with sessions.session(train_lib.train, ['configs/performer/x.gin']) as parsed:
  parsed.build(workdir='runs/x', seed=0)
  parsed.check()
```

gin does the binding and the injection. This module reads the statements one by
one, so that every mistake can be told with its place and the nearest names, and
wraps each bound value, so that its type is checked when it is injected and a
binding that nothing uses is known. A session owns gin's global state: it starts
from an empty configuration, leaves none behind, and may be nested.

Rules of override: the last statement wins. A binding or macro that stays unused
is an error, unless a later statement replaced what referred to it; so a file may
replace the attention of the file it includes, but a setting that comes after
the replacement and has no effect is reported.

Types of values are checked against the annotations of the parameters. The value
of a macro is checked where the macro is used.
"""

import contextlib
import dataclasses
import functools
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import gin

from runtime.config import bindings as bindings_lib
from runtime.config import errors, gin_state, trust
from runtime.config import reader as reader_lib

__all__ = ['ConfigError', 'Parsed', 'session', 'tell']

ConfigError = errors.ConfigError

_TAIL = re.compile(
  r"\n  In call to configurable '([^']*)' \([^\n]*?(?: in scope '([^'\n]*)')?"
  r'(?=\n|$)'
)
# `{batch_size=}` of a message, or its first word: 'batch_size must be ...'.
_PARAMETER = re.compile(r'(?:^|\b)(\w+)(?==| must )')
_FLAG = re.compile(r'--\w')
_MISSING = re.compile(r'([\w.<>]+)\(\) missing \d+ required')


@dataclasses.dataclass(frozen=True)
class Parsed:
  """A configuration that was read and passed every check made before building.

  Attributes:
    text: the configuration as parsed, files and parameters merged; it can be
      parsed again and gives the same bindings.
    build: calls the root with keyword arguments of the caller and the bound
      values; raises `ConfigError` for a value of a wrong type and for a
      parameter without a value, and whatever the root raises.
    arguments: builds the values that are bound to parameters of the root, by
      name, without calling it. They may be used after the session.
    operative: returns the values that were used until now, defaults included,
      as text that can be parsed again.
    check: raises `ConfigError` if a binding or macro was not used until now.
  """

  text: str
  build: Callable[..., Any]
  arguments: Callable[[], dict[str, Any]]
  operative: Callable[[], str]
  check: Callable[[], None]


@contextlib.contextmanager
def session(
  root: Callable[..., Any],
  files: Sequence[str] = (),
  params: Sequence[str] = (),
  *,
  given: Sequence[str] = ('workdir', 'seed', 'context'),
  allow: Sequence[str] = (),
) -> Iterator[Parsed]:
  """Reads gin files and parameters for a root function.

  Args:
    root: the function at the top of the configuration.
    files: gin files, later ones override earlier ones.
    params: single statements, such as `'NUM_LAYERS = 4'`; they override the
      files and may name everything that the files import.
    given: parameters of the root that its caller passes; they cannot be bound.
    allow: modules that may be named beside those of `trust.TRUSTED` and that of
      the root.

  Yields:
    The parsed configuration, to be used inside the `with` statement.

  Raises:
    ConfigError: for an unknown file, module, configurable, parameter or macro,
      a syntax error, a literal of a wrong type, a required value that is
      missing, a macro that nothing refers to.
  """
  with gin_state.isolated(), gin.config_scope(None):
    configured = gin.configurable(root)
    trust.check_allowed(allow)
    allowed = (*trust.TRUSTED, root.__module__, *allow)
    reader = reader_lib.Reader({root: tuple(given)}, allowed)
    for name in files:
      reader.read_file(name)
    for text in params:
      reader.read_param(text)
    reader.bindings.check()
    gin.finalize()
    yield Parsed(
      text=gin_state.bound_text(),
      build=functools.partial(_build, configured, reader.bindings),
      arguments=functools.partial(_arguments, configured),
      operative=gin_state.operative_text,
      check=reader.bindings.check_used,
    )


def _arguments(configured: Callable[..., Any]) -> dict[str, Any]:
  with bindings_lib.detached():
    return gin.get_bindings(configured)


def _build(
  configured: Callable[..., Any],
  bindings: bindings_lib.Bindings,
  **kwargs: Any,
) -> Any:
  """Calls the configured root and translates a call that lacks arguments.

  The message of another mistake names parameters; a note says which macros set
  them.
  """
  try:
    return configured(**kwargs)
  except ConfigError as error:
    raise ConfigError(error.message) from None
  except ValueError as error:
    text = str(error)
    name, scope = next(iter(_TAIL.findall(text)), ('', ''))
    parameters = _PARAMETER.findall(_TAIL.sub('', text))
    knobs = bindings.knobs(parameters, name=name, scope=scope)
    if knobs:
      error.add_note(', '.join(knobs))
    # Not about the workdir, nor about a flag, which the message names.
    if (parameters or name) and not _FLAG.search(text):
      _note_given(error, bindings, [*parameters, *knobs])
    raise
  except (OverflowError, MemoryError) as error:
    error.add_note(f'largest numbers: {", ".join(bindings.largest(3))}')
    _note_given(error, bindings, bindings.largest(3))
    raise
  except TypeError as error:
    if not _lacks_argument(str(error)):
      raise
    first = str(error).split('\n', 1)[0]
    raise ConfigError(f'{first}; bind a value in a gin file') from error


def _note_given(
  error: Exception, bindings: bindings_lib.Bindings, told: Sequence[str]
) -> None:
  """Names the statements of the command line, unless one is named already.

  The message blames the parameter that failed, but a count of patches may be
  wrong because their stride was changed.
  """
  given = bindings.given()
  words = {word for text in told for word in re.findall(r'[\w./]+', text)}
  if given and not any(
    words & {name, name.rpartition('.')[2]} for name in given
  ):
    error.add_note(f'on the command line: {", ".join(given.values())}')


def _lacks_argument(message: str) -> bool:
  """Tells whether gin's own call failed, not a call in the code it called."""
  called = _MISSING.match(message)
  names = [name for name, _ in _TAIL.findall(message)]
  return bool(called and names and names[0] in called[1].split('.'))


def tell(error: BaseException, *, root: str = '') -> str:
  """Returns the message of an error, shortened.

  gin appends a paragraph for every configurable that an exception crosses. One
  clause is enough: the innermost, as `(while building Encoder)`. Notes follow,
  such as `BATCH_SIZE sets batch_size`.

  Args:
    error: an exception that `Parsed.build` raised.
    root: name of the root, which the message leaves out.

  Returns:
    The message without gin's paragraphs.
  """
  text = str(error)
  names = [name for name, _ in _TAIL.findall(text) if name != root]
  clauses = [f'while building {names[0]}'] if names else []
  # Ours have one line; JAX adds paragraphs about its tracebacks.
  clauses += [n for n in getattr(error, '__notes__', []) if '\n' not in n]
  message = _TAIL.sub('', text).rstrip()
  return f'{message} ({"; ".join(clauses)})' if clauses else message
