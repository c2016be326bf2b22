"""Trace-time checks shared by every attention function."""

import dataclasses
import difflib
import functools
import numbers
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from performer.attention import state as state_lib
from performer.attention import structures

__all__ = [
  'check_choice',
  'check_inputs',
  'check_least',
  'check_projection',
  'check_segments',
  'check_state',
  'is_integer',
  'named_options',
]

_DTYPES = frozenset(
  map(jnp.dtype, (jnp.bfloat16, jnp.float16, jnp.float32, jnp.float64))
)


def is_integer(value: Any) -> bool:
  """Whether a value is an integer, of Python or NumPy, and not a boolean."""
  return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def check_choice(name: str, value: Any, options: Iterable[str]) -> None:
  """Rejects a name that is not among the options.

  Args:
    name: what the value chooses, for the message.
    value: the value given.
    options: the accepted names.

  Raises:
    ValueError: naming the value, the nearest options and all of them.
  """
  options = list(options)
  if value not in options:
    raise ValueError(_unknown(name, value, options))


def _unknown(name: str, value: Any, options: list[str]) -> str:
  near = difflib.get_close_matches(str(value), options, n=3, cutoff=0.4)
  hint = f'; did you mean {" or ".join(map(repr, near))}?' if near else ''
  return f'unknown {name} {value!r}{hint} (known: {options})'


def named_options(cls: type) -> type:
  """Makes a dataclass name the nearest option where it is given an unknown one.

  Args:
    cls: the dataclass, decorated as such.

  Returns:
    The same class. Its call raises TypeError for an unknown option, with the
    nearest names and all of them.
  """
  init: Callable[..., None] = cls.__init__
  known = [field.name for field in dataclasses.fields(cls) if field.init]

  @functools.wraps(init)
  def named(self: Any, *args: Any, **options: Any) -> None:
    for name in options:
      if name not in known:
        raise TypeError(_unknown(f'option of {cls.__name__}', name, known))
    init(self, *args, **options)

  cls.__init__ = named
  return cls


def check_least(least: int, **values: Any) -> None:
  """Rejects numbers below a bound, where they are no arrays.

  Args:
    least: the bound.
    **values: integers by name, or arrays, which may be traced.

  Raises:
    ValueError: naming the value and the bound.
  """
  for name, value in values.items():
    if is_integer(value) and value < least:
      raise ValueError(f'{name} must be >= {least}, got {name}={value}')


def _check_rank(name: str, array: Any, rank: int) -> None:
  if jnp.ndim(array) != rank:
    raise ValueError(
      f'{name} must have {rank} axes, got shape {jnp.shape(array)}'
    )


def check_inputs(
  q: Any, k: Any, v: Any, *, causal: bool, key_mask: Any | None
) -> None:
  """Checks ranks, shapes and dtypes of one attention call.

  Args:
    q: queries, [b, lq, h, d], floating.
    k: keys, [b, lk, h, d], floating.
    v: values, [b, lk, h, v], floating.
    causal: whether row i sees keys 0..i only.
    key_mask: None or [b, lk], boolean.

  Raises:
    ValueError: naming the shapes or dtypes that disagree.
  """
  if not isinstance(causal, bool | np.bool_):
    raise ValueError(f'causal must be True or False, got {causal!r}')
  for name, array in (('q', q), ('k', k), ('v', v)):
    _check_rank(name, array, 4)
    if array.dtype not in _DTYPES:
      raise ValueError(
        f'{name} must be floating, of {sorted(map(str, _DTYPES))}, '
        f'got dtype {array.dtype}'
      )
    if 0 in array.shape:
      raise ValueError(f'{name} must not be empty, got shape {array.shape}')
  dtypes = [array.dtype for array in (q, k, v)]
  if jnp.float64 in dtypes and len(set(dtypes)) > 1:
    raise ValueError(
      'q, k and v must all be float64 or none, got '
      f'{q.dtype=} {k.dtype=} {v.dtype=}'
    )
  if k.shape[:3] != v.shape[:3]:
    raise ValueError(
      f'k and v must agree in batch, length and heads, got {k.shape=} {v.shape=}'
    )
  if (q.shape[0], *q.shape[2:]) != (k.shape[0], *k.shape[2:]):
    raise ValueError(
      'q and k must agree in batch, heads and head size, '
      f'got {q.shape=} {k.shape=}'
    )
  if causal and q.shape[1] != k.shape[1]:
    raise ValueError(
      'causal attention needs as many queries as keys, '
      f'got {q.shape[1]=} {k.shape[1]=}'
    )
  if key_mask is None:
    return
  if getattr(key_mask, 'dtype', None) != jnp.bool_:
    raise ValueError(
      'key_mask must be a boolean array, got '
      f'{getattr(key_mask, "dtype", type(key_mask))}'
    )
  if key_mask.shape != k.shape[:2]:
    raise ValueError(
      'key_mask must be [batch, keys] (full attention matrices cannot be '
      f'masked in linear form), got {key_mask.shape=} {k.shape=}'
    )


def check_projection(
  projection: Any | None,
  *,
  expected: Sequence[int] | None,
  structure: str = 'matrix',
  mix_rows: int | None = None,
) -> None:
  """Checks the random matrix against the shape that the kernel needs.

  Args:
    projection: the projection given, or None.
    expected: (h, m, d) for a kernel that projects; None for one that does
      not. A matrix must have shape [m, d] or [h, m, d]; its Hadamard factors,
      `structures.Hadamard`, stand for one.
    structure: 'matrix', 'mixture' or 'general': what the kernel is projected
      by.
    mix_rows: n, rows for the coefficient of a 'mixture'.

  Raises:
    ValueError: naming what is missing, superfluous or misshapen.
  """
  if expected is None:
    if projection is not None:
      raise ValueError(
        f'this kernel takes no projection, got {_describe(projection)}'
      )
    return
  if projection is None:
    raise ValueError('this kernel needs a projection (see draw), got None')
  for leaf in jax.tree.leaves(projection):
    if getattr(leaf, 'dtype', None) not in _DTYPES:
      raise ValueError(
        'a projection must consist of floating arrays, got '
        f'{getattr(leaf, "dtype", type(leaf))}'
      )
  kinds = {'mixture': structures.Mixture, 'general': structures.General}
  kind = kinds.get(structure)
  if kind is None:
    _check_matrix('projection', projection, expected)
    return
  if not isinstance(projection, kind):
    raise ValueError(
      f'this kernel needs a {kind.__name__} projection (see draw), '
      f'got {_describe(projection)}'
    )
  heads, _, size = expected
  rank = _check_matrix('projection.omega', projection.omega, expected)
  if structure == 'general':
    shapes = [(size,), (size, size)]
    _check_part('transform', projection.transform, shapes, heads, rank)
    return
  _check_part('tau', projection.tau, [(mix_rows, size)], heads, rank)
  if projection.second is not None:
    _check_matrix('projection.second', projection.second, expected, rank)


def _check_matrix(
  name: str, matrix: Any, expected: Sequence[int], rank: int | None = None
) -> int:
  """Checks a matrix or its factors; returns 3 if it has one per head."""
  heads, rows, size = expected
  if isinstance(matrix, structures.Mixture | structures.General):
    raise ValueError(
      f'{name} must be a matrix or its Hadamard factors, '
      f'got {_describe(matrix)}'
    )
  if isinstance(matrix, structures.Hadamard):
    width = 1 << (size - 1).bit_length()
    shapes = ((-(-rows // width), 3, width), (rows,))
    got = tuple(jnp.shape(leaf) for leaf in matrix)
    allowed = [shapes, tuple((heads, *shape) for shape in shapes)]
  else:
    got = tuple(jnp.shape(matrix))
    allowed = [(rows, size), (heads, rows, size)]
  if rank is not None:
    allowed = [allowed[rank - 2]]
  if got not in allowed:
    raise ValueError(f'{name} must have shape {allowed}, got {got}')
  return 2 + allowed.index(got) if rank is None else rank


def _check_part(
  name: str, part: Any, shapes: list[tuple], heads: int, rank: int
) -> None:
  """Checks an array beside a matrix: one per head if the matrix is."""
  if rank == 3:
    shapes = [(heads, *shape) for shape in shapes]
  if jnp.shape(part) not in shapes:
    raise ValueError(
      f'projection.{name} must have shape {shapes} beside its omega, '
      f'got {jnp.shape(part)}'
    )


def _describe(projection: Any) -> str:
  if isinstance(projection, tuple):
    return f'a {type(projection).__name__}'
  return f'one of shape {jnp.shape(projection)}'


def check_segments(q: Any, k: Any, segment_ids: Any | None) -> None:
  """Checks segment ids against the queries and keys that they number.

  Args:
    q: queries, [b, l, h, d].
    k: keys, [b, l, h, d].
    segment_ids: None or [b, l], integer.

  Raises:
    ValueError: naming the shapes or the dtype.
  """
  if segment_ids is None:
    return
  if not jnp.issubdtype(segment_ids.dtype, jnp.integer):
    raise ValueError(f'segment_ids must be integers, got {segment_ids.dtype}')
  if q.shape[1] != k.shape[1] or segment_ids.shape != k.shape[:2]:
    raise ValueError(
      'segment_ids must be [batch, length] of queries and keys alike, got '
      f'{segment_ids.shape=} {q.shape=} {k.shape=}'
    )


def check_state(state: Any, expected: state_lib.State) -> None:
  """Checks the sums that a call reads or continues from.

  Args:
    state: the given state.
    expected: a state with the right shapes.

  Raises:
    ValueError: naming the array and the shapes.
  """
  if not isinstance(state, state_lib.State):
    raise ValueError(f'state must be a State, got {type(state)}')
  for name, like in expected._asdict().items():
    got = jnp.shape(getattr(state, name))
    if got != like.shape:
      raise ValueError(
        f'state must have {name} of shape {like.shape} for this kernel, '
        f'got {got}'
      )
