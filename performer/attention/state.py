"""Running sums of linear attention and how they combine.

A state stands for the sums over the keys seen so far, each feature divided by
exp(c):

  S = sum_j v_j phi(y_j)^T exp(-c),   z = sum_j phi(y_j) exp(-c).

c is a stabiliser: outputs do not depend on it, so it carries no gradient. The
sums are associative, so `merge` serves scans, prefix sums and devices alike.

Letters: b batch, h heads, l positions, r features, v width of a value, s: r
for logarithmic kernels (one constant per feature), 1 for direct ones.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from performer.attention import precision

__all__ = [
  'NO_KEY',
  'Readout',
  'State',
  'empty',
  'forget',
  'has_key',
  'keep',
  'merge',
  'merge_readouts',
]

# Stands for the maximum over no key. Finite, so that differences of two of
# them are 0 and not NaN; far below every exponent that float32 features have.
NO_KEY = -1e30


class State(NamedTuple):
  """Sums over keys: `S`, `z`, both float32, in units of exp(`c`)."""

  S: Float[Array, 'b h v r']
  z: Float[Array, 'b h r']
  c: Float[Array, 'b h s']


class Readout(NamedTuple):
  """Numerator and denominator of the output rows, in units of exp(scale)."""

  numerator: Float[Array, 'b h l v']
  denominator: Float[Array, 'b h l']
  log_scale: Float[Array, 'b h l']


def has_key(c: Float[Array, '...']) -> Bool[Array, '...']:
  """Tells the stabilisers that stand for at least one key."""
  return c > 0.5 * NO_KEY


def empty(
  like: Float[Array, 'b h ...'], features: int, width: int, per_feature: bool
) -> State:
  """Makes the state of no keys.

  Args:
    like: an array of which batch, heads and the varying mesh axes (inside
      `jax.shard_map`) are taken.
    features: r.
    width: v.
    per_feature: whether c has one entry per feature.

  Returns:
    A state with S = 0 and z = 0.
  """
  lead = like.shape[:2]

  def full(value: float, *shape: int) -> Array:
    return jnp.full_like(like, value, precision.wide(like), (*lead, *shape))

  return State(
    full(0.0, width, features),
    full(0.0, features),
    full(NO_KEY, features if per_feature else 1),
  )


def forget(state: State, closed: Bool[Array, 'b']) -> State:
  """Empties the states of the sequences where a segment is closed."""
  closed = closed[:, None, None]
  return State(
    jnp.where(closed[..., None], 0.0, state.S),
    jnp.where(closed, 0.0, state.z),
    jnp.where(closed, NO_KEY, state.c),
  )


def keep(rows: Readout, visible: Bool[Array, '#b l']) -> Readout:
  """Rows that read their visible keys; the other rows read nothing."""
  visible = visible[:, None]
  return Readout(
    jnp.where(visible[..., None], rows.numerator, 0.0),
    jnp.where(visible, rows.denominator, 0.0),
    jnp.where(visible, rows.log_scale, NO_KEY),
  )


def merge(one: State, two: State) -> State:
  """Sums two states over disjoint sets of keys; associative."""
  c = jnp.maximum(one.c, two.c)
  f, g = jnp.exp(one.c - c), jnp.exp(two.c - c)
  return State(
    one.S * f[..., None, :] + two.S * g[..., None, :],
    one.z * f + two.z * g,
    c,
  )


def merge_readouts(one: Readout, two: Readout) -> Readout:
  """Adds the sums that one row reads from two disjoint groups of keys."""
  scale = jnp.maximum(one.log_scale, two.log_scale)
  f, g = jnp.exp(one.log_scale - scale), jnp.exp(two.log_scale - scale)
  return Readout(
    one.numerator * f[..., None] + two.numerator * g[..., None],
    one.denominator * f + two.denominator * g,
    scale,
  )
