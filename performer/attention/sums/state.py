"""Running sums of linear attention, their precision, and how they combine.

A state stands for the sums over the keys seen so far, each feature divided by
exp(c):

  S = sum_j v_j phi(y_j)^T exp(-c),   z = sum_j phi(y_j) exp(-c).

c is a stabiliser: outputs do not depend on it, so it carries no gradient. The
sums are associative, so `merge` serves scans, prefix sums and devices alike.

Sums are float32, or float64 where the inputs are. Inputs and features may be
narrower; exponents, products and sums never are.

Letters: b batch, h heads, l or i positions of queries, j of keys, r features,
v width of a value, s: r for logarithmic kernels (one constant per feature), 1
for direct ones.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

__all__ = [
  'NO_KEY',
  'Readout',
  'State',
  'add_up',
  'check',
  'divide',
  'dot',
  'empty',
  'forget',
  'has_key',
  'keep',
  'merge',
  'merge_readouts',
  'read',
  'weigh',
  'wide',
  'widen',
  'within',
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


def wide(*arrays: Array) -> jnp.dtype:
  """The dtype of sums over these arrays: float32, or wider if one is."""
  return jnp.promote_types(jnp.result_type(*arrays), jnp.float32)


def widen(x: Float[Array, '...']) -> Float[Array, '...']:
  """The array in the dtype of its sums."""
  return x.astype(wide(x))


def dot(form: str, *operands: Float[Array, '...']) -> Float[Array, '...']:
  """An einsum whose products are summed in the wide dtype."""
  return jnp.einsum(form, *operands, preferred_element_type=wide(*operands))


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
    return jnp.full_like(like, value, wide(like), (*lead, *shape))

  return State(
    full(0.0, width, features),
    full(0.0, features),
    full(NO_KEY, features if per_feature else 1),
  )


def check(state: Any, expected: State) -> None:
  """Checks the sums that a call reads or continues from.

  Args:
    state: the given state.
    expected: a state with the right shapes.

  Raises:
    ValueError: naming the array and the shapes.
  """
  if not isinstance(state, State):
    raise ValueError(f'state must be a State, got {type(state)}')
  for name, like in expected._asdict().items():
    got = jnp.shape(getattr(state, name))
    if got != like.shape:
      raise ValueError(
        f'state must have {name} of shape {like.shape} for this kernel, '
        f'got {got}'
      )


def add_up(
  features: Float[Array, 'b h j r'],
  v: Float[Array, 'b h j v'],
  c: Float[Array, 'b h s'],
) -> State:
  """Sums keys whose features are in units of exp(c)."""
  return State(
    dot('bhjv,bhjr->bhvr', v, features),
    jnp.sum(features, axis=-2, dtype=wide(features)),
    c,
  )


def read(
  state: State,
  queries: Float[Array, 'b h i r'],
  scale: Float[Array, 'b h i'],
) -> Readout:
  """Every row reads every key of a state.

  Args:
    state: the keys.
    queries: features, in units of exp(scale - c).
    scale: unit of the rows.

  Returns:
    The rows.
  """
  return Readout(
    dot('bhir,bhvr->bhiv', queries, state.S),
    dot('bhir,bhr->bhi', queries, state.z),
    scale,
  )


def within(
  queries: Float[Array, 'b h i r'],
  features: Float[Array, 'b h j r'],
  v: Float[Array, 'b h j v'],
  visible: Bool[Array, '#b #h i j'],
  scale: Float[Array, 'b h i'],
  history: tuple[State, Float[Array, 'b h i r']] | None = None,
) -> Readout:
  """Every row reads the keys that it sees, one by one, and all of a state.

  Args:
    queries: features, in units of exp(scale - c).
    features: of the keys, in units of exp(c).
    v: values.
    visible: pairs (row, key).
    scale: unit of the rows.
    history: a state, and the features that read it; None: no state.

  Returns:
    The rows.
  """
  weights = dot('bhir,bhjr->bhij', queries, features)
  near = weigh(jnp.where(visible, weights, 0.0), v, scale)
  if history is None:
    return near
  far = read(*history, scale)
  return Readout(
    near.numerator + far.numerator, near.denominator + far.denominator, scale
  )


def weigh(
  weights: Float[Array, 'b h i j'],
  v: Float[Array, 'b h j v'],
  scale: Float[Array, 'b h i'],
) -> Readout:
  """Rows over keys with given weights, in units of exp(scale)."""
  return Readout(
    dot('bhij,bhjv->bhiv', weights, v), jnp.sum(weights, axis=-1), scale
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


def divide(
  numerator: Float[Array, 'b h l v'], denominator: Float[Array, 'b h l']
) -> Float[Array, 'b h l v']:
  """Divides rows by positive denominators; rows without one are 0."""
  seen = denominator > 0
  denominator = jnp.where(seen, denominator, 1.0)[..., None]
  # Denominators reach e^60. The derivative of a quotient squares them, which
  # overflows, unless they are 1 when it is taken.
  unit = jax.lax.stop_gradient(1.0 / denominator)
  return numerator * unit / (denominator * unit)
