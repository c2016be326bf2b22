"""Sequences that stay on the host: tokens go to the device chunk by chunk.

The same two sweeps as `slim_value_and_grad`, as a Python loop over one compiled
step each way. The device holds one chunk of inputs at a time, so that even the
O(l) integers stay off it, and nothing is compiled again for another length.
Boundary states of `checkpoint` stay on the host too: then memory of the device
does not depend on the length in either strategy.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from performer.slim import (
  gradients,
  reversal,
  strategies,
  subtraction,
  sweeps,
)
from performer.slim import problem as problem_lib

__all__ = ['STRATEGIES', 'HostFed']

STRATEGIES = ('subtract', 'checkpoint')


@dataclasses.dataclass(frozen=True, eq=False)
class HostFed:
  """Gradients of sequences that are too long for the device.

  Make one and keep it: it holds the compiled steps.

  Attributes:
    problem: the model.
    chunk: positions at a time.
    strategy: 'subtract' or 'checkpoint'.

  Raises:
    ValueError: if the strategy is neither, or cannot be used with the attention
      of the problem, or the chunk is not positive.
  """

  problem: problem_lib.Problem
  chunk: int
  strategy: str = 'checkpoint'

  def __post_init__(self) -> None:
    if self.strategy not in STRATEGIES:
      raise ValueError(
        f'strategy must be one of {STRATEGIES}, got {self.strategy!r}'
      )
    if isinstance(self.chunk, bool) or self.chunk < 1:
      raise ValueError(f'chunk must be a positive integer, got {self.chunk=}')
    if self.strategy == 'subtract':
      reversal.Reversed(self.problem.attention)

  def value_and_grad(
    self,
    params: PyTree,
    inputs: PyTree[np.ndarray],
    *,
    state: PyTree | None = None,
    constants: PyTree = None,
    normalizer: float = 1.0,
  ) -> gradients.Gradients:
    """Like `slim_value_and_grad`, without gradients in the inputs.

    Args:
      params: of the problem.
      inputs: NumPy arrays [b, l, ...], such as memory-mapped ones.
      state: before the first position; None for none.
      constants: arrays that every chunk gets whole.
      normalizer: the loss and its gradients are divided by it.

    Returns:
      Loss, metrics, last state, gradients and drift.

    Raises:
      ValueError: as `strategies.check_request`.
    """
    strategies.check_request(inputs, self.chunk, self.strategy)
    if state is None:
      state = self.problem.empty_like(inputs)
    length = sweeps.length_of(inputs)
    count = -(-length // self.chunk)
    first = self._cut(inputs, 0)
    totals = sweeps.start(self.problem, params, constants, state, first, length)
    # Steps give their arguments' memory away; these are the caller's.
    totals = jax.tree.map(jnp.copy, totals)
    stored = []
    for i in range(count):
      if self.strategy == 'checkpoint':
        stored.append(jax.device_get(totals.state))
      totals = self._forward(
        totals, params, constants, jnp.int32(i), self._cut(inputs, i), length
      )
    weight = jnp.ones_like(totals.loss) / normalizer
    pull = sweeps.zeros(subtraction.sums(totals.state))
    last = jax.tree.map(jnp.copy, totals.state)
    carry = subtraction.begin(params, last, pull)
    for i in reversed(range(count)):
      if self.strategy == 'checkpoint':
        carry = carry._replace(state=stored.pop())
      carry = self._backward(
        carry,
        params,
        constants,
        state,
        jnp.int32(i),
        self._cut(inputs, i),
        length,
        weight,
      )
    grads, start, drift = subtraction.end(params, carry)
    return gradients.Gradients(
      totals.loss / normalizer,
      totals.metrics,
      totals.state,
      grads,
      start,
      None,
      drift if self.strategy == 'subtract' else None,
    )

  def _cut(self, inputs: PyTree[np.ndarray], index: int) -> PyTree[np.ndarray]:
    """Chunk `index` of the inputs, filled up with zeros."""

    def one(x: np.ndarray) -> np.ndarray:
      part = np.asarray(x[:, index * self.chunk : (index + 1) * self.chunk])
      missing = self.chunk - part.shape[1]
      pad = [(0, 0), (0, missing)] + [(0, 0)] * (x.ndim - 2)
      return np.pad(part, pad) if missing else part

    return jax.tree.map(one, inputs)

  @functools.cached_property
  def _forward(self) -> Callable[..., sweeps.Totals]:
    def step(totals: sweeps.Totals, params: PyTree, *rest: Any) -> Any:
      constants, *rest = rest
      return sweeps.forward_chunk(
        self.problem, params, constants, totals, *rest
      )

    return jax.jit(step, donate_argnums=0)

  @functools.cached_property
  def _backward(self) -> Callable[..., subtraction.Backward]:
    step = {
      'subtract': self._subtract_step,
      'checkpoint': self._checkpoint_step,
    }[self.strategy]
    return jax.jit(step, donate_argnums=0)

  def _subtract_step(
    self, carry: subtraction.Backward, params: PyTree, *rest: Any
  ) -> subtraction.Backward:
    constants, start, index, *rest = rest
    first = jnp.equal(index, 0)
    return subtraction.step(
      self.problem, params, constants, start, first, carry, index, *rest
    )[0]

  def _checkpoint_step(
    self,
    carry: subtraction.Backward,
    params: PyTree,
    constants: PyTree,
    start: PyTree,
    index: Array,
    inputs: PyTree,
    length: Array,
    weight: Float[Array, ''],
  ) -> subtraction.Backward:
    """Takes one chunk back from the stored state before it, `carry.state`."""
    del start

    def run(params: PyTree, delta: PyTree) -> tuple[Array, PyTree]:
      state = subtraction.moved(carry.state, delta)
      chunk = sweeps.chunk_of(inputs, constants, index, length)
      loss, state, _ = self.problem.loss(
        self.problem.attention, params, state, chunk
      )
      return loss, subtraction.sums(state)

    zero = sweeps.zeros(subtraction.sums(carry.state))
    _, pull = jax.vjp(run, params, zero)
    grads, delta = pull((weight, carry.pull))
    total = jax.tree.map(lambda a, b: a + b, carry.grads, grads)
    return carry._replace(pull=delta, grads=total)
