"""The common part of all trainers that only see returns.

One step of the loop is a generation, one example a member of it.
"""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from clu import metrics as clu_metrics
from jaxtyping import Float, Key, PyTree

from rl import film as film_lib
from rl import normalizer as normalizer_lib
from rl import ranges, results, training
from rl.envs import lanes, protocol, spaces
from rl.es import evaluator as evaluator_lib
from rl.es import jax_evaluator, policies
from rl.es import population as population_lib
from rl.es import search as search_lib
from runtime import loop as loop_lib
from runtime.devices import mesh as mesh_lib
from runtime.record import metrics as metrics_lib

__all__ = [
  'MakePolicy',
  'PolicyTrainer',
  'as_example',
  'collected',
  'one_device',
]

MakePolicy = Callable[[spaces.Space, spaces.Space], policies.Policy]


@dataclasses.dataclass(frozen=True)
class PolicyTrainer:
  """Base class of the trainers that only see returns.

  Attributes:
    env: the task.
    policy: makes the policy of an observation and an action space.
    evaluator: makes the evaluator of rollouts, from the keyword arguments
      `env`, `policy`, `mesh` and `clip`.
    eval_episodes: of theta, per evaluation; 0: no evaluation.
    clip: bound of normalised observations; None: no bound.
    film: settings of a film at the end; None: no film.

  Raises:
    ValueError: if a number is out of range.
  """

  env: protocol.Environment | protocol.VectorEnvironment
  policy: MakePolicy
  evaluator: Callable[..., evaluator_lib.Evaluator] = dataclasses.field(
    default=jax_evaluator.JaxEvaluator, kw_only=True
  )
  eval_episodes: int = dataclasses.field(default=32, kw_only=True)
  clip: float | None = dataclasses.field(default=None, kw_only=True)
  film: film_lib.Film | None = dataclasses.field(default=None, kw_only=True)

  def __post_init__(self) -> None:
    ranges.check_counts(least=0, eval_episodes=self.eval_episodes)
    ranges.check_positive(clip=self.clip)

  @functools.cached_property
  def fitted_policy(self) -> policies.Policy:
    """The policy for the task's spaces."""
    return self.policy(self.env.observation_space, self.env.action_space)

  def player(self, state: search_lib.State) -> film_lib.Player:
    """Theta, with the statistics of its observations."""
    params = self.fitted_policy.unravel(state.theta)
    return _Player(self.fitted_policy, params, state.normalizer, self.clip)

  def random_returns(self, seed: int) -> dict[str, Float[np.ndarray, ' e']]:
    """Returns of about as many episodes as an evaluation has."""
    if not (self.eval_episodes and self.env.action_space.bounded):
      return {}
    env, episodes = self.env, 1
    if isinstance(env, protocol.VectorEnvironment):
      episodes = -(-self.eval_episodes // env.num_lanes)
    else:
      env = lanes.Lanes(env, self.eval_episodes)
    return {'center': training.random_returns(env, seed, episodes=episodes)}

  @contextlib.contextmanager
  def _opened(
    self, mesh: jax.sharding.Mesh
  ) -> Iterator[evaluator_lib.Evaluator]:
    """Makes the evaluator; closes its workers, the lanes and the film's."""
    with contextlib.ExitStack() as stack:
      if isinstance(self.env, protocol.VectorEnvironment):
        stack.callback(self.env.close)
      if self.film is not None:
        stack.callback(self.film.env.close)
      evaluator = self.evaluator(
        env=self.env, policy=self.fitted_policy, mesh=mesh, clip=self.clip
      )
      stack.callback(evaluator.close)
      yield evaluator

  def _first(
    self, seed: int
  ) -> tuple[Float[jax.Array, ' d'], Key[jax.Array, '']]:
    """The first theta, and the key of the run."""
    policy_key, key = jax.random.split(jax.random.key(seed))
    return self.fitted_policy.init(policy_key), key

  def _common(
    self,
    init: Callable[[], search_lib.State],
    evaluator: evaluator_lib.Evaluator,
    *,
    mesh: jax.sharding.Mesh,
    seed: int,
    members: int,
  ) -> dict[str, Any]:
    """The fields of an experiment that do not depend on the search."""
    whole = mesh_lib.replicated(mesh)
    return {
      'init': init,
      'shardings': jax.tree.map(lambda _: whole, jax.eval_shape(init)),
      'mesh': mesh,
      'batch_size': members,
      'evaluators': self._evaluators(evaluator),
      'params': lambda state: {'theta': state.theta},
      'tables': lambda run: results.tables(run.rows, self.random_returns(seed)),
      'pictures': lambda run: results.pictures(
        run.rows,
        steps_per_iteration=members,
        film=self.film,
        player=self.player(run.state),
        seed=seed,
      ),
    }

  def _evaluators(
    self, evaluator: evaluator_lib.Evaluator
  ) -> dict[str, loop_lib.Evaluator]:
    if not self.eval_episodes:
      return {}

    def evaluate(state: search_lib.State) -> evaluator_lib.Evaluation:
      # A generation splits this key in three; here is a fourth.
      key = jax.random.fold_in(state.key, state.generation)
      keys = jax.random.split(jax.random.fold_in(key, 3), self.eval_episodes)
      theta = population_lib.Repeated(state.theta)
      return evaluator.evaluate(theta, keys, state.normalizer)

    if evaluator.pure:
      evaluate = jax.jit(evaluate)

    def run(state: search_lib.State) -> dict[str, float]:
      found = jax.device_get(evaluate(state))
      returns = np.asarray(found.returns, np.float64)
      # A broken episode stays as NaN: a mean of lucky ones would flatter theta.
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
  """A policy with its parameters and statistics."""

  policy: policies.Policy
  params: PyTree
  normalizer: normalizer_lib.Statistics | None
  clip: float | None

  def initial_memory(self, num_lanes: int) -> PyTree:
    """Memory of the policy, once per lane."""
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


def one_device(mesh: jax.sharding.Mesh) -> jax.sharding.Mesh:
  """The first device, for small updates, on any back end of rollouts."""
  return mesh_lib.MeshConfig(data=1).make(list(mesh.devices.flat[:1]))


def as_example(batch: Mapping[str, PyTree]) -> dict[str, PyTree]:
  """With a leading axis, which the loop wants, of this one example."""
  return jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], dict(batch))


def collected(
  state: search_lib.State, values: PyTree
) -> tuple[search_lib.State, clu_metrics.Collection]:
  """The result of a step of the loop.

  Args:
    state: after the step.
    values: scalars, by name.
  """
  metrics = {
    name: metrics_lib.Average.of(value) for name, value in values.items()
  }
  return state, clu_metrics.Collection.create_collection(**metrics)
