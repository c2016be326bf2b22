"""Trace-time checks shared by every attention function."""

import difflib
from collections.abc import Iterable, Sequence
from typing import Any

import jax.numpy as jnp

__all__ = ['check_choice', 'check_inputs', 'check_projection']


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
  if value in options:
    return
  near = difflib.get_close_matches(str(value), options, n=3, cutoff=0.4)
  hint = f'; did you mean {" or ".join(map(repr, near))}?' if near else ''
  raise ValueError(f'unknown {name} {value!r}{hint} (known: {options})')


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
  for name, array in (('q', q), ('k', k), ('v', v)):
    _check_rank(name, array, 4)
    if not jnp.issubdtype(array.dtype, jnp.floating):
      raise ValueError(f'{name} must be floating, got dtype {array.dtype}')
    if 0 in array.shape:
      raise ValueError(f'{name} must not be empty, got shape {array.shape}')
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
  if key_mask.dtype != jnp.bool_:
    raise ValueError(f'key_mask must be boolean, got dtype {key_mask.dtype}')
  if key_mask.shape != k.shape[:2]:
    raise ValueError(
      'key_mask must be [batch, keys] (full attention matrices cannot be '
      f'masked in linear form), got {key_mask.shape=} {k.shape=}'
    )


def check_projection(
  projection: Any | None, *, expected: Sequence[int] | None
) -> None:
  """Checks the random matrix against the shape that the kernel needs.

  Args:
    projection: the matrix given, or None.
    expected: (d,) for a kernel that projects, with the heads in front where
      known; None for one that does not. The shape must be [m, d] or [h, m, d].

  Raises:
    ValueError: naming what is missing, superfluous or misshapen.
  """
  if expected is None:
    if projection is not None:
      raise ValueError(
        'this kernel takes no projection, '
        f'got one of shape {jnp.shape(projection)}'
      )
    return
  if projection is None:
    raise ValueError('this kernel needs a projection (see draw), got None')
  shape = tuple(jnp.shape(projection))
  heads, features, size = expected
  allowed = [(features, size), (heads, features, size)]
  if shape not in allowed:
    raise ValueError(f'projection must have shape {allowed}, got {shape}')
