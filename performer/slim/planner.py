"""Chooses the strategy and chunk that fit a memory budget, without running.

Memory beyond inputs, parameters and their gradient, for activations of a c
bytes per chunk, states of s bytes, parameters of p bytes and n = l / c chunks:

  full a l,  checkpoint a c + s (n + 2) + p,
  checkpoint2 a c + s (k + n / k + 2) + 2 p with runs of k chunks,
  anchored a c + s (n / k + 3) + p,  subtract a c + 3 s + p

and, but for `full`, a copy of the inputs in the order of the chunks. a is what
JAX keeps of one position for the backward pass, and a quarter more for what
passes: an estimate, seen to be 0.86 to 1.05 times what the compiler plans
(`benchmarks/results/slim.json`). Leave room for that.

Reference: arXiv:2012.11346; the table of costs in `gradients`.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
from jaxtyping import PyTree

from performer.slim import problem as problem_lib
from performer.slim import reversal, strategies, sweeps
from runtime.devices import counting

__all__ = ['MIN_CHUNK', 'Candidate', 'OnPlan', 'Plan', 'plan', 'settle']

# Below, a chunk is mostly overhead: `auto` does not go there by itself.
MIN_CHUNK = 64
# Cotangents and intermediates that are alive beside the kept values.
_PASSING = 1.25
_PASSES = {
  'full': 3, 'subtract': 4, 'anchored': 4, 'checkpoint': 4, 'checkpoint2': 5
}  # fmt: skip


class Candidate(NamedTuple):
  """A way to compute the gradient.

  Attributes:
    strategy: a member of `strategies.STRATEGIES`.
    chunk: positions of a chunk.
    temporary_bytes: predicted, beyond inputs, parameters and gradient.
    flops: predicted, of matrix products.
  """

  strategy: str
  chunk: int
  temporary_bytes: int
  flops: int

  def describe(self) -> str:
    """One line for a log."""
    return (
      f'strategy {self.strategy}, chunk {self.chunk}: about '
      f'{self.temporary_bytes / 2**20:,.1f} MiB beside parameters and inputs, '
      f'{self.flops / 1e9:,.1f} GFLOP'
    )


OnPlan = Callable[[Candidate], None]


class Plan(NamedTuple):
  """Attributes: the candidate chosen, and all that were looked at."""

  chosen: Candidate
  candidates: tuple[Candidate, ...]


class _Costs(NamedTuple):
  """Of one batch: bytes per position, fixed bytes, FLOPs forward."""

  per_position: float
  fixed: float
  state: int
  params: int
  inputs: int
  flops_per_position: float


def plan(
  problem: problem_lib.Problem,
  params: PyTree,
  inputs: PyTree,
  *,
  memory_budget: float | int | None = None,
  strategy: str = 'auto',
  chunk: int | None = None,
  state: PyTree | None = None,
  constants: PyTree = None,
) -> Plan:
  """Chooses a strategy and a chunk; arrays may be given as their shapes.

  `auto` takes the first of these that fits: `full`, `checkpoint`, `checkpoint2`,
  and at last, unless features are exponentials, whose states subtraction loses,
  `anchored` and `subtract`. Among the chunks that fit the largest is taken.
  Without a budget it is `checkpoint`, with the chunk of least memory, but no
  less than `MIN_CHUNK`.

  Args:
    problem: the model.
    params: its parameters.
    inputs: arrays [b, l, ...].
    memory_budget: bytes, beyond inputs, parameters and gradient; None: none.
    strategy: 'auto' or a member of `strategies.STRATEGIES`, to choose only a
      chunk for it.
    chunk: positions of a chunk; None: to be chosen.
    state: before the first position; None for none.
    constants: arrays that every chunk gets whole.

  Returns:
    What was chosen, and what was considered.

  Raises:
    ValueError: if nothing fits, with what would come nearest, or as
      `strategies.check_request`.
  """
  known = strategy if strategy != 'auto' else 'full'
  strategies.check_request(inputs, 1 if chunk is None else chunk, known)
  if memory_budget is not None and not memory_budget > 0:
    raise ValueError(f'memory_budget must be positive, got {memory_budget=}')
  if strategy in strategies.SUBTRACTING:
    reversal.Reversed(problem.attention)
  if state is None:
    state = jax.eval_shape(lambda: problem.empty_like(inputs))
  costs = _costs(problem, params, inputs, state, constants)
  length = sweeps.length_of(inputs)
  names = (strategy,) if strategy != 'auto' else _allowed(problem, chunk)
  candidates = tuple(
    _candidate(costs, name, size, length)
    for name in names
    for size in _sizes(name, chunk, length)
  )
  return Plan(_choose(candidates, memory_budget, strategy), candidates)


def settle(
  problem: problem_lib.Problem,
  params: PyTree,
  inputs: PyTree,
  *,
  chunk: int | None,
  strategy: str,
  memory_budget: float | int | None,
  on_plan: OnPlan | None,
  **rest: PyTree,
) -> tuple[str, int]:
  """The strategy and the chunk: as given, or planned from shapes.

  Args:
    problem: the model.
    params: its parameters.
    inputs: arrays [b, l, ...].
    chunk: positions of a chunk; None: planned.
    strategy: a member of `strategies.STRATEGIES`, or 'auto': planned.
    memory_budget: as in `plan`.
    on_plan: told what was planned.
    **rest: state and constants, as in `plan`.

  Returns:
    A strategy, and a chunk of at most l positions.

  Raises:
    ValueError: as `plan`.
  """
  if strategy != 'auto' and chunk is not None and memory_budget is None:
    return strategy, strategies.check_request(inputs, chunk, strategy)
  # Shapes, because this may run inside other transformations.
  params, inputs, rest = jax.eval_shape(lambda *x: x, params, inputs, rest)
  chosen = plan(
    problem,
    params,
    inputs,
    memory_budget=memory_budget,
    strategy=strategy,
    chunk=chunk,
    **rest,
  ).chosen
  if on_plan is not None:
    on_plan(chosen)
  return chosen.strategy, chosen.chunk


def _allowed(
  problem: problem_lib.Problem, chunk: int | None
) -> tuple[str, ...]:
  names = ('checkpoint', 'checkpoint2')
  if chunk is None:
    names = ('full', *names)
  # Exponentials vary by orders of magnitude: never without being asked.
  safe = problem.attention.plain_sums and not problem.attention.spec.log
  return (*names, 'anchored', 'subtract') if safe else names


def _sizes(name: str, chunk: int | None, length: int) -> tuple[int, ...]:
  if name == 'full':
    return (length,)
  if chunk is not None:
    return (min(chunk, length),)
  powers = (2**k for k in range(31))
  sizes = [c for c in powers if min(MIN_CHUNK, length) <= c < length]
  return tuple(reversed(sizes)) or (length,)


def _costs(
  problem: problem_lib.Problem,
  params: PyTree,
  inputs: PyTree,
  state: PyTree,
  constants: PyTree,
) -> _Costs:
  """Fits a line through two lengths; costs are affine in the length."""

  @functools.lru_cache
  def measured(size: int) -> tuple[int, int]:
    piece = jax.tree.map(
      lambda x: jax.ShapeDtypeStruct((x.shape[0], size, *x.shape[2:]), x.dtype),
      inputs,
    )

    def loss(
      params: PyTree, state: PyTree, piece: PyTree, constants: PyTree
    ) -> PyTree:
      totals = sweeps.full(problem, params, constants, state, piece)
      return totals.loss, totals.state

    fixed = (piece, constants)
    return (
      counting.residual_bytes(loss, (params, state), fixed),
      counting.matmul_flops(loss, params, state, *fixed),
    )

  one, two = MIN_CHUNK, 2 * MIN_CHUNK
  (low, low_flops), (high, high_flops) = measured(one), measured(two)
  slope = (high - low) / (two - one)
  return _Costs(
    slope,
    max(low - slope * one, 0.0),
    counting.tree_bytes(state),
    counting.tree_bytes(params),
    counting.tree_bytes(inputs),
    (high_flops - low_flops) / (two - one),
  )


def _candidate(
  costs: _Costs, strategy: str, size: int, length: int
) -> Candidate:
  count = -(-length // size)
  run = strategies.run_length(length, size)
  runs = -(-count // run)
  stored = {
    'full': 0,
    'checkpoint': count + 2,
    'checkpoint2': run + runs + 2,
    'anchored': runs + 3,
    'subtract': 3,
  }[strategy]
  sums = {'full': 0, 'checkpoint2': 2}.get(strategy, 1) * costs.params
  copied = 0 if strategy == 'full' else costs.inputs
  activations = _PASSING * (costs.fixed + costs.per_position * size)
  total = activations + costs.state * stored + sums + copied
  flops = _PASSES[strategy] * costs.flops_per_position * length
  return Candidate(strategy, size, round(total), round(flops))


def _choose(
  candidates: tuple[Candidate, ...], budget: float | int | None, strategy: str
) -> Candidate:
  if budget is None:
    if strategy == 'auto':
      candidates = [c for c in candidates if c.strategy == 'checkpoint']
    return min(candidates, key=lambda c: c.temporary_bytes)
  for candidate in candidates:
    if candidate.temporary_bytes <= budget:
      return candidate
  least = min(candidates, key=lambda c: c.temporary_bytes)
  raise ValueError(
    f'no plan fits memory_budget={budget / 2**20:,.1f} MiB; the smallest is '
    f'{least.describe()}. A smaller batch or a chunk below {MIN_CHUNK} needs less'
  )
