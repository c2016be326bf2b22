"""Runs of a trainer without the training loop's files, on a cost axis."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hpo.ufom import training

__all__ = ['Run', 'learn']


@dataclasses.dataclass(frozen=True)
class Run:
  """What one seed did.

  Attributes:
    gradients: spent at each record, gradient evaluations.
    scores: by name, a value at each record.
    q: mean over the run.
    ratio: D_hat / V_hat at the end, for adaptive q.
    theta: at the end.
  """

  gradients: np.ndarray
  scores: Mapping[str, np.ndarray]
  q: float
  ratio: float | None
  theta: Any

  def last(self, name: str) -> float:
    """The last value of a score."""
    return float(self.scores[name][-1])


def learn(
  trainer: training.Trainer,
  judge: Callable[[Any], Mapping[str, float]],
  *,
  seed: int,
  steps: int,
  records: int,
  until: float = math.inf,
) -> Run:
  """Trains for a number of outer steps.

  Args:
    trainer: what to train.
    judge: of theta.
    seed: of the start, tasks and xi.
    steps: outer steps.
    records: how often to judge, at equal distances; the last at the end.
    until: gradients after which the next record is the last.
  """
  batches = training.task_batches(
    trainer.family, count=trainer.tasks_per_step, seed=seed
  )

  @jax.jit
  def advance(state: Any, tasks: Any) -> tuple[Any, Any]:
    def body(state: Any, tasks: Any) -> tuple[Any, Any]:
      state, metrics = trainer.step(state, tasks)
      return state, metrics.q.total

    return jax.lax.scan(body, state, tasks)

  state = jax.jit(trainer.init, static_argnums=0)(seed)
  spent, scores, qs = [], [], []
  ends = np.linspace(0, steps, records + 1).round().astype(int)
  for count in np.diff(ends):
    drawn = [next(batches) for _ in range(count)]
    tasks = jax.tree.map(lambda *x: jnp.asarray(np.stack(x)), *drawn)
    state, q = advance(state, tasks)
    qs.append(np.asarray(q))
    spent.append(float(state.spent.gradients(trainer.price)))
    scores.append(judge(state.theta))
    if spent[-1] >= until:
      break
  ratio = None
  if state.averages is not None:
    ratio = float(state.averages.D_s / state.averages.V_s)
  return Run(
    np.array(spent),
    {name: np.array([s[name] for s in scores]) for name in scores[0]},
    float(np.concatenate(qs).mean()),
    ratio,
    jax.device_get(state.theta),
  )
