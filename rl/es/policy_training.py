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
from jaxtyping import Float, PyTree

from rl import actors, ranges, results, training
from rl import film as film_lib
from rl import normalizer as normalizer_lib
from rl.envs import lanes, protocol, spaces
from rl.es import evaluator as evaluator_lib
from rl.es import generations, jax_evaluator, policies
from rl.es import population as population_lib
from rl.es import search as search_lib
from runtime import loop as loop_lib
from runtime.devices import counting
from runtime.devices import mesh as mesh_lib
from runtime.record import metrics as metrics_lib

__all__ = ['MakePolicy', 'Opened', 'PolicyTrainer']

_SCORES = ('episode_return', 'episode_return_error', 'episode_length')

MakePolicy = Callable[[spaces.Space, spaces.Space], policies.Policy]


@dataclasses.dataclass(frozen=True)
class PolicyTrainer:
  """Base class of the trainers that only see returns; they name their search.

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
    highlights = self.film is not None and self.film.highlight
    if highlights and not hasattr(self.fitted_policy, 'highlights'):
      raise ValueError(
        'film.highlight needs a policy with highlights, such as '
        'implicit_attention.policies.PixelPolicy whose front is fronts.Rank, got '
        f'{self.fitted_policy}'
      )

  @functools.cached_property
  def fitted_policy(self) -> policies.Policy:
    """The policy for the task's spaces."""
    return self.policy(self.env.observation_space, self.env.action_space)

  def search(self, seed: int) -> search_lib.Search:
    """The search; a `search.HostSearch` if it is not pure.

    Args:
      seed: of the run.
    """
    raise NotImplementedError

  def center(
    self, state: search_lib.StateLike, evaluator: evaluator_lib.Evaluator
  ) -> population_lib.Population:
    """What evaluations and films show: every row is the same member.

    Args:
      state: of the search.
      evaluator: for a choice among several members, if there is one.
    """
    del evaluator
    return population_lib.Repeated(state.theta)

  def player(
    self, state: search_lib.StateLike, evaluator: evaluator_lib.Evaluator
  ) -> film_lib.Player:
    """The centre's policy, with the statistics of its observations."""
    members = population_lib.all_members(self.center(state, evaluator), 1)
    params = self.fitted_policy.unravel(jax.tree.map(lambda x: x[0], members))
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

  @contextlib.contextmanager
  def experiment(
    self, *, seed: int, mesh: jax.sharding.Mesh
  ) -> Iterator[loop_lib.Experiment[search_lib.StateLike]]:
    """See `runtime.trainer.Trainer`; an example is a member of a generation.

    The environment is closed with it.
    """
    with self.opened(seed=seed, mesh=mesh) as opened:
      yield opened.experiment

  @contextlib.contextmanager
  def opened(self, *, seed: int, mesh: jax.sharding.Mesh) -> Iterator['Opened']:
    """The experiment, with what it opened."""
    search = self.search(seed)
    # A search on the host asks one device for its rollouts.
    mesh = mesh if search.pure else _one_device(mesh)
    with self._opened(mesh) as evaluator:
      # Where the host does the rollouts, one device is enough for the update.
      mesh = mesh if evaluator.pure else _one_device(mesh)
      init = functools.partial(
        self._init, search, seed, evaluator.observation_shape
      )
      stream = _stream(search, evaluator, init)
      request = _first_request(search, init)
      members = request.population.sides * request.keys.shape[0]
      whole = mesh_lib.replicated(mesh)
      shapes = jax.eval_shape(stream['init'])
      experiment = loop_lib.Experiment(
        **stream,
        shardings=jax.tree.map(lambda _: whole, shapes),
        mesh=mesh,
        batch_size=members,
        population_bytes=members * counting.tree_bytes(shapes.theta),
        evaluators=self._evaluators(evaluator),
        scores={'center': _SCORES},
        params=lambda state: {'theta': state.theta},
        tables=lambda run: results.tables(run.rows, self.random_returns(seed)),
        pictures=lambda run: results.pictures(
          run.rows,
          steps_per_iteration=members,
          film=self.film,
          player=lambda: self.player(run.state, evaluator),
          seed=seed,
        ),
      )
      yield Opened(experiment, evaluator, request)

  def _init(
    self, search: search_lib.Search, seed: int, shape: tuple[int, ...]
  ) -> search_lib.StateLike:
    policy_key, key = jax.random.split(jax.random.key(seed))
    return search.init(self.fitted_policy.init(policy_key), key, shape)

  def _evaluators(
    self, evaluator: evaluator_lib.Evaluator
  ) -> dict[str, loop_lib.Evaluator]:
    if not self.eval_episodes:
      return {}

    def evaluate(state: search_lib.StateLike) -> evaluator_lib.Evaluation:
      # A generation splits this key in three; here is a fourth.
      key = jax.random.fold_in(state.key, state.generation)
      keys = jax.random.split(jax.random.fold_in(key, 3), self.eval_episodes)
      center = self.center(state, evaluator)
      return evaluator.evaluate(center, keys, state.normalizer)

    def run(state: search_lib.StateLike) -> dict[str, float]:
      found = jax.device_get(evaluate(state))
      returns = np.asarray(found.returns, np.float64)
      # A broken episode stays as NaN: a mean of lucky ones would flatter theta.
      came = np.asarray(found.valid) | ~np.isfinite(returns)
      returns = returns[came]
      lengths = np.asarray(found.lengths, np.float64)[came]
      error = returns.std() / np.sqrt(returns.size)
      scores = returns.mean(), error, lengths.mean()
      return dict(zip(_SCORES, scores, strict=True))

    return {'center': run}


class Opened(NamedTuple):
  """An open experiment.

  Attributes:
    experiment: for the training loop.
    evaluator: runs its rollouts.
    request: the first one; only shapes of arrays if the search is pure.
  """

  experiment: loop_lib.Experiment
  evaluator: evaluator_lib.Evaluator
  request: search_lib.Request


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

  def highlights(self, observation: Any) -> Any:
    """See `film.Film`; only some policies know what they look at."""
    look = jax.vmap(self.policy.highlights, in_axes=(None, 0))
    return look(self.params, observation)


def _one_device(mesh: jax.sharding.Mesh) -> jax.sharding.Mesh:
  return mesh_lib.MeshConfig(data=1).make(list(mesh.devices.flat[:1]))


def _first_request(
  search: search_lib.Search, init: Callable[[], search_lib.StateLike]
) -> search_lib.Request:
  """The first request; only the shapes of its arrays if the search is pure."""
  ask = lambda: search.ask(init())
  return jax.eval_shape(ask) if search.pure else ask()


def _stream(
  search: search_lib.Search,
  evaluator: evaluator_lib.Evaluator,
  init: Callable[[], search_lib.StateLike],
) -> dict[str, Any]:
  """The fields of an experiment that do a generation.

  It is one program; or the host evaluates, and a program asks and tells; or the
  host does all of it.
  """
  if search.pure and evaluator.pure:
    step = lambda state, _: _collected(*search.step(state, evaluator))
    return {'init': init, 'step': step, 'batches': actors.NoBatches()}
  if search.pure:
    batches = generations.Evaluations(search, evaluator)
    step = functools.partial(_told, search)
  else:
    state, numbers = search.parted(init())
    batches = generations.Generations(search, evaluator, numbers)
    init, step = lambda: state, _taken
  observe = batches.observe
  return {'init': init, 'step': step, 'batches': batches, 'observe': observe}


def _told(
  search: search_lib.Search,
  state: search_lib.StateLike,
  batch: Mapping[str, Any],
) -> tuple[search_lib.StateLike, clu_metrics.Collection]:
  """The update, after a host evaluated the generation."""
  found = generations.of(batch)
  request = search.ask(state)
  return _collected(
    *search.tell(state, request, found['evaluation'], found['center'])
  )


def _taken(
  state: search_lib.StateLike, batch: Mapping[str, Any]
) -> tuple[search_lib.StateLike, clu_metrics.Collection]:
  """The state after a generation of the host."""
  del state
  found = generations.of(batch)
  return _collected(found['state'], found['metrics'])


def _collected(
  state: search_lib.StateLike, values: PyTree
) -> tuple[search_lib.StateLike, clu_metrics.Collection]:
  metrics = {
    name: metrics_lib.Average.of(value) for name, value in values.items()
  }
  return state, clu_metrics.Collection.create_collection(**metrics)
