"""Points of a space as traced arrays, so that they change inside programs.

Codes and the unit cube are those of `hpo.spaces`, in float32.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from hpo import scales, spaces

__all__ = ['from_unit', 'sample', 'to_unit', 'zeta']


def to_unit(
  space: spaces.Space, codes: Float[Array, '*n d']
) -> Float[Array, '*n d']:
  """Codes to the unit cube."""
  return _by_column(_to_unit, space, codes)


def from_unit(
  space: spaces.Space, unit: Float[Array, '*n d']
) -> Float[Array, '*n d']:
  """The unit cube to codes: the inverse of `to_unit`."""
  return _by_column(_from_unit, space, unit)


def sample(
  space: spaces.Space, key: Key[Array, ''], shape: tuple[int, ...] = ()
) -> Float[Array, '*n d']:
  """Codes of uniform points of the unit cube."""
  return from_unit(space, jax.random.uniform(key, (*shape, len(space))))


def zeta(space: spaces.Space, codes: Float[Array, '*n d']) -> dict[str, Array]:
  """Settings by name, as `inner.Inner` takes them.

  Returns:
    Floats; whole numbers as int32; the number of a `Discrete` parameter; the
    index of a category, int32.
  """
  return {
    p.name: _value(p, codes[..., i]) for i, p in enumerate(space.parameters)
  }


def _by_column(change: Callable, space: spaces.Space, x: Array) -> Array:
  columns = [change(p, x[..., i]) for i, p in enumerate(space.parameters)]
  return jnp.stack(columns, axis=-1)


def _bounds(p: spaces.Float | spaces.Int) -> tuple[float, float, str]:
  """Of the unit cube; a whole number owns a cell."""
  half = 0.5 if isinstance(p, spaces.Int) else 0.0
  return p.low - half, p.high + half, p.scale


def _to_unit(p: spaces.Parameter, codes: Array) -> Array:
  if isinstance(p, spaces.Float | spaces.Int):
    return jnp.clip(scales.to_scaled(codes, *_bounds(p)), 0, 1)
  return (codes + 0.5) / len(p.values)


def _from_unit(p: spaces.Parameter, unit: Array) -> Array:
  if isinstance(p, spaces.Float | spaces.Int):
    x = scales.from_scaled(unit, *_bounds(p))
    x = jnp.round(x) if isinstance(p, spaces.Int) else x
    return jnp.clip(x, p.low, p.high)
  count = len(p.values)
  return jnp.clip(jnp.floor(unit * count), 0, count - 1)


def _value(p: spaces.Parameter, codes: Array) -> Array:
  if isinstance(p, spaces.Float):
    return codes
  index = jnp.int32(codes)
  return (
    jnp.asarray(p.values)[index] if isinstance(p, spaces.Discrete) else index
  )
