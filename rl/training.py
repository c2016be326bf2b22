"""Agents in the training loop: states, shardings, actors, evaluators.

With JAX environments the lanes are a part of the state, one program acts and
learns, and a resumed run continues as the uninterrupted one. Several agents,
each with its own seed, can be trained by that program at once. Simulators run
on the host, beside the learner.
"""

import contextlib
import dataclasses
import functools
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import flax
import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from clu import metrics as clu_metrics
from jaxtyping import Array, Float, Key, PyTree

from rl import actors, evaluation, ranges, results, rollout
from rl import film as film_lib
from rl import learner as learner_lib
from rl.envs import checks, protocol
from runtime import loop as loop_lib
from runtime.devices import mesh as mesh_lib
from runtime.record import metrics as metrics_lib

__all__ = [
  'AgentTrainer',
  'TrainState',
  'random_returns',
]

_MOST_AGENTS = 10_000


@flax.struct.dataclass
class TrainState:
  """All that training changes; with several agents, each has its own.

  Attributes:
    step: iterations so far, int32 scalar.
    learner: state of the algorithm.
    stage: the lanes, for JAX environments; None for simulators.
    key: never changes; iterations fold their number into it.
  """

  step: Any
  learner: Any
  stage: Any
  key: Any


def _keys(key: Key[Array, '']) -> tuple[Key[Array, ''], ...]:
  """Keys of parameters, lanes, acting, learning and evaluation."""
  return tuple(jax.random.fold_in(key, i) for i in range(5))


@dataclasses.dataclass(frozen=True)
class AgentTrainer:
  """Trains an agent; a `runtime.trainer.Trainer`.

  Attributes:
    algorithm: its settings.
    env: the lanes to learn in; they reset themselves.
    eval_envs: name -> lanes to evaluate in; none: no evaluation.
    eval_episodes: finished episodes per lane and evaluation.
    num_agents: number of agents trained at once, each with its own seed; more
      than one needs JAX environments.
    iterations_per_step: iterations that one step of the loop compiles into one
      program; JAX environments only.
    pipelined: for simulators: whether actors go on while the learner learns.
      They then act with the parameters of the iteration before, always.
    film: settings of a film at the end; None: no film.

  Raises:
    ValueError: if a number is not positive, lanes do not reset themselves, or
      simulators are asked for what needs JAX environments.
  """

  algorithm: learner_lib.Algorithm
  env: protocol.VectorEnvironment
  eval_envs: Mapping[str, protocol.VectorEnvironment] = dataclasses.field(
    default_factory=dict
  )
  eval_episodes: int = 1
  num_agents: int = 1
  iterations_per_step: int = 1
  pipelined: bool = True
  film: film_lib.Film | None = None

  def __post_init__(self) -> None:
    ranges.check_counts(
      eval_episodes=self.eval_episodes,
      iterations_per_step=self.iterations_per_step,
    )
    # Every agent has metrics of its own.
    ranges.check_counts(up_to=_MOST_AGENTS, num_agents=self.num_agents)
    for env in self._all_envs().values():
      checks.check_resets(env)
    batched = self.num_agents > 1 or self.iterations_per_step > 1
    hosts = [n for n, e in self._all_envs().items() if not e.pure]
    if batched and hosts:
      raise ValueError(
        'several agents, or several iterations per step, need JAX '
        f'environments, got {self.num_agents=} {self.iterations_per_step=} '
        f'with the simulators of {hosts}'
      )

  def _all_envs(self) -> dict[str, protocol.VectorEnvironment]:
    return {'training': self.env, **self.eval_envs}

  @functools.cached_property
  def learner(self) -> learner_lib.Learner:
    """The algorithm, fitted to the task."""
    env = self.env
    learner = self.algorithm.learner(
      env.observation_space, env.action_space, env.num_lanes
    )
    for name, other in self.eval_envs.items():
      for kind in ('observation_space', 'action_space'):
        ours, theirs = getattr(env, kind), getattr(other, kind)
        if ours != theirs:
          raise ValueError(
            f'eval_envs must have the spaces of env, got {kind} {theirs} '
            f'of {name!r} for {ours}'
          )
    return learner

  @contextlib.contextmanager
  def experiment(
    self, *, seed: int, mesh: jax.sharding.Mesh
  ) -> Iterator[loop_lib.Experiment[TrainState]]:
    """See `runtime.trainer.Trainer`; an example is one step of one lane.

    The environments are closed with it.
    """
    with contextlib.ExitStack() as stack:
      for env in self._all_envs().values():
        stack.callback(env.close)
      if self.film is not None:
        stack.callback(self.film.env.close)
      experiment = self._shared(seed, mesh)
      if self.env.pure:
        yield experiment
      else:
        actor = self._actor(seed)
        stack.callback(actor.close)
        yield self._with_actor(experiment, actor)

  def _shared(
    self, seed: int, mesh: jax.sharding.Mesh
  ) -> loop_lib.Experiment[TrainState]:
    """The experiment of JAX environments, the most of that of simulators."""
    init = functools.partial(self._init, seed)
    steps = self.learner.unroll_length * self.env.num_lanes
    evaluators = self._evaluators()
    return loop_lib.Experiment(
      init=init,
      step=self._step,
      shardings=self._shardings(jax.eval_shape(init), mesh),
      batches=actors.NoBatches(),
      mesh=mesh,
      batch_size=steps * self.iterations_per_step,
      evaluators=evaluators,
      scores=dict.fromkeys(evaluators, self._score_names()),
      params=lambda state: flax.serialization.to_state_dict(
        self.learner.params(state.learner)
      ),
      tables=lambda run: results.tables(run.rows, self.random_returns(seed)),
      pictures=lambda run: results.pictures(
        run.rows,
        steps_per_iteration=steps * self.iterations_per_step,
        film=self.film,
        player=lambda: self.player(run.state),
        seed=seed,
      ),
    )

  def _actor(self, seed: int) -> actors.Actor:
    if jax.process_count() > 1:
      raise ValueError(
        'simulators are stepped by one process, got '
        f'{jax.process_count()}; use a JAX environment or one process'
      )
    return actors.Actor(
      rollout.HostActor(self.env, self.learner),
      key=_keys(jax.random.key(seed))[1],
      pipelined=self.pipelined,
    )

  def _with_actor(
    self, experiment: loop_lib.Experiment[TrainState], actor: actors.Actor
  ) -> loop_lib.Experiment[TrainState]:
    """Learns from the steps of an actor in simulators."""
    watch = jax.jit(lambda state: self.learner.acting(state.learner))
    return dataclasses.replace(
      experiment,
      step=self._learn,
      batches=actor,
      # Results of a program of their own: the step may take the state's buffers.
      observe=lambda state: actor.observe(watch(state)),
    )

  def player(self, state: TrainState) -> film_lib.Player:
    """The first agent, as in evaluation."""
    one = state.learner
    if self.num_agents > 1:
      one = jax.tree.map(lambda x: x[0], one)
    return _Player(self.learner, self.learner.acting(one))

  def random_returns(self, seed: int) -> dict[str, Float[np.ndarray, ' e']]:
    """Random returns in the lanes of every evaluation, for as many episodes.

    None where actions have no bounds: those cannot be drawn uniformly.
    """
    return {
      name: random_returns(env, seed, episodes=self.eval_episodes)
      for name, env in self.eval_envs.items()
      if env.action_space.bounded
    }

  def _init(self, seed: int) -> TrainState:
    keys = jax.random.key(seed)
    step = jnp.zeros((), jnp.int32)
    if self.num_agents == 1:
      return TrainState(step, *self._fresh(keys), keys)
    keys = jax.vmap(lambda i: jax.random.fold_in(keys, i))(
      jnp.arange(self.num_agents)
    )
    return TrainState(step, *jax.vmap(self._fresh)(keys), keys)

  def _fresh(self, key: Key[Array, '']) -> tuple[PyTree, PyTree]:
    """Learner and lanes of one agent."""
    init_key, lanes_key, *_ = _keys(key)
    stage = None
    if self.env.pure:
      stage = rollout.start(self.env, self.learner, lanes_key)
    return self.learner.init(init_key), stage

  def _shardings(self, state: TrainState, mesh: jax.sharding.Mesh) -> PyTree:
    """Agents are split over devices; of one agent, the lanes are."""
    whole, split = mesh_lib.replicated(mesh), mesh_lib.batch_sharding(mesh)
    shards = np.prod([mesh.shape[axis] for axis in mesh_lib.BATCH_AXES])
    count = self.num_agents if self.num_agents > 1 else self.env.num_lanes
    if count % shards:
      logging.warning(
        'choose the number of agents, or of lanes of a single agent, '
        'divisible by the mesh axes data x fsdp: now every device does all '
        'the work, with num_agents=%d num_lanes=%d for %d',
        self.num_agents,
        self.env.num_lanes,
        shards,
      )
      split = whole
    everywhere = functools.partial(jax.tree.map, lambda leaf: whole)
    apart = functools.partial(jax.tree.map, lambda leaf: split)
    if self.num_agents == 1:
      return everywhere(state).replace(stage=apart(state.stage))
    return apart(state).replace(step=whole)

  def _iterate(
    self, learner: PyTree, stage: PyTree, key: Key[Array, ''], step: Array
  ) -> tuple[PyTree, PyTree, dict[str, clu_metrics.Metric]]:
    """Acts, then learns: one iteration of one agent."""
    *_, act_key, learn_key, _ = (
      jax.random.fold_in(k, step) for k in _keys(key)
    )
    acting = self.learner.acting(learner)
    stage, trajectory = rollout.collect(
      self.env, self.learner, acting, stage, act_key
    )
    learner, values = self.learner.learn(learner, trajectory, learn_key)
    return learner, stage, _metrics(values, trajectory)

  def _step(
    self, state: TrainState, batch: Mapping[str, Any]
  ) -> tuple[TrainState, clu_metrics.Collection]:
    """Some iterations of all agents."""
    del batch
    iterate = self._iterate
    if self.num_agents > 1:
      iterate = jax.vmap(iterate, in_axes=(0, 0, 0, None))

    def body(carry: tuple, step: Array) -> tuple[tuple, PyTree]:
      *carry, metrics = iterate(*carry, state.key, step)
      return tuple(carry), metrics

    steps = state.step + jnp.arange(self.iterations_per_step)
    (learner, stage), metrics = jax.lax.scan(
      body, (state.learner, state.stage), steps
    )
    metrics = _pooled(metrics, self.num_agents)
    state = state.replace(step=steps[-1] + 1, learner=learner, stage=stage)
    return state, clu_metrics.Collection.create_collection(**metrics)

  def _learn(
    self, state: TrainState, batch: Mapping[str, Any]
  ) -> tuple[TrainState, clu_metrics.Collection]:
    """Learns from the steps of an actor."""
    trajectory = actors.time_major(batch)
    key = jax.random.fold_in(_keys(state.key)[3], state.step)
    learner, values = self.learner.learn(state.learner, trajectory, key)
    metrics = _metrics(values, trajectory)
    state = state.replace(step=state.step + 1, learner=learner)
    return state, clu_metrics.Collection.create_collection(**metrics)

  def _evaluators(self) -> dict[str, loop_lib.Evaluator]:
    return {
      name: self._evaluator(self.learner, env, index)
      for index, (name, env) in enumerate(self.eval_envs.items())
    }

  def _score_names(self) -> list[str]:
    count = self.num_agents
    one = np.zeros((1, 1) if count == 1 else (count, 1, 1))
    return list(_scores(evaluation.Episodes(one, one), count > 1))

  def _evaluator(
    self,
    judged: learner_lib.Learner,
    env: protocol.VectorEnvironment,
    index: int,
  ) -> loop_lib.Evaluator:
    def episodes(
      learner: PyTree, key: Key[Array, ''], step: Array
    ) -> evaluation.Episodes:
      key = jax.random.fold_in(jax.random.fold_in(_keys(key)[4], index), step)
      acting = judged.acting(learner)
      run = evaluation.evaluate if env.pure else evaluation.evaluate_on_host
      return run(env, judged, acting, key, episodes=self.eval_episodes)

    several = self.num_agents > 1
    if several:
      episodes = jax.vmap(episodes, in_axes=(0, 0, None))
    if env.pure:
      episodes = jax.jit(episodes)

    def run(state: TrainState) -> dict[str, float]:
      found = episodes(state.learner, state.key, state.step)
      return _scores(jax.device_get(found), several)

    return run


def random_returns(
  env: protocol.VectorEnvironment, seed: int, *, episodes: int
) -> Float[np.ndarray, ' e']:
  """Returns of random actions.

  Args:
    env: the lanes; actions must be discrete or in a bounded box.
    seed: of lanes and actions.
    episodes: of each lane.
  """
  player = evaluation.RandomPlayer(env.action_space)
  run = evaluation.evaluate_on_host
  if env.pure:
    run = jax.jit(
      evaluation.evaluate, static_argnums=(0, 1), static_argnames='episodes'
    )
  found = run(env, player, (), jax.random.key(seed), episodes=episodes)
  return np.asarray(found.returns, np.float64).reshape(-1)


class _Player(NamedTuple):
  """A learner and the part of its state that acts."""

  learner: learner_lib.Learner
  acting: PyTree

  def initial_memory(self, num_lanes: int) -> PyTree:
    """Memory of the learner."""
    return self.learner.initial_memory(num_lanes)

  def act(
    self, memory: PyTree, observation: Any, first: Any, key: Key[Array, '']
  ) -> tuple[PyTree, Any]:
    """Acts as in evaluation."""
    chosen = self.learner.greedy(self.acting, memory, observation, first, key)
    return chosen.memory, chosen.action


def _metrics(
  values: Mapping[str, Array], trajectory: learner_lib.Trajectory
) -> dict[str, clu_metrics.Metric]:
  """Metrics of the learner; returns and lengths of ended episodes."""
  ended = trajectory.terminated | trajectory.truncated
  ended = (ended & trajectory.valid).astype(jnp.float32)
  average = metrics_lib.Average.of
  metrics = {name: average(value) for name, value in values.items()}
  metrics['episode_return'] = average(trajectory.episode_return, ended)
  length = trajectory.episode_length.astype(jnp.float32)
  metrics['episode_length'] = average(length, ended)
  return metrics


def _pooled(
  metrics: Mapping[str, clu_metrics.Metric], num_agents: int
) -> dict[str, clu_metrics.Metric]:
  """Over iterations, the leading axis, and over agents, if there are several."""
  total = {
    name: jax.tree.map(jnp.sum, metric) for name, metric in metrics.items()
  }
  if num_agents > 1:
    for agent in range(num_agents):
      one = jax.tree.map(
        lambda x, i=agent: x[:, i].sum(), metrics['episode_return']
      )
      total[results.agent_name('episode_return', agent)] = one
  return total


def _scores(found: evaluation.Episodes, several: bool) -> dict[str, float]:
  returns, lengths = (np.asarray(x, np.float64) for x in found)
  scores = {'episode_return': returns.mean(), 'episode_length': lengths.mean()}
  if several:
    for agent, values in enumerate(returns):
      scores[results.agent_name('episode_return', agent)] = values.mean()
  else:
    scores['episode_return_error'] = returns.std() / np.sqrt(returns.size)
  return scores
