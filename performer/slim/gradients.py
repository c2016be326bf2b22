"""Losses of long sequences, and their exact gradients, in little memory.

All strategies compute the same value and the same gradient up to rounding; they
differ in memory beyond the inputs and the parameters' gradient, per sequence
with activations of a bytes per position, states of s bytes, n = l / c chunks:

| strategy | memory | work, in forward passes |
|---|---|---|
| `full` | a l | 3 |
| `subtract` | a c + 3 s | 4 |
| `anchored` | a c + s (sqrt(n) + 3) | 4 |
| `checkpoint` | a c + s (n + 2) | 4 |
| `checkpoint2` | a c + 2 s sqrt(n) | 5 |

`auto` is the one of these that `planner.plan` takes for a budget.

Reference: arXiv:2012.11346.
"""

import functools
from collections.abc import Callable, Hashable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from performer.slim import drift as drift_lib
from performer.slim import planner, reversal, strategies, subtraction, sweeps
from performer.slim import problem as problem_lib

__all__ = [
  'Gradients',
  'Outputs',
  'slim_apply',
  'slim_loss',
  'slim_value_and_grad',
]
OnDrift = Callable[[PyTree], None]

# Of problems, strategies and chunks. Each has a compiled program per shape, of a
# few hundred memory maps; a process may have 65,530.
_MAX_PROGRAMS = 32


class Outputs(NamedTuple):
  """Attributes: sum of losses, state after the last position, metrics."""

  loss: Float[Array, '']
  state: PyTree
  metrics: PyTree


class Gradients(NamedTuple):
  """A loss and everything that it depends on.

  Attributes:
    loss: sum over all positions, divided by the normalizer.
    metrics: sums over all positions.
    state: after the last position.
    params: gradient in the parameters.
    start: gradient in S and z of the state before the first position.
    inputs: gradient in the floating inputs, [b, l, ...], if asked for; None in
      the place of others.
    drift: of `subtract` and `anchored`, one number per layer (`drift.message`);
      else None.
  """

  loss: Float[Array, '']
  metrics: PyTree
  state: PyTree
  params: PyTree
  start: PyTree
  inputs: PyTree
  drift: PyTree


def slim_apply(
  problem: problem_lib.Problem,
  params: PyTree,
  inputs: PyTree,
  *,
  chunk: int | None = None,
  strategy: str = 'checkpoint',
  memory_budget: float | None = None,
  state: PyTree | None = None,
  constants: PyTree = None,
  on_plan: planner.OnPlan | None = None,
  on_drift: OnDrift | None = drift_lib.warn,
) -> Outputs:
  """A loss to be differentiated, in parameters, state and inputs.

  Compiled once for a problem, a chunk and shapes, under `jax.jit` or outside.

  Args:
    problem: the model.
    params: its parameters.
    inputs: arrays [b, l, ...].
    chunk: positions at a time, 1 to l (more means l); l need not be a multiple.
      None: planned.
    strategy: a member of `strategies.STRATEGIES`, or 'auto': planned.
      `subtract` and `anchored` need a mechanism with plain sums and have first
      derivatives in reverse mode only.
    memory_budget: bytes beyond inputs, parameters and gradient that a plan must
      keep to; None: no limit.
    state: before the first position; None for none.
    constants: arrays that every chunk gets whole; without gradient.
    on_plan: told what was planned, at trace time, before anything runs.
    on_drift: called on the host with the drift of each backward sweep by
      subtraction; None: nobody is told.

  Returns:
    The sum of losses and the state, which have gradients, and metrics, which
    have none.

  Raises:
    ValueError: as `strategies.check_request` and `planner.plan`, or if the loss
      of the problem returns no scalar or another state than it got.
    NotImplementedError: for second derivatives of subtraction.
  """
  strategy, size = planner.settle(
    problem,
    params,
    inputs,
    chunk=chunk,
    strategy=strategy,
    memory_budget=memory_budget,
    state=state,
    constants=constants,
    on_plan=on_plan,
  )
  run = _compiled(_apply, problem, strategy, size, on_drift)
  return run(params, inputs, state, constants)


@functools.lru_cache(maxsize=_MAX_PROGRAMS)
def _compiled(
  function: Callable[..., Any], *options: Hashable
) -> Callable[..., Any]:
  """A function of options and arrays, compiled for the options given.

  The cache of `jax.jit` itself would keep thousands of programs.
  """
  return jax.jit(functools.partial(function, *options))


def _apply(
  problem: problem_lib.Problem,
  strategy: str,
  size: int,
  on_drift: OnDrift | None,
  params: PyTree,
  inputs: PyTree,
  state: PyTree | None,
  constants: PyTree,
) -> Outputs:
  if state is None:
    state = problem.empty_like(inputs)
  constants = jax.lax.stop_gradient(constants)
  if strategy in strategies.SUBTRACTING:
    reversal.Reversed(problem.attention)
    way = _Way(problem, size, _run(strategy, inputs, size))
    outputs = _subtract(way, on_drift, params, constants, state, inputs)
  else:
    totals = _plain(problem, params, constants, state, inputs, size, strategy)
    outputs = Outputs(totals.loss, totals.state, totals.metrics)
  return outputs._replace(metrics=jax.lax.stop_gradient(outputs.metrics))


def _run(strategy: str, inputs: PyTree, size: int) -> int:
  """Chunks between states that are stored; `subtract` stores the first only."""
  length = sweeps.length_of(inputs)
  if strategy == 'checkpoint':
    return 1
  if strategy == 'subtract':
    return -(-length // size)
  return strategies.run_length(length, size)


def _plain(
  problem: problem_lib.Problem,
  params: PyTree,
  constants: PyTree,
  state: PyTree,
  inputs: PyTree,
  size: int,
  strategy: str,
) -> sweeps.Totals:
  if strategy == 'full':
    return sweeps.full(problem, params, constants, state, inputs)
  run = _run(strategy, inputs, size)
  return sweeps.checkpointed(
    problem, params, constants, state, inputs, size, run=run
  )


def slim_loss(
  problem: problem_lib.Problem,
  params: PyTree,
  inputs: PyTree,
  **options: Any,
) -> Float[Array, '']:
  """The sum of losses alone, for `jax.grad`; see `slim_apply`."""
  return slim_apply(problem, params, inputs, **options).loss


def slim_value_and_grad(
  problem: problem_lib.Problem,
  params: PyTree,
  inputs: PyTree,
  *,
  chunk: int | None = None,
  strategy: str = 'checkpoint',
  memory_budget: float | None = None,
  state: PyTree | None = None,
  constants: PyTree = None,
  on_plan: planner.OnPlan | None = None,
  normalizer: Float[Array, ''] | float = 1.0,
  wrt_inputs: bool = False,
) -> Gradients:
  """A loss, its gradients and, of subtraction, how exact they are.

  Compiled once for a problem, a chunk and shapes, under `jax.jit` or outside.

  Args:
    problem: the model.
    params: its parameters.
    inputs: arrays [b, l, ...].
    chunk: as of `slim_apply`, like the next five.
    strategy: see there.
    memory_budget: see there.
    state: before the first position; None for none.
    constants: arrays that every chunk gets whole; without gradient.
    on_plan: see there.
    normalizer: the loss and its gradients are divided by it; such as the number
      of targets, which is known before any pass.
    wrt_inputs: whether to return the gradient in the floating inputs.

  Returns:
    Loss, metrics, last state, gradients and drift.

  Raises:
    ValueError: as `slim_apply`.
  """
  strategy, size = planner.settle(
    problem,
    params,
    inputs,
    chunk=chunk,
    strategy=strategy,
    memory_budget=memory_budget,
    state=state,
    constants=constants,
    on_plan=on_plan,
  )
  run = _compiled(_value_and_grad, problem, strategy, size, wrt_inputs)
  return run(params, inputs, state, constants, normalizer)


def _value_and_grad(
  problem: problem_lib.Problem,
  strategy: str,
  size: int,
  wrt_inputs: bool,
  params: PyTree,
  inputs: PyTree,
  state: PyTree | None,
  constants: PyTree,
  normalizer: Float[Array, ''],
) -> Gradients:
  if state is None:
    state = problem.empty_like(inputs)
  constants = jax.lax.stop_gradient(constants)
  if strategy in strategies.SUBTRACTING:
    way = _Way(problem, size, _run(strategy, inputs, size))
    return _subtract_gradients(
      way, params, constants, state, inputs, normalizer, wrt_inputs
    )
  smooth, rest = _partition(inputs)
  zero = jax.tree.map(jnp.zeros_like, subtraction.sums(state))

  def loss(
    params: PyTree, delta: PyTree, smooth: PyTree
  ) -> tuple[Array, sweeps.Totals]:
    totals = _plain(
      problem,
      params,
      constants,
      subtraction.moved(state, delta),
      _combine(smooth, rest) if wrt_inputs else inputs,
      size,
      strategy,
    )
    return totals.loss / normalizer, totals

  (value, totals), grads = jax.value_and_grad(loss, (0, 1, 2), has_aux=True)(
    params, zero, smooth
  )
  pulled = grads[2] if wrt_inputs else None
  return Gradients(
    value, totals.metrics, totals.state, *grads[:2], pulled, None
  )


class _Way(NamedTuple):
  """How states are recovered: in runs of chunks, each from a stored state."""

  problem: problem_lib.Problem
  size: int
  run: int

  def forward(self, *args: PyTree) -> tuple[sweeps.Totals, PyTree]:
    """`sweeps.forward` of parameters, constants, state and inputs."""
    return sweeps.forward(self.problem, *args, self.size, self.run)

  def backward(
    self,
    params: PyTree,
    constants: PyTree,
    anchors: PyTree,
    inputs: PyTree,
    *behind: Any,
  ) -> subtraction.Pulled:
    """`subtraction.backward`, of which there is no derivative."""

    def sweep(*args: Any) -> subtraction.Pulled:
      *args, last, weight, pull = args
      return subtraction.backward(
        self.problem, *args, self.size, self.run, last, weight, pull
      )

    return _first_order(sweep, params, constants, anchors, inputs, *behind)


def _subtract_gradients(
  way: _Way,
  params: PyTree,
  constants: PyTree,
  state: PyTree,
  inputs: PyTree,
  normalizer: Float[Array, ''] | float,
  wrt_inputs: bool,
) -> Gradients:
  totals, anchors = way.forward(params, constants, state, inputs)
  weight = jnp.ones_like(totals.loss) / normalizer
  pull = sweeps.zeros(subtraction.sums(totals.state))
  pulled = way.backward(
    params, constants, anchors, inputs, totals.state, weight, pull
  )
  return Gradients(
    totals.loss / normalizer,
    totals.metrics,
    totals.state,
    pulled.params,
    pulled.state,
    pulled.inputs if wrt_inputs else None,
    pulled.drift,
  )


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _subtract(
  way: _Way,
  on_drift: OnDrift | None,
  params: PyTree,
  constants: PyTree,
  state: PyTree,
  inputs: PyTree,
) -> Outputs:
  del on_drift
  totals, _ = way.forward(params, constants, state, inputs)
  return Outputs(totals.loss, totals.state, totals.metrics)


def _subtract_forward(
  way: _Way,
  on_drift: Any,
  params: PyTree,
  constants: PyTree,
  state: PyTree,
  inputs: PyTree,
) -> tuple[Outputs, tuple]:
  del on_drift
  totals, anchors = way.forward(params, constants, state, inputs)
  outputs = Outputs(totals.loss, totals.state, totals.metrics)
  return outputs, (params, constants, anchors, inputs, totals.state)


def _subtract_backward(
  way: _Way,
  on_drift: OnDrift | None,
  kept: tuple,
  cotangents: Outputs,
) -> tuple[PyTree, ...]:
  pull = subtraction.sums(cotangents.state)
  pulled = way.backward(*kept, cotangents.loss, pull)
  if on_drift is not None:
    jax.debug.callback(on_drift, pulled.drift)
  state = subtraction.moved(sweeps.zeros(kept[-1]), pulled.state)
  return pulled.params, None, state, pulled.inputs


_subtract.defvjp(_subtract_forward, _subtract_backward)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _first_order(run: Callable[..., Any], *args: PyTree) -> Any:
  """Runs code that must not be differentiated: it has cut its own paths."""
  return run(*args)


@_first_order.defjvp
def _refuse(run: Callable[..., Any], primals: tuple, tangents: tuple) -> Any:
  raise NotImplementedError(
    'subtraction has first derivatives only; for second derivatives use '
    "strategy='checkpoint'"
  )


def _partition(inputs: PyTree) -> tuple[PyTree, PyTree]:
  """Floating leaves and the others, None in the place of each other."""

  def pick(floating: bool) -> PyTree:
    return jax.tree.map(
      lambda x: (
        x if jnp.issubdtype(x.dtype, jnp.floating) == floating else None
      ),
      inputs,
    )

  return pick(True), pick(False)


def _combine(smooth: PyTree, rest: PyTree) -> PyTree:
  return jax.tree.map(
    lambda x, y: y if x is None else x,
    smooth,
    rest,
    is_leaf=lambda x: x is None,
  )
