"""What `bench_ode.py` times: one loss and its gradient, solved in several ways.

x' = MLP(x) from 0 to 1 by RK4 steps of equal size, loss |x(1)|^2 over the batch,
gradient with respect to x(0) and all parameters. And the flow of matrices of
ODEtoODE-ISO, with our retraction and with the general matrix exponential.
"""

import dataclasses
import functools
import importlib
import math
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from rl.odetoode import flows, generators, manifolds, retractions, solvers

__all__ = [
  'DIFFRAX',
  'HAND',
  'OURS',
  'STORED',
  'TORCH',
  'Sizes',
  'flow_function',
  'flow_inputs',
  'inputs',
  'jax_forms',
  'torch_call',
]

OURS, STORED = 'ours', 'ours, all stored'
HAND, HAND_STORED = 'hand-written scan', 'hand-written scan, all stored'
DIFFRAX, TORCH = 'diffrax', 'torchdiffeq'

Params = list[tuple[Any, Any]]


@dataclasses.dataclass(frozen=True)
class Sizes:
  """Of the cases.

  Attributes:
    widths: of the field's layers, input first, output last.
    steps: RK4 steps.
    flow_width: d of the flow of matrices.
    flow_steps: N of it.
  """

  widths: tuple[int, ...] = (64, 64, 128, 64)
  steps: int = 40
  flow_width: int = 64
  flow_steps: int = 100


def inputs(
  sizes: Sizes, batch: int, seed: int = 0
) -> tuple[Params, np.ndarray]:
  """Draws parameters and x(0), float32."""
  rng = np.random.default_rng(seed)
  params = [
    (
      rng.normal(size=(a, b)).astype(np.float32) / math.sqrt(a),
      0.1 * rng.normal(size=b).astype(np.float32),
    )
    for a, b in zip(sizes.widths[:-1], sizes.widths[1:], strict=True)
  ]
  return params, rng.normal(size=(batch, sizes.widths[0])).astype(np.float32)


def _field(params: Params, x: Array) -> Array:
  for kernel, bias in params[:-1]:
    x = jnp.tanh(x @ kernel + bias)
  kernel, bias = params[-1]
  return x @ kernel + bias


def _ours(remat: bool, steps: int, params: Params, x: Array) -> Array:
  return solvers.integrate(
    lambda t, x: _field(params, x),
    x,
    n_steps=steps,
    method='rk4',
    remat=remat,
  )


def _hand(remat: bool, steps: int, params: Params, x: Array) -> Array:
  """What one writes who needs no library."""
  h = 1.0 / steps

  def step(x: Array, _: None) -> tuple[Array, None]:
    k1 = _field(params, x)
    k2 = _field(params, x + h / 2 * k1)
    k3 = _field(params, x + h / 2 * k2)
    k4 = _field(params, x + h * k3)
    return x + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4), None

  step = jax.checkpoint(step) if remat else step
  return jax.lax.scan(step, x, length=steps)[0]


@functools.cache
def _classical() -> Any:
  """RK4 as a solver of diffrax, which has none.

  Raises:
    ImportError: if diffrax is not installed.
  """
  diffrax = importlib.import_module('diffrax')
  table = diffrax.ButcherTableau(
    c=np.array([0.5, 0.5, 1.0]),
    b_sol=np.array([1 / 6, 1 / 3, 1 / 3, 1 / 6]),
    b_error=np.zeros(4),
    a_lower=(np.array([0.5]), np.array([0, 0.5]), np.array([0, 0, 1.0])),
  )

  class Classical(diffrax.AbstractERK):
    """The classical method."""

    tableau: ClassVar[Any] = table
    interpolation_cls: ClassVar[Any] = (
      diffrax.ThirdOrderHermitePolynomialInterpolation.from_k
    )

    def order(self, terms: Any) -> int:
      """Of its error."""
      return 4

  return Classical()


def _diffrax(steps: int, params: Params, x: Array) -> Array:
  diffrax = importlib.import_module('diffrax')
  solution = diffrax.diffeqsolve(
    diffrax.ODETerm(lambda t, x, params: _field(params, x)),
    _classical(),
    t0=0.0,
    t1=1.0,
    dt0=1.0 / steps,
    y0=x,
    args=params,
    # The last step may end a rounding error before 1.
    max_steps=steps + 1,
  )
  return solution.ys[-1]


def jax_forms(sizes: Sizes) -> dict[str, Callable[[Params, Array], Any]]:
  """(parameters, x(0)) -> loss and gradients, by the name of the form."""
  solve = {
    OURS: functools.partial(_ours, True),
    STORED: functools.partial(_ours, False),
    HAND: functools.partial(_hand, True),
    HAND_STORED: functools.partial(_hand, False),
    DIFFRAX: _diffrax,
  }

  def gradient(name: str) -> Callable[[Params, Array], Any]:
    loss = lambda params, x: jnp.sum(solve[name](sizes.steps, params, x) ** 2)
    return jax.value_and_grad(loss, argnums=(0, 1))

  return {name: gradient(name) for name in solve}


def torch_call(
  sizes: Sizes, params: Params, x0: np.ndarray
) -> Callable[[], tuple[float, Sequence[np.ndarray]]]:
  """The same by torchdiffeq: its `rk4`, whose stages are those of the 3/8 rule.

  Raises:
    ImportError: if torch or torchdiffeq is not installed.
  """
  torch = importlib.import_module('torch')
  torchdiffeq = importlib.import_module('torchdiffeq')
  torch.set_num_threads(1)  # Sums of this size are slower with more.
  leaves = [
    torch.from_numpy(a.copy()).requires_grad_() for pair in params for a in pair
  ]
  x = torch.from_numpy(x0.copy()).requires_grad_()
  times = torch.tensor([0.0, 1.0])

  def field(t: Any, x: Any) -> Any:
    for i in range(0, len(leaves) - 2, 2):
      x = torch.tanh(x @ leaves[i] + leaves[i + 1])
    return x @ leaves[-2] + leaves[-1]

  def call() -> tuple[float, Sequence[np.ndarray]]:
    out = torchdiffeq.odeint(
      field, x, times, method='rk4', options={'step_size': 1 / sizes.steps}
    )
    loss = (out[-1] ** 2).sum()
    found = torch.autograd.grad(loss, [*leaves, x])
    return loss.item(), [g.numpy() for g in found]

  return call


def flow_inputs(sizes: Sizes, seed: int = 0) -> tuple[Array, Array, Array]:
  """Q, N and W_0 of an ISO flow, as models start."""
  keys = jax.random.split(jax.random.key(seed), 3)
  d = sizes.flow_width
  q, n = (jax.random.normal(key, (d, d)) / math.sqrt(d) for key in keys[:2])
  return q, n, manifolds.haar(keys[2], d)


def flow_function(
  sizes: Sizes, retraction: retractions.Retraction
) -> Callable[..., Any]:
  """(Q, N, W_0) -> W_N, and gradients of a loss of all W_n."""

  def loss(q: Array, n: Array, w0: Array) -> tuple[Array, Array]:
    flow = flows.matrix_flow(
      w0,
      generators.skew_iso(q, n),
      n_steps=sizes.flow_steps,
      retraction=retraction,
    )
    return jnp.sum(jnp.sin(flow.matrices)) + jnp.sum(flow.last), flow.last

  return jax.grad(loss, argnums=(0, 1, 2), has_aux=True)
