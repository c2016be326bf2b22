"""Evolution strategies in the training loop."""

import contextlib
import dataclasses
import functools
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from clu import metrics as clu_metrics

from rl import actors
from rl.es import evaluator as evaluator_lib
from rl.es import geometry, policy_training, strategy
from rl.es import search as search_lib
from runtime import loop as loop_lib

__all__ = ['ESTrainer', 'Evaluations']


class Evaluations:
  """Generations that a host evaluates, as batches of the training loop.

  Args:
    algorithm: asks.
    evaluator: answers; not pure.
  """

  def __init__(
    self, algorithm: strategy.Strategy, evaluator: evaluator_lib.Evaluator
  ) -> None:
    self._run = functools.partial(search_lib.run, evaluator=evaluator)
    self._ask = jax.jit(algorithm.ask)
    self._state: Any = None

  def observe(self, state: search_lib.State) -> None:
    """Takes the state whose generation comes next."""
    request = self._ask(state)
    self._state = request, jax.tree.map(jnp.copy, state.normalizer)

  def __next__(self) -> dict[str, Any]:
    """The results of the observed state's generation."""
    request, normalizer = self._state
    evaluation, center = self._run(request, normalizer)
    return policy_training.as_example(
      {'evaluation': evaluation, 'center': center}
    )

  def get_state(self) -> dict[str, Any]:
    """Nothing: a request depends on the state alone."""
    return {}

  def set_state(self, state: Mapping[str, Any]) -> None:
    """Does nothing."""


@dataclasses.dataclass(frozen=True)
class ESTrainer(policy_training.PolicyTrainer):
  """Trains a policy by an evolution strategy; a `runtime.trainer.Trainer`.

  Attributes:
    config: settings of a generation.
    optimizer: from optax; see `strategy.Strategy`.

  Raises:
    ValueError: if a number is out of range, or the optimiser climbs what it
      should descend.
  """

  config: strategy.ESConfig
  optimizer: optax.GradientTransformation

  def __post_init__(self) -> None:
    super().__post_init__()
    one, zero = jnp.ones(1), jnp.zeros(1)
    # Its settings cannot be read: they are closed over.
    update, _ = self.optimizer.update(one, self.optimizer.init(zero), zero)
    if update[0] > 0:
      raise ValueError(
        'learning rate must not be negative: optimizer must descend, got an '
        f'update of {update[0]} for a gradient of 1'
      )

  @property
  def _strategy(self) -> strategy.Strategy:
    return strategy.Strategy(
      self.config, self.optimizer, geometry.of(self.fitted_policy)
    )

  @contextlib.contextmanager
  def experiment(
    self, *, seed: int, mesh: jax.sharding.Mesh
  ) -> Iterator[loop_lib.Experiment[search_lib.State]]:
    """See `runtime.trainer.Trainer`; an example is a member of the population.

    The environment is closed with it.
    """
    with self._opened(mesh) as evaluator:
      if not evaluator.pure:
        mesh = policy_training.one_device(mesh)
      sides = 1 + self.config.estimator.mirrored
      common = self._common(
        functools.partial(self._init, seed, evaluator.observation_shape),
        evaluator,
        mesh=mesh,
        seed=seed,
        members=sides * self.config.num_pairs,
      )
      if evaluator.pure:
        step = functools.partial(self._step, evaluator)
        batches = actors.NoBatches()
        yield loop_lib.Experiment(step=step, batches=batches, **common)
      else:
        batches = Evaluations(self._strategy, evaluator)
        yield loop_lib.Experiment(
          step=self._tell, batches=batches, observe=batches.observe, **common
        )

  def _init(self, seed: int, shape: tuple[int, ...]) -> search_lib.State:
    return self._strategy.init(*self._first(seed), shape)

  def _step(
    self,
    evaluator: evaluator_lib.Evaluator,
    state: search_lib.State,
    batch: Mapping[str, Any],
  ) -> tuple[search_lib.State, clu_metrics.Collection]:
    """A generation in one program."""
    del batch
    return policy_training.collected(*self._strategy.step(state, evaluator))

  def _tell(
    self, state: search_lib.State, batch: Mapping[str, Any]
  ) -> tuple[search_lib.State, clu_metrics.Collection]:
    """The update, after a host evaluated the generation."""
    algorithm = self._strategy
    request = algorithm.ask(state)
    found = jax.tree.map(lambda leaf: leaf[0], batch)
    return policy_training.collected(
      *algorithm.tell(state, request, found['evaluation'], found['center'])
    )
