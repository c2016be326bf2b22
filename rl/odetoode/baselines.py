"""The baselines of ODEtoODE: the same heads, other bodies.

  Dense      x <- f(W_l x + c_l), L layers; residual: x <- x + f(W_l x + c_l)
  NODE       x' = MLP(x), or f(W x + c) without hidden layers
  NANODE     x' = f(W_t x), entries of W_t trigonometric polynomials of t
  HyperODE   x' = f(W_t x), vec(W)' = MLP(vec W), unconstrained

Sources: arXiv:2006.11421, Section 5; arXiv:2005.01906 (NANODE); arXiv:1906.04596
(HyperODE).
"""

import itertools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, PyTree

from rl import ranges
from rl.odetoode import bodies, flows, solvers

__all__ = ['NANODE', 'NODE', 'Dense', 'HyperODE', 'trigonometric']

Aux = bodies.Aux
_normal = bodies.symmetric_init


class Dense(bodies.Body):
  """L fully connected layers of width d; DeepNet and DeepResNet at L = 25.

  Attributes:
    depth: L.
    residual: whether each layer adds to its input.

  Raises:
    ValueError: if the depth is not positive.
  """

  f: bodies.Activation = nn.relu
  depth: int = 25
  residual: bool = False

  def setup(self) -> None:
    """Declares the parameters."""
    ranges.check_counts(depth=self.depth)
    d, depth = self.width, self.depth
    scale = (1 / d if self.residual else 2 / d) ** 0.5
    if self.residual:
      # The sum of all layers is then of the size of one.
      scale /= depth**0.5
    init = nn.initializers.normal(scale)
    self.kernels = self.param('kernels', init, (depth, d, d))
    self.biases = self.param('biases', nn.initializers.zeros, (depth, d))

  def weights(self) -> tuple[PyTree, Aux]:
    """See `Body.weights`."""
    return (self.kernels, self.biases), {}

  def layers(self, weights: PyTree) -> tuple[flows.Step, PyTree]:
    """See `Body.layers`."""

    def layer(x: Array, params: tuple[Array, Array]) -> Array:
      kernel, bias = params
      out = self.f(_affine(x, kernel, bias))
      return x + out if self.residual else out

    return layer, weights

  def advance(
    self, weights: PyTree, x: Float[Array, '*B d']
  ) -> Float[Array, '*B d']:
    """See `Body.advance`."""
    layer, params = self.layers(weights)
    return jax.lax.scan(lambda x, p: (layer(x, p), None), x, params)[0]


def _layers(
  module: nn.Module, widths: Sequence[int], last_scale: float
) -> list[tuple[Array, Array]]:
  """Kernels N(0, 1 / fan in), the last ones scaled, and biases 0."""
  layers = []
  for i, (rows, columns) in enumerate(itertools.pairwise(widths)):
    scale = rows**-0.5 * (last_scale if i == len(widths) - 2 else 1.0)
    init = nn.initializers.normal(scale)
    kernel = module.param(f'kernel_{i}', init, (rows, columns))
    bias = module.param(f'bias_{i}', nn.initializers.zeros, (columns,))
    layers.append((kernel, bias))
  return layers


def _mlp(
  layers: Sequence[tuple[Array, Array]], f: bodies.Activation, x: Array
) -> Array:
  for i, (kernel, bias) in enumerate(layers):
    x = f(x) if i else x
    x = _affine(x, kernel, bias)
  return x


def _affine(x: Array, kernel: Array, bias: Array) -> Array:
  """Computed in the dtype of x."""
  return x @ kernel.astype(x.dtype) + bias.astype(x.dtype)


class NODE(bodies.Body):
  """A neural ODE with a field that does not depend on time.

  Attributes:
    hidden: widths of the hidden layers; (d, d) is BaseODE, () gives
      x' = f(W x + c).
    time: T.
    solver: see `solvers.Solver`.

  Raises:
    ValueError: if a width is not positive.
  """

  f: bodies.Activation = jnp.tanh
  hidden: tuple[int, ...] = ()
  time: float = 1.0
  solver: solvers.Solver = solvers.Fixed()

  def setup(self) -> None:
    """Declares the parameters."""
    ranges.check_counts(hidden=self.hidden)
    self.network = _layers(self, (self.width, *self.hidden, self.width), 1.0)

  def weights(self) -> tuple[PyTree, Aux]:
    """See `Body.weights`."""
    return self.network, {}

  def _field(self, weights: PyTree) -> solvers.Field:
    def field(t: Array, x: Array) -> Array:
      del t
      out = _mlp(weights, self.f, x)
      return out if self.hidden else self.f(out)

    return field

  @property
  def layered(self) -> bool:
    """See `Body.layered`."""
    return isinstance(self.solver, solvers.Fixed)

  def layers(self, weights: PyTree) -> tuple[flows.Step, PyTree]:
    """See `Body.layers`."""
    if not self.layered:
      raise ValueError(f'the steps of {self.solver} depend on x')
    return self.solver.steps(self._field(weights), time=self.time)

  def advance(
    self, weights: PyTree, x: Float[Array, '*B d']
  ) -> Float[Array, '*B d']:
    """See `Body.advance`."""
    return self.solver(self._field(weights), x, time=self.time)


def trigonometric(
  t: Float[Array, '*n'], degree: int, time: float = 1.0
) -> Float[Array, '*n c']:
  """1, cos(2 pi j t / T), sin(2 pi j t / T) for j = 1, ..., degree.

  Args:
    t: times.
    degree: m; c = 2 m + 1.
    time: T.
  """
  angles = 2 * jnp.pi * t[..., None] / time * jnp.arange(1, degree + 1)
  ones = jnp.ones((*t.shape, 1), angles.dtype)
  return jnp.concatenate([ones, jnp.cos(angles), jnp.sin(angles)], axis=-1)


class _Driven(bodies.Body):
  """x' = f(W_t x) with matrices at the beginning of every step."""

  @property
  def layered(self) -> bool:
    """See `Body.layered`."""
    return self.adaptive is None

  def layers(
    self, weights: Float[Array, 'N d d'] | None
  ) -> tuple[flows.Step, Float[Array, 'N d d']]:
    """See `Body.layers`."""
    if not self.layered:
      raise ValueError(f'the steps of {self.adaptive} depend on x')
    step = flows.main_step(self.width, weights, f=self.f, time=self.time)
    return step, weights


class NANODE(_Driven):
  """x' = f(W_t x), W_t a trigonometric polynomial, (2 m + 1) d^2 coefficients.

  Attributes:
    degree: m.
    n_steps: N, of steps of equal size.
    time: T.
    adaptive: solver instead of those steps, which evaluates W_t where it likes.

  Raises:
    ValueError: if the degree is negative or another number not positive.
  """

  degree: int = 5
  n_steps: int = 25
  time: float = 1.0
  adaptive: solvers.Adaptive | None = None

  def setup(self) -> None:
    """Declares the parameters."""
    ranges.check_counts(least=0, degree=self.degree)
    ranges.check_counts(n_steps=self.n_steps)
    ranges.check_positive(time=self.time)
    terms, d = 2 * self.degree + 1, self.width
    # Entries of W_t are N(0, 1/d) at every t.
    scale = (d * (self.degree + 1)) ** -0.5
    init = nn.initializers.normal(scale)
    self.coefficients = self.param('coefficients', init, (terms, d, d))

  def _at(self, t: Array) -> Array:
    basis = trigonometric(t, self.degree, self.time)
    return jnp.einsum('...c,cij->...ij', basis, self.coefficients)

  def weights(self) -> tuple[PyTree, Aux]:
    """W at the beginning of every step; nothing if the steps are adaptive."""
    if self.adaptive is not None:
      return None, {}
    times = jnp.arange(self.n_steps) * (self.time / self.n_steps)
    return self._at(times), {}

  def advance(
    self, weights: PyTree, x: Float[Array, '*B d']
  ) -> Float[Array, '*B d']:
    """See `Body.advance`."""
    if self.adaptive is None:
      return flows.main_flow(x, weights, f=self.f, time=self.time)
    field = lambda t, x: self.f(x @ self._at(t).T)
    return self.adaptive(field, x, time=self.time)


class HyperODE(_Driven):
  """x' = f(W_t x) with vec(W)' = MLP(vec(W)), tanh inside, no constraint.

  Attributes:
    hidden: widths of the network's hidden layers.
    n_steps: N, of steps of equal size.
    time: T.
    train_w0: whether W_0 is learnt too, d^2 more parameters.
    adaptive: solver of (x, W) together instead of those steps.

  Raises:
    ValueError: if a number is not positive.
  """

  hidden: tuple[int, ...] = (16, 16)
  n_steps: int = 25
  time: float = 1.0
  train_w0: bool = False
  adaptive: solvers.Adaptive | None = None

  def setup(self) -> None:
    """Declares the parameters."""
    ranges.check_counts(n_steps=self.n_steps, hidden=self.hidden)
    ranges.check_positive(time=self.time)
    d = self.width
    # vec(W) has the norm sqrt(d): hidden units of order 1, entries of W' too
    # after the division by sqrt(d).
    widths = (d * d, *self.hidden, d * d)
    self.network = _layers(self, widths, d**-0.5)
    if self.train_w0:
      self.w = self.param('w', _normal, (d, d))
    else:
      init = lambda: _normal(self.make_rng('params'), (d, d))
      self.w = self.variable('constants', 'w', init).value

  def _slope(self, t: Array, w: Array) -> Array:
    del t
    scaled = w.reshape(-1) * math.sqrt(self.width)
    return _mlp(self.network, jnp.tanh, scaled).reshape(w.shape)

  def weights(self) -> tuple[PyTree, Aux]:
    """W at the beginning of every step; W_0 if the steps are adaptive."""
    if self.adaptive is not None:
      return self.w, {}
    h = self.time / self.n_steps

    def step(w: Array, t: Array) -> tuple[Array, Array]:
      return w + h * self._slope(t, w), w

    return jax.lax.scan(step, self.w, h * jnp.arange(self.n_steps))[1], {}

  def advance(
    self, weights: PyTree, x: Float[Array, '*B d']
  ) -> Float[Array, '*B d']:
    """See `Body.advance`."""
    if self.adaptive is None:
      return flows.main_flow(x, weights, f=self.f, time=self.time)

    def field(t: Array, state: tuple[Array, Array]) -> tuple[Array, Array]:
      x, w = state
      return self.f(x @ w.T), self._slope(t, w)

    return self.adaptive(field, (x, weights), time=self.time)[0]
