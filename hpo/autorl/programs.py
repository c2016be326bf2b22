"""Methods that bring their own loop: one program, for many seeds at once.

A `Program` is what happens in one iteration, as pure functions. `run` maps it
over seeds and scans it over iterations; `ProgramTrainer` is the same in the
training loop, with checkpoints and a report. An agent of `rl` that tunes itself
needs neither: `rl.training.AgentTrainer` trains it.
"""

import contextlib
import dataclasses
import functools
from collections.abc import Iterator, Sequence
from typing import Any, Protocol, runtime_checkable

import flax
import jax
import jax.numpy as jnp
import numpy as np
from clu import metrics as clu_metrics
from jaxtyping import Array, Float, Key, PyTree

from hpo.ufom import results
from rl import actors, evaluation, ranges, rollout
from rl import learner as learner_lib
from rl.envs import protocol
from runtime import loop as loop_lib
from runtime.devices import mesh as mesh_lib
from runtime.record import metrics as metrics_lib
from runtime.record import pictures as pictures_lib
from runtime.record import series as series_lib

__all__ = ['STEPS', 'Agent', 'Program', 'ProgramTrainer', 'TrainState', 'run']

# Of a metric: environment steps of the iteration, over all agents and tuning.
STEPS = 'environment_steps'


@runtime_checkable
class Program(Protocol):
  """One iteration of a method; hashable settings, pure functions."""

  def init(self, key: Key[Array, '']) -> PyTree:
    """The state before the first iteration."""
    ...

  def step(
    self, state: PyTree, key: Key[Array, '']
  ) -> tuple[PyTree, dict[str, Array]]:
    """One iteration.

    Args:
      state: before.
      key: for this iteration only.

    Returns:
      The state after, and metrics, scalars by name; `environment_steps` counts
      those of the iteration, tuning included.
    """
    ...

  def evaluate(self, state: PyTree, key: Key[Array, '']) -> dict[str, Array]:
    """Scores, scalars by name; their environment steps are not counted."""
    ...


@dataclasses.dataclass(frozen=True)
class Agent:
  """An agent of `rl` in JAX lanes, as a program.

  Attributes:
    algorithm: its settings.
    env: the lanes to learn in.
    eval_env: the lanes to evaluate in.
    eval_episodes: finished episodes per lane and evaluation.
  """

  algorithm: learner_lib.Algorithm
  env: protocol.VectorEnvironment
  eval_env: protocol.VectorEnvironment
  eval_episodes: int = 1

  @functools.cached_property
  def learner(self) -> learner_lib.Learner:
    """The algorithm, fitted to the task."""
    env = self.env
    return self.algorithm.learner(
      env.observation_space, env.action_space, env.num_lanes
    )

  def init(self, key: Key[Array, '']) -> PyTree:
    """See `Program`."""
    init_key, lanes_key = jax.random.split(key)
    stage = rollout.start(self.env, self.learner, lanes_key)
    return self.learner.init(init_key), stage

  def step(
    self, state: PyTree, key: Key[Array, '']
  ) -> tuple[PyTree, dict[str, Array]]:
    """See `Program`."""
    learner, stage = state
    act_key, learn_key = jax.random.split(key)
    acting = self.learner.acting(learner)
    stage, trajectory = rollout.collect(
      self.env, self.learner, acting, stage, act_key
    )
    learner, metrics = self.learner.learn(learner, trajectory, learn_key)
    steps = jnp.sum(trajectory.valid).astype(jnp.float32)
    reward = jnp.sum(trajectory.reward) / jnp.maximum(steps, 1)
    return (learner, stage), metrics | {STEPS: steps, 'reward': reward}

  def evaluate(self, state: PyTree, key: Key[Array, '']) -> dict[str, Array]:
    """See `Program`."""
    acting = self.learner.acting(state[0])
    found = evaluation.evaluate(
      self.eval_env, self.learner, acting, key, episodes=self.eval_episodes
    )
    return {'episode_return': jnp.mean(found.returns)}


def _keys(key: Key[Array, '']) -> tuple[Key[Array, ''], ...]:
  """Keys of the first state, of iterations and of evaluations."""
  return tuple(jax.random.fold_in(key, i) for i in range(3))


def _iterate(
  program: Program, state: PyTree, key: Key[Array, ''], steps: Array
) -> tuple[PyTree, dict[str, Array]]:
  """Iterations of these numbers, and their metrics one by one."""
  step_key = _keys(key)[1]
  return jax.lax.scan(
    lambda s, t: program.step(s, jax.random.fold_in(step_key, t)), state, steps
  )


def run(
  program: Program,
  seeds: Sequence[int],
  iterations: int,
  *,
  records: int,
) -> dict[str, Float[np.ndarray, 'seeds records']]:
  """Runs a program for many seeds at once; a seed's run is its own alone.

  Args:
    program: what to run.
    seeds: one run each.
    iterations: of each; a multiple of `records`.
    records: how many rows at equal distances, the last one at the end.

  Returns:
    By name, the means of metrics since the record before, as 'train/...', and
    scores at each record, as 'eval/...'. Of `environment_steps`, the sum so far.

  Raises:
    ValueError: if the records do not divide the iterations.
  """
  ranges.check_counts(iterations=iterations, records=records)
  if iterations % records:
    raise ValueError(
      f'iterations must be a multiple of records, got {iterations=} {records=}'
    )
  length = iterations // records

  def one(key: Key[Array, '']) -> dict[str, Array]:
    init_key, _, judge_key = _keys(key)

    def record(state: PyTree, index: Array) -> tuple[PyTree, dict[str, Array]]:
      steps = index * length + jnp.arange(length)
      state, found = _iterate(program, state, key, steps)
      row = {f'train/{name}': jnp.mean(x) for name, x in found.items()}
      row[f'train/{STEPS}'] = jnp.sum(found[STEPS])
      scores = program.evaluate(state, jax.random.fold_in(judge_key, index))
      return state, row | {f'eval/{name}': x for name, x in scores.items()}

    _, rows = jax.lax.scan(record, program.init(init_key), jnp.arange(records))
    rows[f'train/{STEPS}'] = jnp.cumsum(rows[f'train/{STEPS}'])
    return rows

  keys = jnp.stack([jax.random.key(seed) for seed in seeds])
  found = jax.device_get(jax.jit(jax.vmap(one))(keys))
  return {name: np.asarray(x, np.float64) for name, x in found.items()}


@flax.struct.dataclass
class TrainState:
  """All that training changes; with several seeds, each has its own.

  Attributes:
    step: iterations so far, int32 scalar.
    program: states of the program, [seeds, ...].
    spent: environment steps so far, over all seeds, float32.
    key: of each seed; never changes.
  """

  step: Any
  program: Any
  spent: Any
  key: Any


@flax.struct.dataclass
class Total(clu_metrics.Metric):
  """The newest of totals that only grow."""

  value: Any

  def merge(self, other: 'Total') -> 'Total':
    """The larger one."""
    return Total(jnp.maximum(self.value, other.value))

  def compute(self) -> Any:
    """The value."""
    return self.value


@dataclasses.dataclass(frozen=True)
class ProgramTrainer:
  """Runs a program in the training loop; a `runtime.trainer.Trainer`.

  Attributes:
    program: what to run.
    num_seeds: runs at once.
    iterations_per_step: iterations that one step of the loop compiles into one
      program.

  Raises:
    ValueError: if a number is not positive.
  """

  program: Program
  num_seeds: int = 1
  iterations_per_step: int = 1

  def __post_init__(self) -> None:
    ranges.check_counts(
      num_seeds=self.num_seeds, iterations_per_step=self.iterations_per_step
    )

  @contextlib.contextmanager
  def experiment(
    self, *, seed: int, mesh: jax.sharding.Mesh
  ) -> Iterator[loop_lib.Experiment[TrainState]]:
    """See `runtime.trainer.Trainer`; an example is an iteration of a seed.

    Every device does all the work.
    """
    init = functools.partial(self._init, seed)
    shape, judge = jax.eval_shape(init), jax.jit(self._scores)
    yield loop_lib.Experiment(
      init=init,
      step=self._step,
      shardings=jax.tree.map(lambda _: mesh_lib.replicated(mesh), shape),
      batches=actors.NoBatches(),
      mesh=mesh,
      batch_size=self.num_seeds * self.iterations_per_step,
      evaluators={'test': lambda state: jax.device_get(judge(state))},
      scores={'test': [*jax.eval_shape(self._scores, shape)]},
      params=lambda state: _floats(state.program),
      inheritable=False,
      tables=lambda run: {'scores': results.score_rows(run.rows)},
      pictures=lambda run: {
        'scores.png': functools.partial(_draw_scores, run.rows)
      },
    )

  def _init(self, seed: int) -> TrainState:
    key = jax.random.key(seed)
    keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(
      jnp.arange(self.num_seeds)
    )
    states = jax.vmap(lambda k: self.program.init(_keys(k)[0]))(keys)
    return TrainState(jnp.zeros((), jnp.int32), states, jnp.float32(0), keys)

  def _step(
    self, state: TrainState, batch: Any
  ) -> tuple[TrainState, clu_metrics.Collection]:
    """Some iterations of all seeds."""
    del batch
    steps = state.step + jnp.arange(self.iterations_per_step)
    iterate = jax.vmap(
      functools.partial(_iterate, self.program), in_axes=(0, 0, None)
    )
    found, metrics = iterate(state.program, state.key, steps)
    spent = state.spent + jnp.sum(metrics.pop(STEPS))
    means = {name: metrics_lib.Average.of(x) for name, x in metrics.items()}
    collection = clu_metrics.Collection.create_collection(
      **means, **{STEPS: Total(spent)}
    )
    return TrainState(steps[-1] + 1, found, spent, state.key), collection

  def _scores(self, state: TrainState) -> dict[str, Array]:
    """Means over seeds."""
    judge = lambda s, k: self.program.evaluate(
      s, jax.random.fold_in(_keys(k)[2], state.step)
    )
    return jax.tree.map(jnp.mean, jax.vmap(judge)(state.program, state.key))


def _floats(tree: PyTree) -> dict[str, Any]:
  """The arrays of floats in a tree, by their path."""
  leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
  return {
    jax.tree_util.keystr(path, simple=True, separator='/'): leaf
    for path, leaf in leaves
    if jnp.issubdtype(leaf.dtype, jnp.floating)
  }


def _draw_scores(rows: Sequence[series_lib.Row], path: Any) -> None:
  names = dict.fromkeys(name for row in rows for name in row)
  curves = {}
  for name in names:
    if name.startswith('eval/'):
      steps, values = series_lib.series(rows, name)
      curves[name.removeprefix('eval/')] = steps, values[None]
  pictures_lib.quartiles(curves, path, axes_labels=('iteration', 'score'))
