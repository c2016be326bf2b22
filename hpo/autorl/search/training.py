"""Whole runs in the training loop, chosen by a tuner.

A step of the loop runs some jobs at once, as one program. The tuner is the iterator
of its batches: its records are saved as the position, and it reads the scores of the
last batch from the state. States of all jobs are kept, so that jobs can go on.
"""

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
from jaxtyping import Array, Float, Int, Key, PyTree

from hpo import spaces, studies
from hpo.autorl import accounts, asking, traced
from hpo.autorl import inner as inner_lib
from hpo.autorl.search import results
from rl import ranges
from runtime import loop as loop_lib
from runtime.devices import mesh as mesh_lib
from runtime.record import metrics as metrics_lib

__all__ = ['Jobs', 'SearchTrainer', 'TrainState']


@flax.struct.dataclass
class TrainState:
  """All that training changes; k tuning seeds, room for t jobs.

  Attributes:
    step: steps of the loop so far, int32.
    states: of the inner loop, one for each job and seed, leaves [t, k, ...].
    scores: of jobs, float32 [t, k]; NaN before the job and where it failed.
    done: updates of each job, those of its parent included, int32 [t].
    spent: updates so far, over all jobs and seeds, int32.
    key: never changes.
  """

  step: Any
  states: PyTree
  scores: Any
  done: Any
  spent: Any
  key: Any


class Jobs:
  """The batches of the loop: the next jobs of a tuner.

  Args:
    tuner: chooses them.
    room: jobs in all.
    count: jobs of a batch; there may be fewer where the tuner waits or has
      finished.
    updates: of the inner loop in a job without a budget.
    steps: environment steps of an update.
  """

  def __init__(
    self,
    tuner: asking.Tuner,
    *,
    room: int,
    count: int,
    updates: int,
    steps: int,
  ) -> None:
    self.tuner = tuner
    self._room, self._count = room, count
    self._updates, self._steps = updates, steps

  def __next__(self) -> dict[str, Any]:
    """The next jobs as arrays; rows without a job have the number `room`."""
    left = self._room - len(self.tuner.records)
    jobs = self.tuner.ask(min(left, self._count)) if left else []
    size = self._count
    width = len(self.tuner.space)
    batch = {
      'id': np.full(size, self._room, np.int32),
      'parent': np.full(size, -1, np.int32),
      'updates': np.zeros(size, np.int32),
      'codes': np.zeros((size, width), np.float32),
    }
    for row, job in enumerate(jobs):
      batch['id'][row] = job.id
      batch['updates'][row] = self.updates(job)
      batch['codes'][row] = self.tuner.space.codes(job.params)
      if job.parent is not None:
        batch['parent'][row] = job.parent
    return batch

  def updates(self, job: asking.Job) -> int:
    """Updates after which a job ends, those of its parent included.

    Raises:
      ValueError: its budget is no whole number of updates.
    """
    if job.budget is None:
      return self._updates
    if job.budget % self._steps:
      raise ValueError(
        'budgets of jobs must be multiples of the environment steps of an '
        f'update, {self._steps}, got {job}'
      )
    return job.budget // self._steps

  def observe(self, state: TrainState) -> None:
    """Tells the tuner the scores of jobs that are finished."""
    if not self.tuner.pending:
      return
    scores = np.asarray(state.scores, np.float64).mean(axis=1)
    for job in self.tuner.pending:
      score = float(scores[job.id])
      step = self.updates(job) * self._steps
      self.tuner.tell(job.id, score if np.isfinite(score) else None, step)

  def get_state(self) -> dict[str, Any]:
    """The records of the tuner."""
    return self.tuner.state()

  def set_state(self, state: dict[str, Any]) -> None:
    """Goes to saved records."""
    self.tuner.restore(state)


@dataclasses.dataclass(frozen=True)
class SearchTrainer:
  """Trains the jobs of a tuner; a `runtime.trainer.Trainer`.

  Attributes:
    inner: the learner that is tuned.
    method: chooses the jobs.
    space: of the settings.
    jobs: number of jobs, those that go on included; then nothing changes.
    updates: of the inner loop in a job without a budget.
    parallel: jobs of a step of the loop.
    seeds: each job runs with each tuning seed, and has the mean score. The best
      settings are trained anew with each test seed.
    name: of the study that is written.

  Raises:
    ValueError: a number is out of range.
  """

  inner: inner_lib.Inner
  method: asking.Method
  space: spaces.Space
  jobs: int
  updates: int
  parallel: int = 1
  seeds: accounts.Seeds = accounts.Seeds()
  name: str = ''

  def __post_init__(self) -> None:
    ranges.check_counts(
      jobs=self.jobs, updates=self.updates, parallel=self.parallel
    )

  @contextlib.contextmanager
  def experiment(
    self, *, seed: int, mesh: jax.sharding.Mesh
  ) -> Iterator[loop_lib.Experiment[TrainState]]:
    """See `runtime.trainer.Trainer`; an example is a job.

    Raises:
      ValueError: there are several processes.
    """
    if jax.process_count() > 1:
      raise ValueError(
        f'one process runs a search, got {jax.process_count()}; '
        'runtime.sweep runs jobs in several'
      )
    mesh = mesh_lib.fitting(mesh, parallel=self.parallel)
    jobs = Jobs(
      asking.Tuner(self.method, self.space, seed=seed),
      room=self.jobs,
      count=self.parallel,
      updates=self.updates,
      steps=self.inner.steps,
    )
    init = functools.partial(self._init, seed)
    yield loop_lib.Experiment(
      init=init,
      step=self._step,
      shardings=jax.tree.map(
        lambda _: mesh_lib.replicated(mesh), jax.eval_shape(init)
      ),
      batches=jobs,
      observe=jobs.observe,
      mesh=mesh,
      batch_size=self.parallel,
      evaluators={'test': self._evaluator(jobs)},
      scores={'test': ('score', 'score_error')},
      params=lambda state: {'scores': state.scores},
      inheritable=False,
      tables=functools.partial(self._tables, jobs),
      files=lambda run: {
        'study.jsonl': functools.partial(self._write, jobs, run.state)
      },
      pictures=lambda run: self._pictures(self._told(jobs, run.state)),
    )

  def _pictures(self, tuner: asking.Tuner) -> dict[str, loop_lib.Draw]:
    if tuner.best is None:
      return {}
    draw = functools.partial(
      results.draw_incumbent, tuner.records, len(self.seeds.tuning)
    )
    return {'incumbent.png': draw}

  def _init(self, seed: int) -> TrainState:
    key = jax.random.key(seed)
    shape = (self.jobs, len(self.seeds.tuning))
    states = jax.tree.map(
      lambda x: (
        jnp.zeros((*shape, *x.shape), x.dtype)
        if not jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
        else jnp.broadcast_to(key, (*shape, *x.shape))
      ),
      jax.eval_shape(self.inner.init, key),
    )
    return TrainState(
      jnp.int32(0),
      states,
      jnp.full(shape, jnp.nan, jnp.float32),
      jnp.zeros(self.jobs, jnp.int32),
      jnp.int32(0),
      key,
    )

  def _step(
    self, state: TrainState, batch: Mapping[str, Any]
  ) -> tuple[TrainState, clu_metrics.Collection]:
    """Runs the jobs of a batch, with all tuning seeds."""
    jobs = {name: jnp.asarray(x) for name, x in batch.items()}
    fresh = jobs['parent'] < 0
    before = jnp.where(fresh, 0, state.done[jobs['parent']])
    told = jnp.where(fresh[:, None], jnp.nan, state.scores[jobs['parent']])
    keys = accounts.keys(state.key, self.seeds.tuning)

    def run(job: dict, begin: Array, told: Array, parents: PyTree) -> tuple:
      one = lambda key, told, parent: self._run(key, job, begin, told, parent)
      return jax.vmap(one)(keys, told, parents)

    parents = jax.tree.map(lambda x: x[jobs['parent']], state.states)
    found, scores = jax.vmap(run)(jobs, before, told, parents)
    put = lambda rows, new: rows.at[jobs['id']].set(new, mode='drop')
    made = (jobs['updates'] - before).sum() * len(self.seeds.tuning)
    state = state.replace(
      step=state.step + 1,
      states=jax.tree.map(put, state.states, found),
      scores=put(state.scores, scores),
      done=put(state.done, jobs['updates']),
      spent=state.spent + made,
    )
    return state, self._metrics(state)

  def _run(
    self,
    key: Key[Array, ''],
    job: Mapping[str, Array],
    begin: Int[Array, ''],
    told: Float[Array, ''],
    parent: PyTree,
  ) -> tuple[PyTree, Float[Array, '']]:
    """A job with one seed: its state and score."""
    key = jax.random.fold_in(key, job['id'])
    first, second = jax.random.split(key)
    begins = job['parent'] < 0
    start = jax.tree.map(
      lambda new, old: jnp.where(begins, new, old),
      self.inner.init(first),
      parent,
    )
    zeta = traced.zeta(self.space, job['codes'])
    return _trained(
      self.inner, start, zeta, second, begin, job['updates'], told
    )

  def _metrics(self, state: TrainState) -> clu_metrics.Collection:
    scores = state.scores.mean(axis=1)
    best = jnp.where(jnp.isnan(scores), -jnp.inf, scores).max()
    latest = metrics_lib.Latest.of
    values = {
      # Before any job succeeds there is no best score: 0 in 0 jobs.
      'best_score': latest(jnp.where(jnp.isneginf(best), 0, best)),
      'scored_jobs': latest((~jnp.isnan(scores)).sum()),
      'environment_steps': latest(state.spent * float(self.inner.steps)),
    }
    return clu_metrics.Collection.create_collection(**values)

  def _evaluator(self, jobs: Jobs) -> loop_lib.Evaluator:
    @jax.jit
    def judge(key: Array, codes: Array, updates: Array) -> Array:
      zeta = traced.zeta(self.space, codes)

      def one(key: Key[Array, '']) -> Float[Array, '']:
        first, second, third = jax.random.split(key, 3)
        state, _ = _trained(
          self.inner, self.inner.init(first), zeta, second, 0, updates, jnp.nan
        )
        return self.inner.evaluate(state, third)

      return jax.vmap(one)(accounts.keys(key, self.seeds.test))

    def run(state: TrainState) -> dict[str, float]:
      best = self._told(jobs, state).best
      if best is None:
        return {}
      codes = jnp.float32(self.space.codes(best.job.params))
      found = judge(state.key, codes, jnp.int32(jobs.updates(best.job)))
      found = np.asarray(found, np.float64)
      error = found.std(ddof=1) / np.sqrt(len(found)) if len(found) > 1 else 0.0
      return {'score': found.mean(), 'score_error': error}

    return run

  def _told(self, jobs: Jobs, state: TrainState) -> asking.Tuner:
    """The tuner, with the scores of the last batch."""
    jobs.observe(state)
    return jobs.tuner

  def _tables(
    self, jobs: Jobs, run: loop_lib.Finished[TrainState]
  ) -> dict[str, list[dict[str, Any]]]:
    tuner = self._told(jobs, run.state)
    updates = jobs.updates(tuner.best.job) if tuner.best else 0
    spent = accounts.budget(
      self.seeds,
      trials=len(tuner.records),
      steps=int(run.state.spent) * self.inner.steps,
      test_steps=updates * self.inner.steps * len(self.seeds.test),
      seconds=run.seconds,
    )
    return {'jobs': results.job_rows(tuner), 'budget': [spent]}

  def _write(self, jobs: Jobs, state: TrainState, path: Any) -> None:
    records = self._told(jobs, state).records
    trials = [studies.Trial(r.job.params, r.score, r.status) for r in records]
    name = type(self.method).__name__
    problem = studies.Problem(
      self.space, name=self.name, metric='score', algorithm=name
    )
    accounts.write_study(path, problem, trials)


def _trained(
  inner: inner_lib.Inner,
  state: PyTree,
  zeta: inner_lib.Zeta,
  key: Key[Array, ''],
  begin: Array | int,
  end: Array,
  score: Array | float,
) -> tuple[PyTree, Float[Array, '']]:
  """The state and score after some updates, of which the number may be traced."""

  def update(number: Array, carry: tuple) -> tuple:
    found = inner.update(carry[0], zeta, jax.random.fold_in(key, number))
    return found.state, inner_lib.sound(found.score)

  return jax.lax.fori_loop(begin, end, update, (state, jnp.float32(score)))
