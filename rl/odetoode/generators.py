"""Generators of matrix flows: skew-symmetric functions of (t, W).

Source: arXiv:2006.11421, Section 3.
"""

import itertools
import math
from collections.abc import Callable, Sequence

import flax
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from rl import ranges
from rl.odetoode import retractions

__all__ = [
  'GatedParams',
  'Generator',
  'gated_layers',
  'init_gated',
  'lyapunov',
  'skew_gated',
  'skew_iso',
  'symmetric',
]

Generator = Callable[
  [Float[Array, ''], Float[Array, 'd d']], Float[Array, 'd d']
]


def symmetric(x: Float[Array, '... d d']) -> Float[Array, '... d d']:
  """(X + X^T) / 2."""
  return (x + jnp.swapaxes(x, -1, -2)) / 2


def skew_iso(q: Float[Array, 'd d'], n: Float[Array, 'd d']) -> Generator:
  """ISO: b(W) = [H, N] with H = W^T Q W, the double bracket flow of H.

  H keeps its spectrum, moves by H' = [H, [H, N]], and tr(H N) grows.

  Args:
    q: Q, by its symmetric part.
    n: N, by its symmetric part.

  Returns:
    b, which ignores the time; of any number of matrices W.

  Raises:
    ValueError: if Q and N are not square and of one size, or W is of another.
  """
  retractions.check_square(q=q, n=n)
  if q.shape != n.shape:
    raise ValueError(f'q and n must be of one shape, got {q.shape} {n.shape}')
  q, n = symmetric(q), symmetric(n)

  def b(t: Array | float, w: Array) -> Array:
    del t
    if w.shape[-2:] != q.shape:
      raise ValueError(f'w must be [..., {q.shape[0]}, _], got {w.shape}')
    turned = jnp.swapaxes(w, -1, -2)
    h = retractions.product(retractions.product(turned, q), w)
    # N H is the transpose of H N.
    return 2 * retractions.skew(retractions.product(h, n))

  return b


def lyapunov(
  w: Float[Array, '... d d'], q: Float[Array, 'd d'], n: Float[Array, 'd d']
) -> Float[Array, '...']:
  """tr(H N) of the ISO flow: it never falls along the flow.

  Args:
    w: W.
    q: as in `skew_iso`.
    n: as in `skew_iso`.
  """
  moved = retractions.product(symmetric(q), w)
  return jnp.sum(moved * retractions.product(w, symmetric(n)), axis=(-2, -1))


@flax.struct.dataclass
class GatedParams:
  """K networks on vec(W) / sqrt(d) and the time, and their gates.

  Attributes:
    gates: a, [K].
    weights: [K, fan in, fan out] of each layer; the first fan in is d^2 + 1, the
      last fan out d^2.
    biases: [K, fan out] of each layer.
  """

  gates: Float[Array, ' K']
  weights: Sequence[Float[Array, 'K _ _']]
  biases: Sequence[Float[Array, 'K _']]


def gated_layers(
  width: int, *, gates: int = 4, hidden: Sequence[int] = (16, 16)
) -> list[tuple[tuple[int, int, int], float]]:
  """Shapes of the weights of `GatedParams`, and how widely they start.

  Args:
    width: d.
    gates: K.
    hidden: widths of the hidden layers of each network.

  Returns:
    For each layer [K, fan in, fan out] and the standard deviation of its first
    weights, for which |b| is about 1/2.

  Raises:
    ValueError: if a number is not positive.
  """
  ranges.check_counts(width=width, gates=gates, hidden=hidden)
  widths = (width**2 + 1, *hidden, width**2)
  layers = []
  for i, (fan_in, fan_out) in enumerate(itertools.pairwise(widths)):
    # The inputs have a norm of about 1, hidden units a mean square of 0.4.
    scale = 1.0 if i == 0 else (0.4 * fan_in) ** -0.5
    if i == len(widths) - 2:
      scale *= 0.25 / math.sqrt(2 * width)
    layers.append(((gates, fan_in, fan_out), scale))
  return layers


def init_gated(
  key: Key[Array, ''],
  width: int,
  *,
  gates: int = 4,
  hidden: Sequence[int] = (16, 16),
) -> GatedParams:
  """Draws parameters for `skew_gated`, as those of `bodies.ODEtoODE` start.

  Args:
    key: of the draw.
    width: d.
    gates: K.
    hidden: widths of the hidden layers of each network.

  Returns:
    Float32 parameters: normal weights, biases of 0, equal gates.

  Raises:
    ValueError: if a number is not positive.
  """
  layers = gated_layers(width, gates=gates, hidden=hidden)
  keys = jax.random.split(key, len(layers))
  return GatedParams(
    jnp.full(gates, gates**-0.5),
    tuple(
      scale * jax.random.normal(k, shape)
      for k, (shape, scale) in zip(keys, layers, strict=True)
    ),
    tuple(jnp.zeros((gates, shape[-1])) for shape, _ in layers),
  )


def skew_gated(params: GatedParams) -> Generator:
  """Gated: b(t, W) = sum_k a_k (F_k - F_k^T), F_k a tanh network of (W, t).

  W is divided by sqrt(d) first, since its entries are of order d^-1/2 while
  vec(W) has the norm sqrt(d).

  Args:
    params: of the networks.

  Returns:
    b, of one matrix W.

  Raises:
    ValueError: by b, if W is not of the size that the networks take.
  """
  fan_in = params.weights[0].shape[-2]

  def b(t: Array | float, w: Array) -> Array:
    d = w.shape[-1]
    if w.shape != (d, d) or d * d + 1 != fan_in:
      raise ValueError(
        f'w must be [d, d] with d^2 + 1 = {fan_in}, got {w.shape}'
      )
    time = jnp.asarray(t, w.dtype)
    inputs = jnp.append(w.reshape(-1) / math.sqrt(d), time)
    hidden = jnp.broadcast_to(inputs, (params.gates.shape[0], d * d + 1))
    for weights, biases in zip(
      params.weights[:-1], params.biases[:-1], strict=True
    ):
      hidden = jnp.tanh(jnp.einsum('ki,kio->ko', hidden, weights) + biases)
    # Gated before the last layer: one sum over networks and hidden units.
    out = jnp.einsum('k,ki,kio->o', params.gates, hidden, params.weights[-1])
    out += params.gates @ params.biases[-1]
    return 2 * retractions.skew(out.reshape(d, d))

  return b
