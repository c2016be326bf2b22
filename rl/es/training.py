"""Evolution strategies in the training loop."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from clu import metrics as clu_metrics
from jaxtyping import Float, PyTree

from rl import actors, training
from rl import film as film_lib
from rl import normalizer as normalizer_lib
from rl.envs import lanes, protocol, spaces
from rl.es import evaluator as evaluator_lib
from rl.es import geometry, jax_evaluator, policies, ray_evaluator, strategy
from runtime import loop as loop_lib
from runtime import mesh as mesh_lib
from runtime import metrics as metrics_lib

__all__ = ['ESTrainer', 'Evaluations']

MakePolicy = Callable[[spaces.Space, spaces.Space], policies.Policy]


class Evaluations:
  """Generations that a host evaluates, as batches of the training loop.

  Args:
    algorithm: asks.
    evaluator: answers; not pure.
  """

  def __init__(
    self, algorithm: strategy.Strategy, evaluator: evaluator_lib.Evaluator
  ) -> None:
    self._run = functools.partial(algorithm.run, evaluator=evaluator)
    self._ask = jax.jit(algorithm.ask)
    self._state: Any = None

  def observe(self, state: strategy.State) -> None:
    """Takes the state whose generation comes next."""
    request = self._ask(state)
    self._state = request, jax.tree.map(jnp.copy, state.normalizer)

  def __next__(self) -> dict[str, Any]:
    """What came back of the observed state's generation."""
    request, normalizer = self._state
    evaluation, center = self._run(request, normalizer)
    # The loop wants a leading axis, over examples; this is one.
    batch = {'evaluation': evaluation, 'center': center}
    return jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], batch)

  def get_state(self) -> dict[str, Any]:
    """Nothing: what is asked depends on the state alone."""
    return {}

  def set_state(self, state: Mapping[str, Any]) -> None:
    """Does nothing."""


@dataclasses.dataclass(frozen=True)
class ESTrainer:
  """Trains a policy by an evolution strategy.

  One step of the loop is a generation, one example a member of it.

  Attributes:
    env: the task.
    policy: makes the policy of an observation and an action space.
    config: what a generation does.
    optimizer: from optax; see `strategy.Strategy`.
    evaluator: makes what runs the rollouts, from the keyword arguments `env`,
      `policy`, `mesh` and `clip`.
    eval_episodes: of theta, per evaluation; 0: no evaluation.
    clip: bound of normalised observations; None: no bound.

  Raises:
    ValueError: if `eval_episodes` is negative.
  """

  env: protocol.Environment | protocol.VectorEnvironment
  policy: MakePolicy
  config: strategy.ESConfig
  optimizer: optax.GradientTransformation
  evaluator: Callable[..., evaluator_lib.Evaluator] = jax_evaluator.JaxEvaluator
  eval_episodes: int = 32
  clip: float | None = None
  _evaluators_made: list[evaluator_lib.Evaluator] = dataclasses.field(
    default_factory=list, init=False, repr=False, compare=False
  )

  def __post_init__(self) -> None:
    if self.eval_episodes < 0:
      raise ValueError(
        f'eval_episodes must not be negative, got {self.eval_episodes}'
      )

  @functools.cached_property
  def fitted_policy(self) -> policies.Policy:
    """The policy for the task's spaces."""
    return self.policy(self.env.observation_space, self.env.action_space)

  @property
  def _strategy(self) -> strategy.Strategy:
    return strategy.Strategy(
      self.config, self.optimizer, geometry.of(self.fitted_policy)
    )

  def experiment(
    self, *, seed: int, mesh: jax.sharding.Mesh
  ) -> loop_lib.Experiment[strategy.State]:
    """See `training.Trainer`."""
    evaluator = self.evaluator(
      env=self.env, policy=self.fitted_policy, mesh=mesh, clip=self.clip
    )
    self._evaluators_made.append(evaluator)
    if not evaluator.pure:
      # The update is small, whoever runs the rollouts.
      mesh = mesh_lib.MeshConfig(data=1).make(list(mesh.devices.flat[:1]))
    init = functools.partial(self._init, seed, evaluator.observation_shape)
    whole = mesh_lib.replicated(mesh)
    sides = 1 + self.config.estimator.mirrored
    common = {
      'init': init,
      'shardings': jax.tree.map(lambda _: whole, jax.eval_shape(init)),
      'mesh': mesh,
      'batch_size': sides * self.config.num_pairs,
      'evaluators': self._evaluators(evaluator),
      'params': lambda state: {'theta': state.theta},
    }
    if evaluator.pure:
      return loop_lib.Experiment(
        step=functools.partial(self._step, evaluator),
        batches=actors.NoBatches(),
        **common,
      )
    batches = Evaluations(self._strategy, evaluator)
    return loop_lib.Experiment(
      step=self._tell, batches=batches, observe=batches.observe, **common
    )

  def player(self, state: strategy.State) -> film_lib.Player:
    """Theta, with the statistics of its observations."""
    params = self.fitted_policy.unravel(state.theta)
    return _Player(self.fitted_policy, params, state.normalizer, self.clip)

  def random_returns(self, seed: int) -> dict[str, Float[np.ndarray, ' e']]:
    """Of about as many episodes as an evaluation has."""
    if not self.eval_episodes:
      return {}
    env, episodes = self.env, 1
    if isinstance(env, protocol.VectorEnvironment):
      episodes = -(-self.eval_episodes // env.num_lanes)
    else:
      env = lanes.Lanes(env, self.eval_episodes)
    return {'center': training.random_returns(env, seed, episodes=episodes)}

  def close(self) -> None:
    """Closes workers and lanes."""
    for evaluator in self._evaluators_made:
      if isinstance(evaluator, ray_evaluator.RayEvaluator):
        evaluator.close()
    if isinstance(self.env, protocol.VectorEnvironment):
      self.env.close()

  def _init(self, seed: int, shape: tuple[int, ...]) -> strategy.State:
    policy_key, key = jax.random.split(jax.random.key(seed))
    return self._strategy.init(self.fitted_policy.init(policy_key), key, shape)

  def _step(
    self,
    evaluator: evaluator_lib.Evaluator,
    state: strategy.State,
    batch: Mapping[str, Any],
  ) -> tuple[strategy.State, clu_metrics.Collection]:
    """A generation in one program."""
    del batch
    return _collected(*self._strategy.step(state, evaluator))

  def _tell(
    self, state: strategy.State, batch: Mapping[str, Any]
  ) -> tuple[strategy.State, clu_metrics.Collection]:
    """The update, after a host evaluated the generation."""
    algorithm = self._strategy
    request = algorithm.ask(state)
    found = jax.tree.map(lambda leaf: leaf[0], batch)
    return _collected(
      *algorithm.tell(state, request, found['evaluation'], found['center'])
    )

  def _evaluators(
    self, evaluator: evaluator_lib.Evaluator
  ) -> dict[str, loop_lib.Evaluator]:
    if not self.eval_episodes:
      return {}

    def evaluate(state: strategy.State) -> evaluator_lib.Evaluation:
      # A generation splits this key in three; here is a fourth.
      key = jax.random.fold_in(state.key, state.generation)
      keys = jax.random.split(jax.random.fold_in(key, 3), self.eval_episodes)
      return strategy.evaluate_theta(
        evaluator, state.theta, keys, state.normalizer
      )

    if evaluator.pure:
      evaluate = jax.jit(evaluate)

    def run(state: strategy.State) -> dict[str, float]:
      found = jax.device_get(evaluate(state))
      returns = np.asarray(found.returns, np.float64)
      # What broke shows as NaN: theta's mean is not that of its luck.
      came = np.asarray(found.valid) | ~np.isfinite(returns)
      returns = returns[came]
      lengths = np.asarray(found.lengths, np.float64)[came]
      return {
        'episode_return': returns.mean(),
        'episode_return_error': returns.std() / np.sqrt(returns.size),
        'episode_length': lengths.mean(),
      }

    return {'center': run}


class _Player(NamedTuple):
  """A policy and what it acts with."""

  policy: policies.Policy
  params: PyTree
  normalizer: normalizer_lib.Statistics | None
  clip: float | None

  def initial_memory(self, num_lanes: int) -> PyTree:
    """Of the policy, once per lane."""
    copy = lambda x: jnp.broadcast_to(x, (num_lanes, *jnp.shape(x)))
    return jax.tree.map(copy, self.policy.initial_memory())

  def act(
    self, memory: PyTree, observation: Any, first: Any, key: Any
  ) -> tuple[PyTree, Any]:
    """Forgets where an episode begins."""
    del key
    fresh = self.initial_memory(len(first))
    pick = lambda new, old: jnp.where(
      first.reshape(-1, *[1] * (new.ndim - 1)), new, old
    )
    memory = jax.tree.map(pick, fresh, memory)
    if self.normalizer is not None:
      observation = normalizer_lib.normalize(
        self.normalizer, observation, clip=self.clip
      )
    act = jax.vmap(self.policy.act, in_axes=(None, 0, 0))
    return act(self.params, memory, observation)


def _collected(
  state: strategy.State, values: PyTree
) -> tuple[strategy.State, clu_metrics.Collection]:
  metrics = {
    name: metrics_lib.Average.of(value) for name, value in values.items()
  }
  return state, clu_metrics.Collection.create_collection(**metrics)
