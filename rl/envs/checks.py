"""Actions that do not fit their space: errors where they can be seen.

Shapes and dtypes are known always. Values are known on the host only: there a
non-finite or out-of-range integer action is an error. Under tracing values are
mended instead (`sanitize_action`), so that one bad lane neither crashes a
simulator nor spreads NaN: floats are clipped to the bounds and a NaN becomes
the value of the box nearest to zero; integers are clipped to 0..n-1.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Shaped

from rl.envs import spaces

__all__ = ['check_action', 'check_keys', 'check_resets', 'sanitize_action']


def check_action(
  space: spaces.Space, action: Any, *, num_lanes: int | None = None
) -> None:
  """Rejects an action that its space cannot take.

  Finite floats beyond the bounds of a box pass: they are clipped.

  Args:
    space: of one lane's action.
    action: array of the space's shape, behind an axis of lanes if any.
    num_lanes: number of lanes; None for a single action.

  Raises:
    ValueError: if it is no array, the shape or the kind of dtype is wrong, or
      (concrete arrays only) a float is not finite or an integer is out of
      range.
  """
  if not hasattr(action, 'shape') and not isinstance(action, int | float):
    raise ValueError(
      'action must be an array of NumPy or JAX, such as numpy.asarray(action, '
      f'{space.dtype!r}), for {space}, got a {type(action).__name__}: {action!r}'
    )
  shape = space.shape if num_lanes is None else (num_lanes, *space.shape)
  if jnp.shape(action) != shape:
    raise ValueError(
      f'action must have shape {shape} for {space}, got {jnp.shape(action)}'
    )
  dtype = jnp.result_type(action)
  kind = (
    jnp.floating if jnp.issubdtype(space.dtype, jnp.floating) else (jnp.integer)
  )
  if not jnp.issubdtype(dtype, kind):
    raise ValueError(
      f'action must have a dtype like {space.dtype} for {space}, got {dtype}'
    )
  if not isinstance(action, jax.core.Tracer):
    _check_values(space, np.asarray(action))


def _check_values(space: spaces.Space, action: np.ndarray) -> None:
  if jnp.issubdtype(action.dtype, jnp.floating):
    bad = ~np.isfinite(action.astype(np.float32))
    rule = 'be finite'
  else:
    low, high = _limits(space)
    bad = (action < low) | (action > high)
    rule = f'be within [{np.min(low)}, {np.max(high)}]'
  if bad.any():
    where = tuple(int(i) for i in np.argwhere(bad)[0])
    raise ValueError(
      f'action must {rule} for {space}, got {action[where]} at {where}'
    )


def _limits(space: spaces.Space) -> tuple[Any, Any]:
  if isinstance(space, spaces.Discrete):
    return np.int32(0), np.int32(space.n - 1)
  return space.bounds


def sanitize_action(
  space: spaces.Space, action: Shaped[Array, '...']
) -> Shaped[Array, '...']:
  """Returns the nearest action of the space, in its dtype.

  Args:
    space: of one action.
    action: array that ends in the space's shape.
  """
  low, high = _limits(space)
  if jnp.issubdtype(action.dtype, jnp.floating):
    action = jnp.where(jnp.isnan(action), 0, action)
  return jnp.clip(action, low, high).astype(space.dtype)


def check_keys(keys: Any, num_lanes: int) -> None:
  """Rejects anything but one key per lane.

  Raises:
    ValueError: naming shape and dtype.
  """
  typed = jnp.issubdtype(getattr(keys, 'dtype', None), jax.dtypes.prng_key)
  if not typed or keys.shape != (num_lanes,):
    raise ValueError(
      f'keys must be jax.random.key values of shape {(num_lanes,)}, '
      f'got {jnp.shape(keys)} {getattr(keys, "dtype", type(keys))}'
    )


def check_resets(env: Any) -> None:
  """Rejects lanes that wait where an episode ended.

  Raises:
    ValueError: naming them.
  """
  if not getattr(env, 'auto_reset', True):
    raise ValueError(f'env must reset itself, got {env}')
