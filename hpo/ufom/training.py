"""Bi-level problems in the training loop: state, outer step, telemetry.

A step draws tasks, estimates the gradient of their mean M_r by UFOM and hands it
to an optimiser of optax. Normalising optimisers such as Adam keep G unbiased but
not their own steps, and spikes of size 1 / q stay in their second moments: use
plain SGD, or a q of at least 0.1 with b2 of at least 0.999.

Keys of tasks, xi and the start are apart, so runs with other q see the same tasks.
"""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol, runtime_checkable

import flax
import grain
import jax
import jax.numpy as jnp
import numpy as np
import optax
from clu import metrics as clu_metrics
from jaxtyping import Array, Float, Int, Key, PyTree

from hpo.ufom import adaptive, batches, costs, estimator, exact, results
from hpo.ufom import problem as problem_lib
from runtime import loop as loop_lib
from runtime.data import indexed
from runtime.devices import mesh as mesh_lib
from runtime.record import metrics as metrics_lib

__all__ = ['Family', 'TrainState', 'Trainer', 'task_batches']

Evaluate = Callable[[PyTree], Mapping[str, float]]


@runtime_checkable
class Family(Protocol):
  """A family of tasks, and the variables that are learnt from them."""

  @property
  def scores(self) -> tuple[str, ...]:
    """Names of the numbers that every evaluator gives."""

  @property
  def problem(self) -> problem_lib.ABLOProblem:
    """The bi-level problem; a task is one of `sample`, without its axis."""

  def init(self, key: Key[Array, '']) -> PyTree:
    """The first theta; traced."""

  def sample(
    self, rng: np.random.Generator, count: int
  ) -> dict[str, np.ndarray]:
    """Tasks to learn from, with leading axis count."""

  def evaluators(self, inner: estimator.Inner) -> Mapping[str, Evaluate]:
    """Evaluators of theta, by the name of their set."""


@flax.struct.dataclass
class TrainState:
  """All that training changes.

  The same tree also carries shapes or shardings.

  Attributes:
    step: outer steps so far, int32.
    theta: outer variable.
    opt_state: of the outer optimiser.
    averages: `adaptive.AdaptiveQ`; None for a fixed q.
    spent: cost of gradients so far, `costs.Telemetry`.
    key: never changes; steps fold their number into it.
  """

  step: Any
  theta: PyTree
  opt_state: PyTree
  averages: PyTree
  spent: PyTree
  key: Any


def task_batches(
  family: Family, *, count: int, seed: int, share: tuple[int, int] = (0, 1)
) -> grain.DatasetIterator:
  """Batches of tasks without end: batch k is a function of the seed and k.

  Args:
    family: draws them.
    count: tasks of a batch, over all processes.
    seed: of the draws.
    share: (index, number) of this process's share of every batch.
  """

  def examples(numbers: Int[np.ndarray, 'n']) -> indexed.Arrays:
    rng = np.random.default_rng((seed, int(numbers[0]) // count))
    tasks = family.sample(rng, count)
    return {name: value[numbers % count] for name, value in tasks.items()}

  return indexed.iterator(
    examples,
    batch_size=count,
    process_index=share[0],
    process_count=share[1],
  )


@dataclasses.dataclass(frozen=True)
class Trainer:
  """Outer descent along UFOM's gradients; a `runtime.trainer.Trainer`.

  Attributes:
    family: the tasks.
    inner: the inner loop.
    optimizer: of theta, from optax; its rate acts on G itself.
    q: probability of exact gradients: a number, or a rule that adapts it.
    tasks_per_step: tasks of an outer step, over all devices.
    dispatch: see `batches.ufom_batch`.
    budget: limit of the cost of the run, in outer steps of exact gradients.
      Steps shrink linearly to 0 as the budget is spent; None: no limit and no
      shrinking.
    priced_as: mode whose cost is counted, since all modes give the same
      gradient; None: the mode of the inner loop.
    match_variance: with an adaptive q, multiply steps by
      V / (V + (1 / q - 1) D) to reduce the noise of a small q.

  Raises:
    ValueError: q lies outside [0, 1], a number is not positive, or variance is
      to be matched without a rule that measures it.
  """

  family: Family
  inner: estimator.Inner
  optimizer: optax.GradientTransformation
  q: float | int | adaptive.AdaptiveRule
  tasks_per_step: int = 1
  dispatch: batches.Dispatch | None = None
  budget: int | None = None
  priced_as: exact.Mode | None = None
  match_variance: bool = False

  def __post_init__(self) -> None:
    if not self._is_adaptive and not 0 <= self.q <= 1:
      raise ValueError(f'q must lie in [0, 1], got {self.q=}')
    if self.tasks_per_step < 1 or (self.budget is not None and self.budget < 1):
      raise ValueError(
        'tasks_per_step and budget must be positive, '
        f'got {self.tasks_per_step=} {self.budget=}'
      )
    if self.match_variance and not self._is_adaptive:
      raise ValueError(f'match_variance needs an adaptive q, got {self.q=}')
    if self._is_adaptive and self.q.r != self.inner.r:
      raise ValueError(
        'the rule must have the r of the inner loop, '
        f'got {self.q.r=} {self.inner.r=}'
      )

  @property
  def _is_adaptive(self) -> bool:
    return isinstance(self.q, adaptive.AdaptiveRule)

  @property
  def price(self) -> costs.Cost:
    """Cost of a task, with c_H = 1 as published."""
    return costs.cost(self.inner.r, mode=self.priced_as or self.inner.mode)

  @contextlib.contextmanager
  def experiment(
    self, *, seed: int, mesh: jax.sharding.Mesh
  ) -> Iterator[loop_lib.Experiment[TrainState]]:
    """See `runtime.trainer.Trainer`; an example is a task.

    Where tasks do not divide by the devices, fewer devices work.

    Raises:
      ValueError: if several processes have devices by whose number the tasks
        do not divide.
    """
    mesh = mesh_lib.fitting(mesh, tasks_per_step=self.tasks_per_step)
    share = mesh_lib.process_slice(mesh, self.tasks_per_step)
    shape = jax.eval_shape(lambda: self.init(seed))
    judges = self.family.evaluators(self.inner)
    over = mesh if mesh.size > 1 else None
    yield loop_lib.Experiment(
      init=lambda: self.init(seed),
      step=lambda state, tasks: self.step(state, tasks, mesh=over),
      shardings=jax.tree.map(lambda _: mesh_lib.replicated(mesh), shape),
      batches=task_batches(
        self.family, count=self.tasks_per_step, seed=seed, share=share
      ),
      mesh=mesh,
      batch_size=self.tasks_per_step,
      evaluators={
        name: lambda state, judge=judge: judge(state.theta)
        for name, judge in judges.items()
      },
      scores=dict.fromkeys(judges, self.family.scores),
      params=lambda state: {'theta': state.theta},
      tables=self._tables,
      pictures=lambda run: {
        'cost.png': functools.partial(results.draw_cost, run.rows)
      },
    )

  def _tables(
    self, run: loop_lib.Finished[TrainState]
  ) -> dict[str, list[dict[str, Any]]]:
    spent = results.cost_row(run.state.spent, self.price, run.seconds)
    return {'scores': results.score_rows(run.rows), 'cost': [spent]}

  def init(self, seed: int) -> TrainState:
    """The state before the first step; traced."""
    key = jax.random.key(seed)
    theta = self.family.init(jax.random.fold_in(key, 0))
    return TrainState(
      step=jnp.zeros((), jnp.int32),
      theta=theta,
      opt_state=self.optimizer.init(theta),
      averages=self.q.init() if self._is_adaptive else None,
      spent=costs.Telemetry.zero(),
      key=jax.random.fold_in(key, 1),
    )

  def step(
    self,
    state: TrainState,
    tasks: Mapping[str, Any],
    *,
    mesh: jax.sharding.Mesh | None = None,
  ) -> tuple[TrainState, clu_metrics.Collection]:
    """An outer step on a batch of tasks; traced."""
    q = self.q.q(state.averages) if self._is_adaptive else self.q
    found = batches.ufom_batch(
      self.family.problem,
      state.theta,
      dict(tasks),
      jax.random.fold_in(state.key, state.step),
      q,
      self.inner,
      dispatch=self.dispatch,
      mesh=mesh,
    )
    updates, opt_state = self.optimizer.update(
      found.grad, state.opt_state, state.theta
    )
    factor = self._factor(state, q)
    updates = jax.tree.map(lambda u: u * factor.astype(u.dtype), updates)
    averages = state.averages
    if self._is_adaptive:
      averages = self.q.update(averages, found, q)
    after = TrainState(
      step=state.step + 1,
      theta=optax.apply_updates(state.theta, updates),
      opt_state=opt_state,
      averages=averages,
      spent=state.spent.add(found.xi),
      key=state.key,
    )
    return after, self._metrics(after, found, q)

  def _factor(self, state: TrainState, q: Any) -> Float[Array, '']:
    """By how much the budget and the variance shorten a step."""
    factor = jnp.ones((), jnp.float32)
    if self.budget is not None:
      whole = self.price.det + self.price.rnd
      share = state.spent.gradients(self.price) / (
        self.budget * self.tasks_per_step * whole
      )
      factor *= jnp.maximum(1 - share, 0)
    if self.match_variance:
      D2, V2 = state.averages.means(self.q.beta)
      noisy = V2 + (1 / q - 1) * D2
      factor *= jnp.where(noisy > 0, V2 / jnp.where(noisy > 0, noisy, 1), 1)
    return factor

  def _metrics(
    self, state: TrainState, found: batches.BatchEstimate, q: Any
  ) -> clu_metrics.Collection:
    latest = metrics_lib.Latest.of
    average = metrics_lib.Average.of
    values = {
      'loss': average(found.value),
      'grad_norm': average(jnp.sqrt(estimator.squared_norm(found.grad))),
      'q': average(jnp.asarray(q, jnp.float32)),
      'first_order_tasks': latest(state.spent.first_order),
      'exact_tasks': latest(state.spent.exact),
      'gradients': latest(state.spent.gradients(self.price)),
    }
    if self._is_adaptive:
      D2, V2 = state.averages.means(self.q.beta)
      values |= {'D_hat': latest(D2), 'V_hat': latest(V2)}
    return clu_metrics.Collection.create_collection(**values)
