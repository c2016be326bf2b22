"""UFOM's gradient of a batch of tasks.

Under `jax.vmap` a branch becomes a selection, and both its sides run. So the
tasks with xi = 1 are gathered, or every task has its turn, or one xi serves all.

Source: arXiv:2106.02487, Section 3.
"""

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Key, PyTree

from hpo.ufom import estimator
from hpo.ufom import problem as problem_lib
from runtime.devices import mesh as mesh_lib

__all__ = ['BatchEstimate', 'Dispatch', 'ufom_batch']

Dispatch = Literal['gather', 'map', 'shared']


class BatchEstimate(NamedTuple):
  """UFOM's gradient of a batch of tasks.

  Attributes:
    value: mean of M_r.
    grad: mean of G.
    xi: for each task, whether its exact gradient was computed, bool [b].
    exact_norm2: mean of ||grad M||^2 over tasks with xi; 0 if there is none.
    gap_norm2: mean of ||grad M - g_FO||^2 over tasks with xi; 0 likewise.
  """

  value: Any
  grad: PyTree
  xi: Bool[Array, ' b']
  exact_norm2: Any
  gap_norm2: Any


def ufom_batch(
  problem: problem_lib.ABLOProblem,
  theta: PyTree,
  tasks: PyTree,
  key: Key[Array, ''] | None,
  q: estimator.Probability,
  inner: estimator.Inner,
  *,
  dispatch: Dispatch | None = None,
  mesh: jax.sharding.Mesh | None = None,
  xi: bool | Bool[Array, '*b'] | None = None,
) -> BatchEstimate:
  """UFOM's gradient of a batch of tasks, in a compiled program or outside.

  | dispatch | tasks run | xi           | exact gradients are computed for    |
  |----------|-----------|--------------|-------------------------------------|
  | `gather` | together  | one per task | the tasks with xi, gathered, their  |
  |          |           |              | number rounded up to a power of two |
  | `map`    | in turn   | one per task | the tasks with xi                   |
  | `shared` | together  | one for all  | all tasks, or none                  |

  A shared xi has up to b times the variance in the correction. With a mesh,
  tasks are split over its batch axes, and each device dispatches its own.
  Draws do not depend on dispatch (but for `shared`) nor on the mesh.

  Args:
    problem: the bi-level problem.
    theta: outer variable, the same on every device.
    tasks: a tree with leading axis b.
    key: of xi alone. A given xi needs no key.
    q: probability of an exact gradient, see `ufom_grad`.
    inner: the inner loop.
    dispatch: None: `map` on CPUs, else `gather`.
    mesh: with axes `data` and `fsdp`; None: one device.
    xi: in place of draws from the key: [b], or one for all if `shared`.

  Returns:
    The mean estimate, and the xi of every task.

  Raises:
    ValueError: q is a number outside [0, 1], the dispatch is unknown, tasks
      have no common leading axis or do not divide by the devices, key and xi
      are both None, or xi is given for q = 0 or in another shape.
  """
  estimator.check_probability(q)
  count = _count(tasks)
  if dispatch is None:
    dispatch = 'map' if jax.default_backend() == 'cpu' else 'gather'
  if dispatch not in _DISPATCH:
    raise ValueError(
      f'dispatch must be one of {tuple(_DISPATCH)}, got {dispatch!r}'
    )
  shape = () if dispatch == 'shared' else (count,)
  if xi is None:
    xis = _draws(key, q, shape)
  else:
    q, xis = estimator.undecided(q), jnp.asarray(xi, bool)
  if xis.shape != shape:
    raise ValueError(
      f'xi must have shape {shape} for {count} tasks and {dispatch=}, '
      f'got {xis.shape}'
    )
  xis = jnp.broadcast_to(xis, (count,))

  def sums(theta: PyTree, tasks: PyTree, xis: Any, q: Any) -> PyTree:
    return _DISPATCH[dispatch](problem, theta, tasks, xis, q, inner)

  if mesh is None:
    total = sums(theta, tasks, xis, q)
  else:
    total = _over_devices(sums, mesh, count)(theta, tasks, xis, q)
  exact_count = jnp.maximum(xis.sum(), 1)
  return BatchEstimate(
    total.value / count,
    jax.tree.map(lambda x: x / count, total.grad),
    xis,
    total.exact_norm2 / exact_count,
    total.gap_norm2 / exact_count,
  )


def _draws(
  key: Key[Array, ''] | None, q: estimator.Probability, shape: tuple[int, ...]
) -> Bool[Array, '*b']:
  """One xi, or one for each task from a key of its own."""
  if not shape or key is None:
    return estimator.draw(key, q)
  of_task = lambda i: estimator.draw(jax.random.fold_in(key, i), q)
  return jax.vmap(of_task)(jnp.arange(*shape))


def _count(tasks: PyTree) -> int:
  counts = {jnp.shape(leaf)[:1] for leaf in jax.tree.leaves(tasks)}
  if len(counts) != 1 or counts & {(), (0,)}:
    raise ValueError(
      f'tasks must have one leading axis of at least 1, got {sorted(counts)}'
    )
  return counts.pop()[0]


def _over_devices(sums: Any, mesh: jax.sharding.Mesh, count: int) -> Any:
  """Splits tasks over the batch axes; sums are the same on every device."""
  axes = mesh_lib.BATCH_AXES
  shards = int(np.prod([mesh.shape[axis] for axis in axes]))
  if count % shards:
    raise ValueError(
      f'the number of tasks must be divisible by the mesh axes {axes}, got '
      f'{count} tasks for {shards}'
    )
  whole, split = jax.sharding.PartitionSpec(), jax.sharding.PartitionSpec(axes)

  def run(theta: PyTree, tasks: PyTree, xis: Any, q: Any) -> PyTree:
    return jax.lax.psum(sums(theta, tasks, xis, q), axes)

  def call(theta: PyTree, tasks: PyTree, xis: Any, q: Any) -> PyTree:
    if isinstance(q, int | float):  # It may choose the program.
      body, more = lambda *x: run(*x, q), ()
    else:
      body, more = run, (q,)
    return jax.shard_map(
      body,
      mesh=mesh,
      in_specs=(whole, split, split, *[whole for _ in more]),
      out_specs=whole,
      # A branch of its own for each device would need marks of varying values.
      check_vma=False,
    )(theta, tasks, xis, *more)

  return call


def _sums(estimates: estimator.Estimate) -> estimator.Estimate:
  """Sums over the leading axis; counts xi."""
  return jax.tree.map(lambda x: jnp.sum(x, axis=0), estimates)


def _mapped(
  problem: problem_lib.ABLOProblem,
  theta: PyTree,
  tasks: PyTree,
  xis: Bool[Array, ' b'],
  q: estimator.Probability,
  inner: estimator.Inner,
) -> estimator.Estimate:
  """One task after the other, adding up."""

  def one(task: PyTree, xi: Any) -> estimator.Estimate:
    found = estimator.estimate(problem, theta, task, xi, q, inner)
    return found._replace(xi=found.xi.astype(jnp.int32))

  def body(
    total: estimator.Estimate, at: tuple
  ) -> tuple[estimator.Estimate, None]:
    return jax.tree.map(jnp.add, total, one(*at)), None

  first = jax.tree.map(lambda x: x[0], (tasks, xis))
  shapes = jax.eval_shape(one, *first)
  zero = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
  return jax.lax.scan(body, zero, (tasks, xis))[0]


def _shared(
  problem: problem_lib.ABLOProblem,
  theta: PyTree,
  tasks: PyTree,
  xis: Bool[Array, ' b'],
  q: estimator.Probability,
  inner: estimator.Inner,
) -> estimator.Estimate:
  """All tasks exactly, or none."""

  def without(theta: PyTree, tasks: PyTree) -> estimator.Estimate:
    one = lambda task: estimator.without(problem, theta, task, inner)
    return _sums(jax.vmap(one)(tasks))

  def corrected(theta: PyTree, tasks: PyTree) -> estimator.Estimate:
    one = lambda task: estimator.corrected(problem, theta, task, q, inner)
    return _sums(jax.vmap(one)(tasks))

  if estimator.is_certain(q):
    return (corrected if q else without)(theta, tasks)
  return jax.lax.cond(xis[0], corrected, without, theta, tasks)


def _gathered(
  problem: problem_lib.ABLOProblem,
  theta: PyTree,
  tasks: PyTree,
  xis: Bool[Array, ' b'],
  q: estimator.Probability,
  inner: estimator.Inner,
) -> estimator.Estimate:
  """First order for all tasks; then corrections for those with xi = 1.

  The number of corrections is known only when the program runs, so it has a
  branch per size and pads the tasks of the one it takes.
  """
  if estimator.is_certain(q):
    return _shared(problem, theta, tasks, xis, q, inner)
  first = _sums(
    jax.vmap(lambda task: estimator.without(problem, theta, task, inner))(tasks)
  )
  sizes = _bucket_sizes(len(xis))
  order = jnp.argsort(~xis, stable=True)  # Those with xi first.

  def correction(size: int) -> Any:
    return lambda theta, tasks: _correction(
      problem, theta, tasks, order[:size], xis[order[:size]], q, inner
    )

  more = jax.lax.switch(
    jnp.searchsorted(jnp.array(sizes), xis.sum()),
    [correction(size) for size in sizes],
    theta,
    tasks,
  )
  return jax.tree.map(jnp.add, first, more)


def _bucket_sizes(count: int) -> tuple[int, ...]:
  """0, 1, 2, 4, ... and the whole batch."""
  powers = [2**n for n in range(count.bit_length()) if 2**n < count]
  return (0, *powers, count)


def _correction(
  problem: problem_lib.ABLOProblem,
  theta: PyTree,
  tasks: PyTree,
  chosen: Array,
  mask: Bool[Array, ' n'],
  q: estimator.Probability,
  inner: estimator.Inner,
) -> estimator.Estimate:
  """Sum over the chosen tasks, less padding, of what xi = 1 adds."""

  def one(index: Any, real: Any) -> estimator.Estimate:
    task = jax.tree.map(lambda x: x[index], tasks)
    found = inner.exact(problem, theta, task)
    gap = jax.tree.map(jnp.subtract, found.grad, found.first_order)
    whole = estimator.Estimate(
      jnp.zeros_like(found.value),
      jax.tree.map(lambda x: x / jnp.asarray(q, x.dtype), gap),
      jnp.ones((), bool),
      estimator.squared_norm(found.grad),
      estimator.squared_norm(gap),
    )
    return jax.tree.map(lambda x: jnp.where(real, x, jnp.zeros_like(x)), whole)

  return _sums(jax.vmap(one)(chosen, mask))


_DISPATCH = {'gather': _gathered, 'map': _mapped, 'shared': _shared}
