"""Bodies, from x_0 to x_N: between the input projection and the readout.

A body's matrices depend on its parameters alone, not on x: `weights` computes
them, once for a batch or for all steps of a rollout, `advance` moves states.

  x, aux = body.apply(variables, x0)

  weights, aux = body.apply(variables, method='weights')
  x = body.apply(variables, weights, x0, method='advance')

Source: arXiv:2006.11421, Section 3.
"""

import abc
import math
from collections.abc import Mapping
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, PyTree

from rl import ranges
from rl.odetoode import flows, generators, manifolds, retractions

__all__ = ['KINDS', 'Body', 'ODEtoODE']

KINDS = ('iso', 'gated', 'static')

Aux = dict[str, Float[Array, '']]
Activation = flows.Activation


class Body(nn.Module):
  """Base class of ODEtoODE and its baselines.

  Attributes:
    width: d.
    f: elementwise.

  Raises:
    ValueError: if the width is not positive.
  """

  width: int
  f: Activation = jnp.abs

  # Parameters on manifolds: 'symmetric' by their symmetric part, 'orthogonal'.
  constraints: ClassVar[Mapping[str, str]] = {}

  def __post_init__(self) -> None:
    # Here, since heads use it before the body declares its parameters.
    ranges.check_counts(width=self.width)
    super().__post_init__()

  @abc.abstractmethod
  def weights(self) -> tuple[PyTree, Aux]:
    """The arguments of `advance`, and certificates: scalars by name."""

  @abc.abstractmethod
  def advance(
    self, weights: PyTree, x: Float[Array, '*B d']
  ) -> Float[Array, '*B d']:
    """x_N of x_0."""

  @property
  def layered(self) -> bool:
    """Whether the steps are the same for every x."""
    return True

  @abc.abstractmethod
  def layers(self, weights: PyTree) -> tuple[flows.Step, PyTree]:
    """One step, and the arrays of every step; see `flows.path`.

    Raises:
      ValueError: if the body is not `layered`.
    """

  def states(
    self,
    weights: PyTree,
    x: Float[Array, '*B d'],
    nudges: Float[Array, 'N1 *B d'] | None = None,
  ) -> Float[Array, 'N1 *B d']:
    """x_0, ..., x_N; see `flows.states`.

    Raises:
      ValueError: as `__call__`, or if the body is not `layered`.
    """
    flows.check_states(x, self.width)
    step, items = self.layers(weights)
    return flows.path(step, x, items, nudges)

  def __call__(
    self, x: Float[Array, '*B d']
  ) -> tuple[Float[Array, '*B d'], Aux]:
    """x_N of x_0, and certificates.

    Raises:
      ValueError: if x_0 is not of floats or not of width d.
    """
    flows.check_states(x, self.width)
    weights, aux = self.weights()
    return self.advance(weights, x), aux


def symmetric_init(key: Array, shape: tuple[int, int]) -> Array:
  """Entries N(0, 1/d); [H, N] is then of order 1."""
  return jax.random.normal(key, shape) / math.sqrt(shape[0])


def _orthogonal_init(key: Array, shape: tuple[int, int]) -> Array:
  return manifolds.haar(key, shape[0])


class ODEtoODE(Body):
  """x' = f(W_t x) with W' = W b(t, W) on the orthogonal group.

  Parameters, float32: `w0` [d, d], orthogonal, to be kept so by the optimiser
  (`trivialization.trivialize`, `geometry.Manifold`); `q` and `n` [d, d] of kind
  'iso'; `gates` [K], `kernels_i` [K, fan in, fan out] and `biases_i` of 'gated'.

  Certificates: `orthogonality_defect` of all W_n; `generator_norm` and
  `step_norm`, the largest 1-norms of b and of eta b, which a guarded retraction
  compares with its limit; of 'iso', `lyapunov`, tr(H N) at the end, and
  `lyapunov_gain`, its growth along the flow.

  Attributes:
    kind: b is that of 'iso' or 'gated', or zero: 'static'.
    n_steps: N.
    time: T.
    retraction: U.
    order: of the matrix flow's steps; see `flows.matrix_flow`.
    gates: K of 'gated'.
    hidden: widths of its networks.
    train_w0: whether W_0 is learnt or stays as drawn.
    orthogonal: False leaves W_0 free, an ablation; its name is then `w`.
    bias: whether f(W x + bias).
    remat: see `flows.main_flow`.

  Raises:
    ValueError: if there is no such kind, or a number is out of range.
  """

  kind: str = 'iso'
  n_steps: int = 25
  time: float = 1.0
  retraction: retractions.Retraction = retractions.Guarded()
  order: int = 1
  gates: int = 4
  hidden: tuple[int, ...] = (16, 16)
  train_w0: bool = True
  orthogonal: bool = True
  bias: bool = False
  remat: bool = True

  constraints: ClassVar[Mapping[str, str]] = {
    'q': 'symmetric',
    'n': 'symmetric',
    'w0': 'orthogonal',
  }

  def setup(self) -> None:
    """Declares the parameters."""
    if self.kind not in KINDS:
      raise ValueError(f'kind must be one of {KINDS}, got {self.kind!r}')
    ranges.check_counts(
      n_steps=self.n_steps, gates=self.gates, hidden=self.hidden
    )
    ranges.check_positive(time=self.time)
    d = self.width
    self.w0 = self._w0()
    if self.kind == 'iso':
      # Keys of their own: with Q = N and W = I the flow would stand still.
      self.q = self.param('q', symmetric_init, (d, d))
      self.n = self.param('n', symmetric_init, (d, d))
    elif self.kind == 'gated':
      self.gated = self._gated()
    if self.bias:
      self.offset = self.param('offset', nn.initializers.zeros, (d,))

  def _w0(self) -> Array:
    shape = (self.width, self.width)
    if not self.train_w0:
      init = lambda: _orthogonal_init(self.make_rng('params'), shape)
      return self.variable('constants', 'w0', init).value
    name = 'w0' if self.orthogonal else 'w'
    return self.param(name, _orthogonal_init, shape)

  def _gated(self) -> generators.GatedParams:
    k = self.gates
    layers = generators.gated_layers(self.width, gates=k, hidden=self.hidden)
    gates = self.param('gates', nn.initializers.constant(k**-0.5), (k,))
    kernels, biases = [], []
    for i, (shape, scale) in enumerate(layers):
      init = nn.initializers.normal(scale)
      kernels.append(self.param(f'kernels_{i}', init, shape))
      zeros = nn.initializers.zeros
      biases.append(self.param(f'biases_{i}', zeros, (k, shape[-1])))
    return generators.GatedParams(gates, tuple(kernels), tuple(biases))

  def generator(self) -> generators.Generator:
    """b, for `flows.matrix_flow`."""
    if self.kind == 'iso':
      return generators.skew_iso(self.q, self.n)
    if self.kind == 'gated':
      return generators.skew_gated(self.gated)
    return lambda t, w: jnp.zeros_like(w)

  def weights(self) -> tuple[Float[Array, 'N d d'], Aux]:
    """W_0, ..., W_{N-1}, and certificates."""
    if self.kind == 'static':
      steps = (self.n_steps, self.width, self.width)
      matrices = jnp.broadcast_to(self.w0, steps)
      return matrices, {
        'orthogonality_defect': manifolds.orthogonality_defect(self.w0)
      }
    flow = flows.matrix_flow(
      self.w0,
      self.generator(),
      n_steps=self.n_steps,
      time=self.time,
      retraction=self.retraction,
      order=self.order,
      remat=self.remat,
      free=not self.orthogonal,
    )
    aux = {
      'orthogonality_defect': jnp.max(
        manifolds.orthogonality_defect(flow.trajectory)
      ),
      'generator_norm': flow.generator_norm,
      'step_norm': flow.step_norm,
    }
    if self.kind == 'iso':
      ends = jnp.stack([self.w0, flow.last])
      first, last = generators.lyapunov(ends, self.q, self.n)
      aux |= {'lyapunov': last, 'lyapunov_gain': last - first}
    return flow.matrices, aux

  def advance(
    self, weights: Float[Array, 'N d d'], x: Float[Array, '*B d']
  ) -> Float[Array, '*B d']:
    """See `Body.advance`."""
    return flows.main_flow(
      x,
      weights,
      f=self.f,
      time=self.time,
      bias=self.offset if self.bias else None,
      remat=self.remat,
    )

  def layers(
    self, weights: Float[Array, 'N d d']
  ) -> tuple[flows.Step, Float[Array, 'N d d']]:
    """See `Body.layers`."""
    bias = self.offset if self.bias else None
    step = flows.main_step(
      self.width, weights, f=self.f, time=self.time, bias=bias
    )
    return step, weights
