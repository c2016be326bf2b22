"""The best returns for their costs: an archive of bounded size.

A point (return, cost) dominates another if its return is not smaller, its cost
not larger, and one of both differs. Letters: C capacity, n new points.
"""

from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PyTree

from rl import ranges

__all__ = ['Archive', 'empty', 'insert']


@flax.struct.dataclass
class Archive:
  """Points of which none dominates another, by increasing cost and return.

  Attributes:
    returns: float32 [C]; -inf where free.
    costs: float32 [C]; inf where free.
    items: what belongs to the points, such as architectures; leaves [C, ...].
    used: bool [C]; the used places come first.
  """

  # Not annotated by shape: transformations put other things into the leaves.
  returns: Any
  costs: Any
  items: Any
  used: Any


def empty(capacity: int, item: PyTree) -> Archive:
  """An archive without points.

  Args:
    capacity: C, at least 2: the cheapest and the best point always stay.
    item: an example of the data that belong to a point, or their shapes.

  Raises:
    ValueError: if the capacity is too small.
  """
  ranges.check_counts(least=2, capacity=capacity)
  return Archive(
    returns=jnp.full(capacity, -jnp.inf, jnp.float32),
    costs=jnp.full(capacity, jnp.inf, jnp.float32),
    items=jax.tree.map(
      lambda x: jnp.zeros((capacity, *x.shape), x.dtype), item
    ),
    used=jnp.zeros(capacity, bool),
  )


def insert(
  archive: Archive,
  returns: Float[Array | np.ndarray, ' n'],
  costs: Float[Array | np.ndarray, ' n'],
  items: PyTree,
  valid: Bool[Array | np.ndarray, ' n'],
) -> Archive:
  """Adds points, and keeps those that none dominates.

  Of equal points the first stays. If there are more than C, the point of the
  smallest crowding distance goes, again and again, the cheapest first among
  equals: the distance between both neighbours in return, over the range of
  returns, and in cost alike, added. The two ends of the front stay.

  Args:
    archive: before.
    returns: to be maximised; one that is not finite is left out.
    costs: to be minimised, alike.
    items: leaves [n, ...].
    valid: which points count.
  """
  join = lambda old, new: jnp.concatenate([old, jnp.asarray(new, old.dtype)])
  returns, costs = join(archive.returns, returns), join(archive.costs, costs)
  items = jax.tree.map(join, archive.items, items)
  used = join(archive.used, valid)
  used &= jnp.isfinite(returns) & jnp.isfinite(costs)
  used = _front(returns, costs, used)
  order = jnp.argsort(jnp.where(used, costs, jnp.inf))
  returns, costs, used = returns[order], costs[order], used[order]
  capacity = archive.used.shape[0]
  used = jax.lax.while_loop(
    lambda used: jnp.sum(used) > capacity,
    lambda used: used.at[_crowded(returns, costs, used)].set(False),
    used,
  )
  # False after True, the order within each left as it is.
  last = jnp.argsort(~used)[:capacity]
  used = used[last]
  chosen = order[last]
  return Archive(
    returns=jnp.where(used, returns[last], -jnp.inf),
    costs=jnp.where(used, costs[last], jnp.inf),
    items=jax.tree.map(lambda x: x[chosen], items),
    used=used,
  )


def _front(
  returns: Float[Array, ' p'],
  costs: Float[Array, ' p'],
  used: Bool[Array, ' p'],
) -> Bool[Array, ' p']:
  """Which used points no other one dominates; of equal ones the first."""
  more, less = returns[:, None] >= returns, costs[:, None] <= costs
  equal = more & less & more.T & less.T
  index = jnp.arange(returns.shape[0])
  before = index[:, None] < index
  beats = used[:, None] & more & less & (~equal | before)
  return used & ~jnp.any(beats, axis=0)


def _crowded(
  returns: Float[Array, ' p'],
  costs: Float[Array, ' p'],
  used: Bool[Array, ' p'],
) -> Array:
  """Index of the used point of the smallest crowding distance.

  Points are a front by increasing cost, so their neighbours are the next used
  ones on either side.
  """
  index = jnp.arange(used.shape[0])
  before = jax.lax.cummax(jnp.where(used, index, -1))
  after = jax.lax.cummin(jnp.where(used, index, used.shape[0]), reverse=True)
  left = jnp.concatenate([jnp.array([-1]), before[:-1]])
  right = jnp.concatenate([after[1:], jnp.array([used.shape[0]])])
  inner = used & (left >= 0) & (right < used.shape[0])
  first, last = after[0], before[-1]
  gap = lambda x: (x[right] - x[left]) / (x[last] - x[first])
  distance = gap(returns) + gap(costs)
  return jnp.argmin(jnp.where(inner, distance, jnp.inf))
