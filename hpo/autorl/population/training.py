"""Populations in the training loop: one program for all members and seeds."""

import contextlib
import dataclasses
import functools
from collections.abc import Iterator, Mapping
from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np
from clu import metrics as clu_metrics
from jaxtyping import Array, PyTree

from hpo import studies
from hpo.autorl import accounts
from hpo.autorl import inner as inner_lib
from hpo.autorl.population import exploit, protocol, results, running
from rl import actors, ranges
from runtime import loop as loop_lib
from runtime.devices import mesh as mesh_lib
from runtime.record import metrics as metrics_lib

__all__ = ['PopulationTrainer', 'TrainState']


@flax.struct.dataclass
class TrainState:
  """All that training changes; each seed has its own population.

  Attributes:
    step: steps of the loop so far, int32.
    populations: `running.Population`, leaves [s, ...].
    history: `running.Round`, leaves [rounds, s, n, ...]; zeros to come.
    key: never changes.
  """

  step: Any
  populations: PyTree
  history: PyTree
  key: Any


@dataclasses.dataclass(frozen=True)
class PopulationTrainer:
  """Trains populations; a `runtime.trainer.Trainer`.

  Attributes:
    inner: the learner that is tuned.
    method: how, with its space.
    size: n, members of each population.
    rounds: number of rounds; then nothing changes any more.
    updates: of the inner loop in a round.
    rounds_per_step: rounds that a step of the loop compiles into one program.
    seeds: each tuning seed has a population; the best member of each is judged
      with each test seed.
    name: of the study that is written.

  Raises:
    ValueError: a number is out of range.
  """

  inner: inner_lib.Inner
  method: protocol.Method
  size: int
  rounds: int
  updates: int = 1
  rounds_per_step: int = 1
  seeds: accounts.Seeds = accounts.Seeds()
  name: str = ''

  def __post_init__(self) -> None:
    ranges.check_counts(
      rounds=self.rounds,
      updates=self.updates,
      rounds_per_step=self.rounds_per_step,
    )
    ranges.check_counts(least=2, size=self.size)

  @property
  def round_steps(self) -> int:
    """Environment steps of a round, over all members and seeds."""
    count = self.size * len(self.seeds.tuning)
    return count * self.updates * self.inner.steps

  @contextlib.contextmanager
  def experiment(
    self, *, seed: int, mesh: jax.sharding.Mesh
  ) -> Iterator[loop_lib.Experiment[TrainState]]:
    """See `runtime.trainer.Trainer`; an example is an environment step."""
    mesh = mesh_lib.fitting(mesh, size=self.size)
    init = functools.partial(self._init, seed)
    yield loop_lib.Experiment(
      init=init,
      step=self._step,
      shardings=_shardings(jax.eval_shape(init), mesh),
      batches=actors.NoBatches(),
      mesh=mesh,
      batch_size=self.round_steps * self.rounds_per_step,
      evaluators={'test': self._evaluator()},
      scores={'test': ('score', 'score_error')},
      params=lambda state: {'settings': state.populations.method.codes},
      inheritable=False,
      tables=self._tables,
      files=lambda run: {
        'study.jsonl': functools.partial(self._write, run.state)
      },
      pictures=lambda run: results.pictures(
        self.method.space, self._played(run.state), self.round_steps
      ),
    )

  def _init(self, seed: int) -> TrainState:
    key = jax.random.key(seed)
    start = functools.partial(
      running.start,
      self.inner,
      self.method,
      size=self.size,
      rounds=self.rounds,
    )
    populations = jax.vmap(start)(accounts.keys(key, self.seeds.tuning))
    _, row = jax.eval_shape(self._play, populations)
    history = jax.tree.map(
      lambda x: jnp.zeros((self.rounds, *x.shape), x.dtype), row
    )
    return TrainState(jnp.int32(0), populations, history, key)

  def _play(self, populations: PyTree) -> tuple[PyTree, running.Round]:
    play = functools.partial(
      running.play, self.inner, self.method, updates=self.updates
    )
    return jax.vmap(play)(populations)

  def _step(
    self, state: TrainState, batch: Mapping[str, Any]
  ) -> tuple[TrainState, clu_metrics.Collection]:
    """Some rounds of all populations."""
    del batch

    def play(carry: tuple) -> tuple:
      populations, history = carry
      at = populations.rounds[0]
      populations, row = self._play(populations)
      put = lambda all_rows, one: all_rows.at[at].set(one)
      return populations, jax.tree.map(put, history, row)

    def body(carry: tuple, _: None) -> tuple[tuple, None]:
      is_over = carry[0].rounds[0] >= self.rounds
      return jax.lax.cond(is_over, lambda same: same, play, carry), None

    start = (state.populations, state.history)
    (populations, history), _ = jax.lax.scan(
      body, start, length=self.rounds_per_step
    )
    state = TrainState(state.step + 1, populations, history, state.key)
    return state, self._metrics(state)

  def _metrics(self, state: TrainState) -> clu_metrics.Collection:
    rounds = state.populations.rounds[0]
    scores = state.history.scores[rounds - 1]
    latest = metrics_lib.Latest.of
    values = {
      'score': latest(running.mean_score(scores)),
      'best_score': latest(running.mean_score(jnp.nanmax(scores, axis=-1))),
      'failed': latest(jnp.isnan(scores).mean()),
      'environment_steps': latest(rounds * float(self.round_steps)),
    }
    return clu_metrics.Collection.create_collection(**values)

  def _evaluator(self) -> loop_lib.Evaluator:
    @jax.jit
    def judge(state: TrainState) -> tuple[Array, Array]:
      scores = state.history.scores[state.populations.rounds[0] - 1]
      # Before the next round a member may have become a copy of another.
      parents = state.history.parents[state.populations.rounds[0] - 1]
      ranked = jnp.take_along_axis(exploit.ranked(scores), parents, 1)
      best = jnp.argmax(ranked, 1)
      members = jax.vmap(
        lambda all_members, i: jax.tree.map(lambda x: x[i], all_members)
      )(state.populations.members, best)
      keys = accounts.keys(state.key, self.seeds.test)
      over_keys = jax.vmap(self.inner.evaluate, in_axes=(None, 0))
      found = jax.vmap(over_keys, in_axes=(0, None))(members, keys)
      return found, ~jnp.isneginf(ranked.max(axis=1))

    def run(state: TrainState) -> dict[str, float]:
      found, is_sound = jax.device_get(judge(state))
      found = np.float64(found[is_sound]).mean(axis=1)
      if not len(found):
        return {}
      scores = {'score': found.mean()}
      if len(found) > 1:
        scores['score_error'] = found.std(ddof=1) / np.sqrt(len(found))
      return scores

    return run

  def _played(self, state: TrainState) -> running.Round:
    """The rounds so far, in NumPy."""
    count = int(state.populations.rounds[0])
    return jax.tree.map(lambda x: np.asarray(x)[:count], state.history)

  def _tables(
    self, run: loop_lib.Finished[TrainState]
  ) -> dict[str, list[dict[str, Any]]]:
    played = self._played(run.state)
    count = len(played.scores)
    spent = accounts.budget(
      self.seeds,
      trials=played.scores.size,
      steps=count * self.round_steps,
      test_steps=None,
      seconds=run.seconds,
    )
    return {
      'scores': results.score_rows(self.method.space, played),
      'budget': [spent],
    }

  def _write(self, state: TrainState, path: Any) -> None:
    """Rounds of members as trials: their settings, and the score after."""
    space = self.method.space
    problem = studies.Problem(
      space,
      name=self.name,
      metric='score',
      algorithm=type(self.method).__name__,
    )
    accounts.write_study(
      path, problem, results.trials(space, self._played(state))
    )


def _shardings(state: TrainState, mesh: jax.sharding.Mesh) -> TrainState:
  """Members are split over devices."""
  whole = jax.tree.map(lambda _: mesh_lib.replicated(mesh), state)
  parts = jax.sharding.PartitionSpec(None, mesh_lib.BATCH_AXES)
  split = jax.sharding.NamedSharding(mesh, parts)
  members = jax.tree.map(lambda _: split, state.populations.members)
  return whole.replace(populations=whole.populations.replace(members=members))
