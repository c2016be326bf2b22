"""Neural ODEs: ours, a scan written by hand, diffrax and torchdiffeq.

x' = MLP(x) from 0 to 1 by RK4 steps of equal size, loss |x(1)|^2 over the batch,
gradient with respect to x(0) and all parameters. And the flow of matrices of
ODEtoODE-ISO, with our retraction and with the general matrix exponential. `ours`
computes a step again in backpropagation; `ours, all stored` does not. A bar is
met if wall clock and CPU time both say so.
"""

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from benchmarks import harness, programs, record
from rl.odetoode import flows, generators, manifolds, retractions, solvers

OURS, STORED = 'ours', 'ours, all stored'
HAND, HAND_STORED = 'hand-written scan', 'hand-written scan, all stored'
DIFFRAX, TORCH = 'diffrax', 'torchdiffeq'
EXPM = 'general exponential'
# Of loss and gradients against float64, relative to the largest entry.
_TOLERANCE = 2e-5

Params = list[tuple[Any, Any]]


@dataclasses.dataclass(frozen=True)
class Sizes:
  """Sizes and settings of the measurement."""

  batches: tuple[int, ...] = (1, 64)  # States of the solver.
  widths: tuple[int, ...] = (64, 64, 128, 64)  # Of the field's layers.
  steps: int = 40  # Of RK4.
  flow_width: int = 64  # d of the flow of matrices.
  flow_steps: int = 100  # N of it.

  def __post_init__(self) -> None:
    if self.widths[0] != self.widths[-1] or len(self.widths) < 2:
      raise ValueError(f'a field ends as wide as it begins, got {self.widths=}')


@dataclasses.dataclass(frozen=True)
class Case:
  """A batch through the solver, or the flow of matrices."""

  batch: int  # 0 for the flow.
  sizes: Sizes

  def __str__(self) -> str:
    if self.batch:
      return f'RK4, {self.sizes.steps} steps, batch {self.batch}'
    return f'flow of W, d={self.sizes.flow_width}, N={self.sizes.flow_steps}'


def _inputs(case: Case) -> tuple[Params, np.ndarray]:
  """Draws parameters and x(0), float32."""
  rng, widths = np.random.default_rng(0), case.sizes.widths
  draw = lambda *shape: rng.normal(size=shape).astype(np.float32)
  params = [
    (draw(a, b) / np.float32(math.sqrt(a)), np.float32(0.1) * draw(b))
    for a, b in itertools.pairwise(widths)
  ]
  return params, draw(case.batch, widths[0])


def _field(params: Params, x: Array) -> Array:
  for kernel, bias in params[:-1]:
    x = jnp.tanh(x @ kernel + bias)
  kernel, bias = params[-1]
  return x @ kernel + bias


def _ours(remat: bool, steps: int, params: Params, x: Array) -> Array:
  field = lambda t, x: _field(params, x)
  return solvers.integrate(field, x, n_steps=steps, method='rk4', remat=remat)


def _hand(remat: bool, steps: int, params: Params, x: Array) -> Array:
  """The loop that a user writes without a library."""
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
  """RK4 as a solver of diffrax, which has none."""
  diffrax = programs.peer('diffrax')
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
  diffrax = programs.peer('diffrax')
  term = diffrax.ODETerm(lambda t, x, params: _field(params, x))
  span = {'t0': 0.0, 't1': 1.0, 'dt0': 1.0 / steps}
  # The last step may end a rounding error before 1.
  return diffrax.diffeqsolve(
    term, _classical(), **span, y0=x, args=params, max_steps=steps + 1
  ).ys[-1]


_SOLVE = {
  OURS: functools.partial(_ours, True),
  STORED: functools.partial(_ours, False),
  HAND: functools.partial(_hand, True),
  HAND_STORED: functools.partial(_hand, False),
  DIFFRAX: _diffrax,
}


def _gradient(name: str, steps: int) -> Callable[[Params, Array], Any]:
  """(parameters, x(0)) -> loss and gradients."""
  loss = lambda params, x: jnp.sum(_SOLVE[name](steps, params, x) ** 2)
  return jax.value_and_grad(loss, argnums=(0, 1))


def _torch(case: Case) -> programs.Program:
  """The same by torchdiffeq: its `rk4`, whose stages are those of the 3/8 rule."""
  torch = programs.torch(threads=1)  # Sums of this size are slower with more.
  torchdiffeq = programs.peer('torchdiffeq')
  params, x0 = _inputs(case)
  leaves = [
    torch.from_numpy(a.copy()).requires_grad_() for pair in params for a in pair
  ]
  x = torch.from_numpy(x0.copy()).requires_grad_()
  times = torch.tensor([0.0, 1.0])

  def field(t: Any, x: Any) -> Any:
    for i in range(0, len(leaves) - 2, 2):
      x = torch.tanh(x @ leaves[i] + leaves[i + 1])
    return x @ leaves[-2] + leaves[-1]

  def call() -> tuple:
    out = torchdiffeq.odeint(
      field, x, times, method='rk4', options={'step_size': 1 / case.sizes.steps}
    )
    loss = (out[-1] ** 2).sum()
    found = torch.autograd.grad(loss, [*leaves, x])
    return loss.item(), *(g.numpy() for g in found)

  return programs.Program(call)


def _flow_inputs(d: int) -> tuple[Array, Array, Array]:
  """Q, N and W_0 of an ISO flow, as models start."""
  keys = jax.random.split(jax.random.key(0), 3)
  q, n = (jax.random.normal(key, (d, d)) / math.sqrt(d) for key in keys[:2])
  return q, n, manifolds.haar(keys[2], d)


def _flow_gradient(
  steps: int, retraction: retractions.Retraction
) -> Callable[..., Any]:
  """(Q, N, W_0) -> W_N, and gradients of a loss of all W_n."""

  def loss(q: Array, n: Array, w0: Array) -> tuple[Array, Array]:
    velocity = generators.skew_iso(q, n)
    flow = flows.matrix_flow(w0, velocity, n_steps=steps, retraction=retraction)
    return jnp.sum(jnp.sin(flow.matrices)) + jnp.sum(flow.last), flow.last

  return jax.grad(loss, argnums=(0, 1, 2), has_aux=True)


def solutions(case: Case) -> dict[str, tuple[Callable[..., Any], tuple]]:
  """Functions of JAX and their arguments, by form; the reference comes first."""
  sizes = case.sizes
  if not case.batch:
    kinds = {EXPM: retractions.Exp(), OURS: retractions.Guarded()}
    arguments = _flow_inputs(sizes.flow_width)
    gradient = functools.partial(_flow_gradient, sizes.flow_steps)
    return {name: (gradient(k), arguments) for name, k in kinds.items()}
  arguments = jax.tree.map(jax.device_put, _inputs(case))
  names = (HAND, *(name for name in _SOLVE if name != HAND))
  return {name: (_gradient(name, sizes.steps), arguments) for name in names}


@functools.cache
def _expected(case: Case) -> Any:
  function, arguments = next(iter(solutions(case).values()))
  return programs.in_float64(function, *arguments)


def error(case: Case, found: Any) -> float:
  """Distance of a result from that in float64.

  Of a flow W_N alone counts: how exact its gradients are is a matter of the
  backward pass.
  """
  expected = _expected(case)
  if case.batch:
    return programs.disagreement(found, expected)
  return programs.disagreement(found[1], expected[1])


def _program(name: str, case: Case) -> programs.Program:
  """Builds a form; its extra is its error."""
  if name == TORCH:
    built = _torch(case)
  else:
    function, arguments = solutions(case)[name]
    built = programs.compiled(function, lambda seed: arguments)
  return dataclasses.replace(
    built, extras={'error': error(case, built.bound()())}
  )


def _wrong(case: Case, built: programs.Program) -> str | None:
  # How exact a flow is shows in its row.
  gaps = {'result': built.extras['error']} if case.batch else {}
  return programs.judged(gaps, _TOLERANCE)


def _forms(sizes: Sizes, case: Case) -> list[harness.Form]:
  del sizes
  names = (*_SOLVE, TORCH) if case.batch else (OURS, EXPM)
  return [
    harness.Form(
      name,
      functools.partial(_program, name),
      _wrong,
      ours=name == OURS,
      peer=name in (DIFFRAX, TORCH),
    )
    for name in names
  ]


def summary(sizes: Sizes, results: harness.Results) -> Iterator[record.Row]:
  """The bars; those on times are about both clocks."""
  row, both = record.value_row, {'both': True}
  for batch in sizes.batches:
    name, case = f'batch {batch}', Case(batch, sizes)
    ratio = functools.partial(results.ratio, case)
    least = {DIFFRAX: 2.0, TORCH: 25.0 if batch == 1 else 3.0}
    for text, other in (
      ('time over that of a scan by hand', HAND),
      ('checkpointed over all stored, time', STORED),
    ):
      yield row(f'{name}: {text}', ratio(OURS, other), at_most=1.1, **both)
    for other, limit in least.items():
      faster = ratio(other, OURS)
      yield row(
        f'{name}: times faster than {other}', faster, at_least=limit, **both
      )
    memory = results.memory_ratio(case, STORED, OURS)
    text = f'{name}: times less memory than all stored'
    yield row(text, memory, at_least=10.0)
  flow, other = Case(0, sizes), 'with the general exponential'
  faster = results.ratio(flow, EXPM, OURS)
  yield row(
    f'flow of W: times faster than {other}', faster, at_least=3.0, **both
  )
  pair = [results.get(flow, name) for name in (OURS, EXPM)]
  errors = [m and m.program.extras['error'] for m in pair]
  error_ratio = errors[0] / errors[1] if all(errors) else None
  yield row(f'flow of W: error over that {other}', error_ratio, at_most=1.5)


SUBJECT = harness.Subject(
  'ode',
  Sizes(),
  quick=Sizes((1,), (3, 4, 3), 3, 4, 3),
  cases=lambda sizes: [Case(batch, sizes) for batch in (*sizes.batches, 0)],
  forms=_forms,
  summary=summary,
  settings=programs.Settings(rounds=15, seconds=8.0),
  packages=('jax', 'jaxlib', 'numpy', 'diffrax', 'torch', 'torchdiffeq'),
)
