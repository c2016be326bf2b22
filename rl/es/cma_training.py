"""CMA-ES in the training loop."""

import contextlib
import dataclasses
import functools
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from clu import metrics as clu_metrics

from rl.es import cma, policy_training
from rl.es import evaluator as evaluator_lib
from rl.es import search as search_lib
from runtime import loop as loop_lib

__all__ = ['CMATrainer', 'Generations']


class Generations:
  """Generations of CMA-ES, as batches of the training loop.

  The search is the iterator's position: it is saved with the state.

  Args:
    search: asks, and is told.
    evaluator: answers.
    numbers: `opt_state` of the search's first state. The loop's own states are
      without: they have no float64.
  """

  def __init__(
    self,
    search: cma.CMAES,
    evaluator: evaluator_lib.Evaluator,
    numbers: Mapping[str, Any],
  ) -> None:
    self._search = search
    self._evaluator = evaluator
    self._numbers = numbers
    self._state: Any = None

  def observe(self, state: search_lib.State) -> None:
    """Takes the state whose generation comes next."""
    self._state = jax.tree.map(jnp.copy, state)

  def __next__(self) -> dict[str, Any]:
    """The mean after the observed state's generation, and its results."""
    state = self._state.replace(opt_state=self._numbers)
    request = self._search.ask(state)
    found, _ = search_lib.run(request, state.normalizer, self._evaluator)
    after, _ = self._search.tell(state, request, found)
    self._numbers = after.opt_state
    return policy_training.as_example(
      {'theta': after.theta, 'evaluation': found}
    )

  def get_state(self) -> dict[str, Any]:
    """The search's numbers, fit for JSON."""
    return {
      name: value.tolist() if np.ndim(value) else value
      for name, value in self._numbers.items()
    }

  def set_state(self, state: Mapping[str, Any]) -> None:
    """Goes on with a saved search."""
    self._numbers = {
      name: np.asarray(value) if isinstance(value, list) else value
      for name, value in state.items()
    }


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
  ) -> Iterator[loop_lib.Experiment[search_lib.State]]:
    """See `runtime.trainer.Trainer`; an example is a member of a generation.

    The environment is closed with it.
    """
    mesh = policy_training.one_device(mesh)
    with self._opened(mesh) as evaluator:
      theta, _ = self._first(seed)
      search = cma.CMAES(self.sigma, self.population_size, seed=seed)
      numbers = search.init(theta, jax.random.key(seed)).opt_state
      batches = Generations(search, evaluator, numbers)
      yield loop_lib.Experiment(
        step=self._step,
        batches=batches,
        observe=batches.observe,
        **self._common(
          functools.partial(self._init, seed, evaluator.observation_shape),
          evaluator,
          mesh=mesh,
          seed=seed,
          members=numbers['_popsize'],
        ),
      )

  def _init(self, seed: int, shape: tuple[int, ...]) -> search_lib.State:
    theta, key = self._first(seed)
    return search_lib.State(
      theta=theta,
      opt_state=(),
      normalizer=search_lib.nothing_seen(self.normalize, shape),
      estimates=None,
      key=key,
      generation=jnp.zeros((), jnp.int32),
    )

  def _step(
    self, state: search_lib.State, batch: Mapping[str, Any]
  ) -> tuple[search_lib.State, clu_metrics.Collection]:
    """Takes the new mean, and merges the statistics."""
    found = jax.tree.map(lambda leaf: leaf[0], batch)
    evaluation = found['evaluation']
    metrics = search_lib.summary(evaluation) | {
      'update_norm': jnp.linalg.norm(found['theta'] - state.theta)
    }
    state = state.replace(
      theta=found['theta'],
      normalizer=search_lib.counted(state.normalizer, evaluation),
      generation=state.generation + 1,
    )
    return policy_training.collected(state, metrics)
