"""Few-shot classification: initial weights that learn from few examples.

theta is the initial network, the inner loop trains it on a support set of a few
examples of some classes, the outer loss is that of a query set. In tests the
classes are new.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from jaxtyping import Array, Float, Int, Key, PyTree

from hpo.ufom import estimator, training
from hpo.ufom import problem as problem_lib
from hpo.ufom.tasks import class_sets

__all__ = ['FewShot']


@dataclasses.dataclass(frozen=True, eq=False)
class FewShot:
  """Episodes of classes.

  Attributes:
    data: classes to learn from and to evaluate on.
    network: pictures [n, h, w, c] -> logits [n, ways], from Flax; `ways` gives
      the number of classes of a task.
    shots: support examples of a class.
    queries: query examples of a class.
    reduction: of the losses over examples; the published rates belong to
      'sum', where they grow with the number of examples.
    eval_tasks: tasks of an evaluation, the same each time.
    eval_seed: of those tasks.

  Raises:
    ValueError: a number is not positive, or a class has too few pictures.
  """

  data: class_sets.ClassSplit
  network: nn.Module
  shots: int = 1
  queries: int = 1
  reduction: Literal['mean', 'sum'] = 'mean'
  eval_tasks: int = 200
  eval_seed: int = 1

  def __post_init__(self) -> None:
    if self.reduction not in ('mean', 'sum'):
      raise ValueError(
        f"reduction must be 'mean' or 'sum', got {self.reduction!r}"
      )
    numbers = (self.shots, self.queries, self.eval_tasks)
    if min(numbers) < 1:
      raise ValueError(
        'shots, queries and eval_tasks must be positive, '
        f'got {self.shots=} {self.queries=} {self.eval_tasks=}'
      )
    for name, part in self._parts.items():
      part.check(self.network.ways, self.shots + self.queries, name)

  @property
  def _parts(self) -> dict[str, class_sets.ClassSet]:
    return {'train': self.data.train, 'test': self.data.test}

  @property
  def scores(self) -> tuple[str, ...]:
    """See `training.Family`."""
    return 'accuracy', 'accuracy_error'

  @property
  def problem(self) -> problem_lib.ABLOProblem:
    """MAML's form: V is the identity, losses see phi alone."""

    def loss(part: str, phi: PyTree, task: PyTree) -> Float[Array, '']:
      losses = optax.softmax_cross_entropy_with_integer_labels(
        self._logits(phi, task[f'{part}_x']), task[f'{part}_y']
      )
      return getattr(jnp, self.reduction)(losses)

    return problem_lib.ABLOProblem(
      V=lambda theta, task: theta,
      inner_loss=lambda theta, phi, task: loss('support', phi, task),
      outer_loss=lambda theta, phi, task: loss('query', phi, task),
    )

  def _logits(self, phi: PyTree, x: Any) -> Float[Array, 'n ways']:
    return self.network.apply(phi, jnp.asarray(x, jnp.float32) / 255)

  def init(self, key: Key[Array, '']) -> PyTree:
    """Fresh parameters."""
    shape = self.data.train.images.shape[1:]
    return self.network.init(key, jnp.zeros((1, *shape)))

  def sample(
    self, rng: np.random.Generator, count: int
  ) -> dict[str, np.ndarray]:
    """Episodes of the training classes; pictures stay bytes."""
    return self._episodes(self.data.train, rng, count)

  def _episodes(
    self, part: class_sets.ClassSet, rng: np.random.Generator, count: int
  ) -> dict[str, np.ndarray]:
    per_class = self.shots + self.queries
    rows = np.stack(
      [part.draw(rng, self.network.ways, per_class) for _ in range(count)]
    )
    labels = np.arange(self.network.ways, dtype=np.int32)
    tasks = {}
    for name, chosen in (
      ('support', rows[..., : self.shots]),
      ('query', rows[..., self.shots :]),
    ):
      flat = chosen.reshape(count, -1)
      tasks[f'{name}_x'] = part.images[flat]
      tasks[f'{name}_y'] = np.tile(
        np.repeat(labels, chosen.shape[-1]), (count, 1)
      )
    return tasks

  def evaluators(
    self, inner: estimator.Inner
  ) -> Mapping[str, training.Evaluate]:
    """Query accuracy after the inner loop, with its standard error."""

    @jax.jit
    def right(theta: PyTree, tasks: PyTree) -> Int[Array, ' b']:
      def one(task: PyTree) -> Int[Array, '']:
        phi = inner.fom(self.problem, theta, task).phi
        guess = jnp.argmax(self._logits(phi, task['query_x']), -1)
        return jnp.sum(guess == task['query_y'])

      return jax.lax.map(one, tasks)

    return {
      name: functools.partial(self._judge, part, right)
      for name, part in self._parts.items()
    }

  def _judge(
    self, part: class_sets.ClassSet, right: Any, theta: PyTree
  ) -> dict[str, float]:
    rng = np.random.default_rng(self.eval_seed)
    found: list[np.ndarray] = []
    size = min(self.eval_tasks, 200)  # Of one program.
    for start in range(0, self.eval_tasks, size):
      tasks = self._episodes(part, rng, size)
      found.append(np.asarray(right(theta, tasks))[: self.eval_tasks - start])
    shares = np.concatenate(found) / (self.network.ways * self.queries)
    return {
      'accuracy': float(shares.mean()),
      'accuracy_error': float(shares.std() / np.sqrt(shares.size)),
    }
