"""UFOM: unbiased first-order gradients of M_r.

    G = g_FO + (xi / q) (grad M - g_FO),  xi ~ Bernoulli(q)

E G = grad M for any q in (0, 1]; q = 0 is FOM and q = 1 exact. The correction is
skipped where xi = 0, not multiplied by zero, so a task costs r + 1 gradients,
and with probability q those of an exact mode too.

Source: arXiv:2106.02487, Section 3.
"""

import dataclasses
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Key, PyTree

from hpo.ufom import dynamics as dynamics_lib
from hpo.ufom import exact, first_order
from hpo.ufom import problem as problem_lib
from runtime import mesh as mesh_lib

__all__ = [
  'BatchEstimate',
  'Dispatch',
  'Estimate',
  'Inner',
  'squared_norm',
  'ufom_batch',
  'ufom_grad',
]

Dispatch = Literal['gather', 'map', 'shared']
Probability = float | int | Float[Array, '']


@dataclasses.dataclass(frozen=True)
class Inner:
  """How the inner loop runs, and how exact gradients are found.

  Attributes:
    r: number of inner steps.
    alpha: learning rates, see `problem.inner_gd`.
    mode: of exact gradients, see `exact`.
    products: see `dynamics.Descent`.
    clip_backward: see `exact.exact_grad`; it makes UFOM biased.
  """

  r: int
  alpha: problem_lib.Rates
  mode: exact.Mode = 'recompute'
  products: dynamics_lib.Products = 'forward'
  clip_backward: float | None = None

  def fom(
    self, problem: problem_lib.ABLOProblem, theta: PyTree, task: PyTree
  ) -> exact.Hypergradient:
    """The first-order gradient of a task."""
    return first_order.fom_grad(problem, theta, task, self.r, self.alpha)

  def exact(
    self, problem: problem_lib.ABLOProblem, theta: PyTree, task: PyTree
  ) -> exact.Hypergradient:
    """The exact gradient of a task."""
    return exact.exact_grad(
      problem,
      theta,
      task,
      self.r,
      self.alpha,
      mode=self.mode,
      products=self.products,
      clip_backward=self.clip_backward,
    )


class Estimate(NamedTuple):
  """UFOM's gradient of one task.

  Attributes:
    value: M_r.
    grad: G, like theta.
    xi: whether the exact gradient was computed, bool.
    exact_norm2: ||grad M||^2, float32; 0 unless xi.
    gap_norm2: ||grad M - g_FO||^2, float32; 0 unless xi.
  """

  value: Any
  grad: PyTree
  xi: Any
  exact_norm2: Any
  gap_norm2: Any


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


def squared_norm(tree: PyTree) -> Float[Array, '']:
  """Sum of squares of all leaves, accumulated in float32 or wider."""

  def of_leaf(x: Any) -> Any:
    return jnp.sum(jnp.square(x.astype(jnp.promote_types(x.dtype, np.float32))))

  return sum(map(of_leaf, jax.tree.leaves(tree)), jnp.float32(0))


def ufom_grad(
  problem: problem_lib.ABLOProblem,
  theta: PyTree,
  task: PyTree,
  key: Key[Array, ''],
  q: Probability,
  inner: Inner,
) -> Estimate:
  """UFOM's gradient of one task.

  Under `jax.vmap` both branches run; `ufom_batch` is for batches.

  Args:
    problem: the bi-level problem.
    theta: outer variable.
    task: what the losses see.
    key: of xi alone: do not draw the task from it.
    q: probability of the exact gradient. A Python number of 0 or 1 leaves the
      other branch out of the program.
    inner: the inner loop.

  Raises:
    ValueError: q is a number outside [0, 1], or as `inner_gd`.
  """
  _check_probability(q)
  xi = _draw(key, q)
  return _estimate(problem, theta, task, xi, q, inner)


def _check_probability(q: Probability) -> None:
  if isinstance(q, int | float) and not 0 <= q <= 1:
    raise ValueError(f'q must lie in [0, 1], got {q=}')


def _draw(key: Key[Array, ''], q: Probability) -> Bool[Array, '']:
  return jax.random.bernoulli(key, jnp.asarray(q, jnp.float32))


def _estimate(
  problem: problem_lib.ABLOProblem,
  theta: PyTree,
  task: PyTree,
  xi: Bool[Array, ''],
  q: Probability,
  inner: Inner,
) -> Estimate:
  """The estimate for a drawn xi: one of two branches."""
  without = lambda theta, task: _without(problem, theta, task, inner)
  corrected = lambda theta, task: _corrected(problem, theta, task, q, inner)
  if _is_certain(q):
    return (corrected if q else without)(theta, task)
  return jax.lax.cond(xi, corrected, without, theta, task)


def _is_certain(q: Probability) -> bool:
  """Whether one branch is known to be of no use."""
  return isinstance(q, int | float) and q in (0, 1)


def _without(
  problem: problem_lib.ABLOProblem, theta: PyTree, task: PyTree, inner: Inner
) -> Estimate:
  """The estimate of xi = 0."""
  found = inner.fom(problem, theta, task)
  nothing = jnp.zeros_like(squared_norm(found.grad))
  xi = jnp.zeros((), bool)
  return Estimate(found.value, found.grad, xi, nothing, nothing)


def _corrected(
  problem: problem_lib.ABLOProblem,
  theta: PyTree,
  task: PyTree,
  q: Probability,
  inner: Inner,
) -> Estimate:
  """The estimate of xi = 1."""
  found = inner.exact(problem, theta, task)
  gap = jax.tree.map(jnp.subtract, found.grad, found.first_order)
  return Estimate(
    found.value,
    _combine(found.grad, found.first_order, q),
    jnp.ones((), bool),
    squared_norm(found.grad),
    squared_norm(gap),
  )


def _combine(whole: PyTree, first: PyTree, q: Probability) -> PyTree:
  """g_FO + (grad M - g_FO) / q; of q = 1 exactly grad M."""
  if isinstance(q, int | float):
    if q == 1:
      return whole
    return jax.tree.map(lambda m, f: f + (m - f) / q, whole, first)
  return jax.tree.map(
    lambda m, f: jnp.where(q >= 1, m, f + (m - f) / q.astype(m.dtype)),
    whole,
    first,
  )


def ufom_batch(
  problem: problem_lib.ABLOProblem,
  theta: PyTree,
  tasks: PyTree,
  key: Key[Array, ''],
  q: Probability,
  inner: Inner,
  *,
  dispatch: Dispatch | None = None,
  mesh: jax.sharding.Mesh | None = None,
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
    key: of xi alone.
    q: probability of an exact gradient, see `ufom_grad`.
    inner: the inner loop.
    dispatch: None: `map` on CPUs, else `gather`.
    mesh: with axes `data` and `fsdp`; None: one device.

  Raises:
    ValueError: q is a number outside [0, 1], the dispatch is unknown, tasks
      have no common leading axis or do not divide by the devices.
  """
  _check_probability(q)
  count = _count(tasks)
  if dispatch is None:
    dispatch = 'map' if jax.default_backend() == 'cpu' else 'gather'
  if dispatch not in _DISPATCH:
    raise ValueError(
      f'dispatch must be one of {tuple(_DISPATCH)}, got {dispatch!r}'
    )
  if dispatch == 'shared':
    xis = jnp.broadcast_to(_draw(key, q), (count,))
  else:
    keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.arange(count))
    xis = jax.vmap(lambda k: _draw(k, q))(keys)

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
      f'tasks must divide by the mesh axes {axes}, got {count} for {shards}'
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
      # Branches of a device's own would need marks of what varies.
      check_vma=False,
    )(theta, tasks, xis, *more)

  return call


def _sums(estimates: Estimate) -> Estimate:
  """Sums over the leading axis; counts xi."""
  return jax.tree.map(lambda x: jnp.sum(x, axis=0), estimates)


def _mapped(
  problem: problem_lib.ABLOProblem,
  theta: PyTree,
  tasks: PyTree,
  xis: Bool[Array, ' b'],
  q: Probability,
  inner: Inner,
) -> Estimate:
  """One task after the other, adding up."""

  def one(task: PyTree, xi: Any) -> Estimate:
    found = _estimate(problem, theta, task, xi, q, inner)
    return found._replace(xi=found.xi.astype(jnp.int32))

  def body(total: Estimate, at: tuple) -> tuple[Estimate, None]:
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
  q: Probability,
  inner: Inner,
) -> Estimate:
  """All tasks exactly, or none."""

  def without(theta: PyTree, tasks: PyTree) -> Estimate:
    one = lambda task: _without(problem, theta, task, inner)
    return _sums(jax.vmap(one)(tasks))

  def corrected(theta: PyTree, tasks: PyTree) -> Estimate:
    one = lambda task: _corrected(problem, theta, task, q, inner)
    return _sums(jax.vmap(one)(tasks))

  if _is_certain(q):
    return (corrected if q else without)(theta, tasks)
  return jax.lax.cond(xis[0], corrected, without, theta, tasks)


def _gathered(
  problem: problem_lib.ABLOProblem,
  theta: PyTree,
  tasks: PyTree,
  xis: Bool[Array, ' b'],
  q: Probability,
  inner: Inner,
) -> Estimate:
  """First order for all; corrections for those with xi, in a few sizes.

  The number of corrections is known only when the program runs, so it has a
  branch per size and pads the tasks of the one it takes.
  """
  if _is_certain(q):
    return _shared(problem, theta, tasks, xis, q, inner)
  first = _sums(
    jax.vmap(lambda task: _without(problem, theta, task, inner))(tasks)
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
  q: Probability,
  inner: Inner,
) -> Estimate:
  """Sum over the chosen tasks, less padding, of what xi = 1 adds."""

  def one(index: Any, real: Any) -> Estimate:
    task = jax.tree.map(lambda x: x[index], tasks)
    found = inner.exact(problem, theta, task)
    gap = jax.tree.map(jnp.subtract, found.grad, found.first_order)
    whole = Estimate(
      jnp.zeros_like(found.value),
      jax.tree.map(lambda x: x / jnp.asarray(q, x.dtype), gap),
      jnp.ones((), bool),
      squared_norm(found.grad),
      squared_norm(gap),
    )
    return jax.tree.map(lambda x: jnp.where(real, x, jnp.zeros_like(x)), whole)

  return _sums(jax.vmap(one)(chosen, mask))


_DISPATCH = {'gather': _gathered, 'map': _mapped, 'shared': _shared}
