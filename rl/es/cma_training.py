"""CMA-ES in the training loop."""

import contextlib
import dataclasses
import functools
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from clu import metrics as clu_metrics

from rl import normalizer as normalizer_lib
from rl.es import cma, policy_training, strategy
from rl.es import evaluator as evaluator_lib
from runtime import loop as loop_lib

__all__ = ['CMATrainer', 'Generations']


class Generations:
  """Generations of CMA-ES, as batches of the training loop.

  The search is the iterator's position: it is saved with the state.

  Args:
    search: asks, and is told.
    evaluator: answers.
  """

  def __init__(
    self, search: cma.CMAES, evaluator: evaluator_lib.Evaluator
  ) -> None:
    self._search = search
    self._evaluator = evaluator
    self._given: Any = None

  def observe(self, state: strategy.State) -> None:
    """Takes the state whose generation comes next."""
    key = jax.random.fold_in(state.key, state.generation)
    self._given = key, jax.tree.map(jnp.copy, state.normalizer)

  def __next__(self) -> dict[str, Any]:
    """The mean after the observed state's generation, and what came back."""
    evaluation = self._search.step(self._evaluator, *self._given)
    return policy_training.as_example(
      {'theta': self._search.mean, 'evaluation': evaluation}
    )

  def get_state(self) -> dict[str, Any]:
    """The search."""
    return self._search.get_state()

  def set_state(self, state: Mapping[str, Any]) -> None:
    """Goes on with a saved search."""
    self._search.set_state(state)


@dataclasses.dataclass(frozen=True)
class CMATrainer(policy_training.PolicyTrainer):
  """Trains a policy of few parameters by CMA-ES; a `runtime.trainer.Trainer`.

  Theta is the mean of the search. Rollouts take one device: with few parameters
  there are few members. All of a generation meet the same environments.

  Attributes:
    sigma: first step size.
    population_size: members of a generation; None: 4 + floor(3 ln d).
    normalize: whether observations are normalised by running statistics. As
      these move, so does the optimum: the pendulum was learnt without only.

  Raises:
    ValueError: if a number is out of range, or the policy has more parameters
      than `cma.CMAES` takes.
  """

  sigma: float = 0.1
  population_size: int | None = None
  normalize: bool = False

  @contextlib.contextmanager
  def experiment(
    self, *, seed: int, mesh: jax.sharding.Mesh
  ) -> Iterator[loop_lib.Experiment[strategy.State]]:
    """See `runtime.trainer.Trainer`; an example is a member of a generation.

    The environment is closed with it.
    """
    mesh = policy_training.one_device(mesh)
    with self._opened(mesh) as evaluator:
      theta, _ = self._first(seed)
      search = cma.CMAES(
        theta, sigma=self.sigma, population_size=self.population_size, seed=seed
      )
      batches = Generations(search, evaluator)
      yield loop_lib.Experiment(
        step=self._step,
        batches=batches,
        observe=batches.observe,
        **self._common(
          functools.partial(self._init, seed, evaluator.observation_shape),
          evaluator,
          mesh=mesh,
          seed=seed,
          members=search.population_size,
        ),
      )

  def _init(self, seed: int, shape: tuple[int, ...]) -> strategy.State:
    theta, key = self._first(seed)
    return strategy.State(
      theta=theta,
      opt_state=(),
      normalizer=normalizer_lib.empty(shape) if self.normalize else None,
      estimates=None,
      key=key,
      generation=jnp.zeros((), jnp.int32),
    )

  def _step(
    self, state: strategy.State, batch: Mapping[str, Any]
  ) -> tuple[strategy.State, clu_metrics.Collection]:
    """Takes the new mean, and merges what was seen."""
    found = jax.tree.map(lambda leaf: leaf[0], batch)
    evaluation = found['evaluation']
    normalizer = state.normalizer
    if normalizer is not None:
      normalizer = normalizer_lib.merge(normalizer, evaluation.statistics)
    metrics = strategy.summary(evaluation) | {
      'update_norm': jnp.linalg.norm(found['theta'] - state.theta)
    }
    state = state.replace(
      theta=found['theta'],
      normalizer=normalizer,
      generation=state.generation + 1,
    )
    return policy_training.collected(state, metrics)
