"""The training loop: steps, evaluation, checkpoints, metrics, preemption.

A trainer hands over an `Experiment`: how to make a state, one pure step, an
iterator of batches and evaluators. The loop owns time. It compiles the step
once, saves state and iterator together, and continues a run that was stopped
at any moment with the numbers that an unstopped one has.

Order within a step, which resumption relies on: refresh, observe, draw batch,
step, row of metrics, evaluate, save. An evaluation may take long: SIGTERM
interrupts it, and the resumed run repeats it. If an evaluation fails, the state
is saved before the error ends the run.

Nothing is written to the workdir before the configuration was checked, the
workdir is owned and the newest checkpoint was restored.
"""

import contextlib
import dataclasses
import os
import pathlib
import time
from collections.abc import Mapping
from typing import Any, Generic, TypeVar

import jax
from absl import logging

from runtime import context as context_lib
from runtime import paths
from runtime.devices import memory
from runtime.loop import checkpoints as checkpoints_lib
from runtime.loop import durations, preemption, timer, warm_start
from runtime.loop.experiment import Experiment
from runtime.loop.program import Program, abstract_state
from runtime.record import metrics as metrics_lib
from runtime.record import profiling, provenance, summary, workdirs, writers
from runtime.record import trackers as trackers_lib

__all__ = ['LoopConfig', 'Result', 'run']

State = TypeVar('State')


@dataclasses.dataclass(frozen=True)
class LoopConfig:
  """The length of a run, and its intervals.

  Attributes:
    duration: length of the run.
    log_every: steps per row of training metrics.
    eval_every: interval of the evaluators; None: only at the end.
    checkpoint_every: interval of checkpoints; None: only at the end.
    checkpoints: which checkpoints stay.
    progress: training metrics to show on the terminal.
    trackers: other writers of the rows, such as `trackers.MLflow()`.
  """

  duration: durations.Duration
  log_every: int = 100
  eval_every: durations.Duration | None = None
  checkpoint_every: durations.Duration | None = None
  checkpoints: checkpoints_lib.CheckpointConfig = (
    checkpoints_lib.CheckpointConfig()
  )
  progress: tuple[str, ...] = ('loss',)
  trackers: tuple[trackers_lib.Tracker, ...] = ()

  def __post_init__(self) -> None:
    if self.log_every < 1:
      raise ValueError(f'log_every must be at least 1, got {self.log_every=}')


@dataclasses.dataclass(frozen=True)
class Result(Generic[State]):
  """How a run ended.

  Attributes:
    state: the last state; None for a dry run.
    step: number of finished steps.
    finished: False if it was asked to stop early, or did not train at all.
    seconds: time spent in training, all processes of this run's past included,
      without compilation, evaluation and checkpoints.
  """

  state: State | None
  step: int
  finished: bool
  seconds: float


def run(
  experiment: Experiment[State],
  config: LoopConfig,
  *,
  workdir: str | os.PathLike,
  seed: int,
  context: context_lib.RunContext = context_lib.RunContext(),
) -> Result[State]:
  """Trains, or continues to train, in `workdir`.

  Args:
    experiment: experiment to train.
    config: how long, and how often to report.
    workdir: folder of the run; made if missing.
    seed: recorded with the configuration.
    context: results of the command line.

  Returns:
    The last state and how the run ended.

  Raises:
    ValueError: if an interval is shorter than a step, the best checkpoint is
      asked for by an unknown metric, fewer steps are asked for than are done,
      `workdir` belongs to another process or holds a run of another
      configuration.
    NonFiniteError: if a step gave a metric that is not finite.
    MisfitError: if the checkpoint holds other parameters.
    CheckpointError: if a checkpoint cannot be written, or none can be read.
    UnwritableError: if another file cannot be written.
    MemoryError: if the state cannot fit any device.
    OutOfMemoryError: if the devices have too little memory.
  """
  context.check_config()
  schedule = _Schedule.of(experiment, config)
  abstract = abstract_state(experiment)
  memory.check_fits(
    summary.tree_bytes(abstract, experiment.shardings)
    + experiment.population_bytes // experiment.mesh.size
  )
  if context.dry_run:
    print(_dry_run_text(experiment, abstract, context))
    return Result(None, 0, finished=False, seconds=0.0)
  with (
    workdirs.claimed(workdir) as claim,
    preemption.listen() as stop,
    memory.shortage_told(),
    workdirs.writing_told(claim.folder),
    contextlib.ExitStack() as stack,
  ):
    _check_difference(claim.folder, seed, context)
    loop = _Loop(experiment, config, schedule, abstract, claim.folder, context)
    stack.callback(loop.close)
    provenance.write(claim.folder, seed, context)
    claim.keep()
    try:
      return loop.train(stop)
    except BaseException:
      with contextlib.suppress(OSError):  # The disk may be full.
        loop.write_status('failed')
      raise


def _check_difference(
  workdir: pathlib.Path, seed: int, context: context_lib.RunContext
) -> None:
  """Raises ValueError for a run of another configuration, unless allowed."""
  difference = provenance.difference(workdir, seed, context)
  if not difference:
    return
  if not context.allow_config_change:
    raise ValueError(
      f'{workdir} holds a run of another configuration, or an unknown one. '
      'Choose another --workdir, or continue it with --allow_config_change.\n'
      f'{difference}'
    )
  logging.warning('the configuration changes:\n%s', difference)


def _dry_run_text(
  experiment: Experiment, abstract: Any, context: context_lib.RunContext
) -> str:
  activations = experiment.activation_bytes
  return summary.dry_run_text(
    config=context.operative_config(),
    params=experiment.params(abstract),
    state=abstract,
    shardings=experiment.shardings,
    mesh=experiment.mesh,
    batch_size=experiment.batch_size,
    activation_bytes=None if activations is None else activations(),
    population_bytes=experiment.population_bytes,
  )


@dataclasses.dataclass(frozen=True)
class _Schedule:
  """Length and intervals of a run in steps; an interval may be the whole."""

  total: int
  eval_every: int
  save_every: int

  @classmethod
  def of(cls, experiment: Experiment, config: LoopConfig) -> '_Schedule':
    """Raises ValueError for settings that do not fit the experiment."""

    def steps(duration: durations.Duration) -> int:
      return duration.to_steps(
        batch_size=experiment.batch_size, num_examples=experiment.num_examples
      )

    total = steps(config.duration)
    found = {'eval_every': max(total, 1), 'checkpoint_every': max(total, 1)}
    for name in found:
      every = getattr(config, name)
      if every is not None and steps(every) < 1:
        raise ValueError(f'{name} must be at least 1 step, got {steps(every)}')
      if every is not None:
        found[name] = steps(every)
    experiment.check_metric(config.checkpoints.best_metric)
    return cls(total, found['eval_every'], found['checkpoint_every'])


class _Loop(Generic[State]):
  """One process's run of the loop, from restoring to the last save."""

  def __init__(
    self,
    experiment: Experiment[State],
    config: LoopConfig,
    schedule: _Schedule,
    abstract: State,
    workdir: pathlib.Path,
    context: context_lib.RunContext,
  ):
    self._experiment = experiment
    self._config = config
    self._schedule = schedule
    self._total = schedule.total
    self._context = context
    self._workdir = workdir
    self._program = Program(experiment)
    self._progress = writers.Progress(self._total)
    self._checkpoints = checkpoints_lib.Checkpoints(workdir, config.checkpoints)
    self._profiler = profiling.Profiler(workdir, context.profile_steps)
    try:
      self._state, record = self._restore_or_init(abstract)
    except BaseException:
      self._checkpoints.close()
      raise
    self._step: int = record['step']
    # Whether the evaluation of this step was interrupted, or failed.
    self._unevaluated: bool = record.get('unevaluated', False)
    self._seconds: float = record['seconds']
    self._metrics = metrics_lib.StepMetrics(
      self._program.packing, record['metrics']
    )
    self._writer = writers.MetricWriter(
      workdir, step=self._step, offset=record['metrics_offset']
    )
    self._trackers = trackers_lib.Trackers(config.trackers, workdir)
    self._timer = timer.StepTimer()

  def _restore_or_init(self, abstract: State) -> tuple[State, dict[str, Any]]:
    restored = self._checkpoints.restore(abstract)
    if restored is None:
      params = self._experiment.params(abstract)
      logging.info('%s', summary.parameter_overview(params))
      start = {'step': 0, 'seconds': 0.0, 'metrics': None, 'metrics_offset': 0}
      return self._first_state(), start
    step, state, record = restored
    if step > self._total:
      raise ValueError(
        f'the run in {self._workdir} has done {step} steps, more than the '
        f'{self._total} that are asked for; nothing was changed'
      )
    self._experiment.batches.set_state(record['batches'])
    self._progress.note(f'continuing after step {step} of {self._workdir}')
    if self._context.init_from:
      self._progress.note('its own checkpoint goes before --init_from')
    return state, record

  def _first_state(self) -> State:
    """A fresh state, perhaps with the parameters of another run."""
    state = self._program.init()
    source = self._context.init_from
    if not source:
      return state
    step, saved = checkpoints_lib.newest_arrays(paths.local(source))
    state, kept = warm_start.replace_params(
      state, self._experiment.params, saved
    )
    taken = f'parameters of step {step} of {source}'
    self._progress.note(f'starts from the {taken}')
    if kept:
      logging.warning(
        'these parameters are not among the %s, so they start anew:\n  %s',
        taken,
        '\n  '.join(kept),
      )
    return state

  def train(self, stop: preemption.StopRequest) -> Result[State]:
    """Runs to the end, or until asked to stop."""
    self._context.on_start()
    self._stop = stop
    first = self._step
    while self._unevaluated or self._step < self._total:
      if self._unevaluated:
        self._repeat_evaluation()
      else:
        self._profiler.before_step(self._step - first, self._state)
        self._one_step(timed=self._step > first)
        if self._step == first + 1:
          # The launcher's view of the configuration is complete only now.
          self._context.check_config()
      left = self._unevaluated or self._step < self._total
      if stop.reached(self._step) and left:
        self._save(None)
        self._checkpoints.wait()
        self.write_status('stopped')
        self._progress.note(
          f'{stop.signal_name}: saved step {self._step} of {self._total}; '
          'the same command continues the run'
        )
        return self._result(finished=False)
    self._checkpoints.wait()
    self.write_status('finished')
    return self._result(finished=True)

  def _result(self, *, finished: bool) -> Result[State]:
    seconds = self._seconds + self._timer.total
    return Result(self._state, self._step, finished, seconds)

  def _one_step(self, *, timed: bool) -> None:
    """Refresh, observe, draw, step, row, evaluate, save: the order matters."""
    self._state, batch = self._program.prepare(self._state, self._step)
    if not timed:
      self._first_step(batch)
    else:
      self._state, vector = self._program.step(self._state, batch)
      self._step += 1
      self._timer.steps += 1
      self._metrics.add(self._step, vector)
    done = self._step == self._total
    if self._step % self._config.log_every == 0 or done:
      self._write_row()
    evaluation = None
    if self._step % self._schedule.eval_every == 0 or done:
      evaluation = self._evaluate_or_save()
    if self._step % self._schedule.save_every == 0 or done:
      self._save(evaluation)

  def _first_step(self, batch: Any) -> None:
    """A step with its compilation, kept out of the step times."""
    start = time.perf_counter()
    self._state, vector = self._program.step(self._state, batch)
    self._step += 1
    self._metrics.add(self._step, vector)
    jax.block_until_ready(vector)
    seconds = time.perf_counter() - start
    self._progress.note(f'compiled the step in {seconds:.1f} s')
    self._timer.restart()

  def _write_row(self) -> None:
    values = self._metrics.pop()
    step_s = self._timer.lap()
    row = {f'train/{name}': value for name, value in values.items()}
    if step_s is not None:
      row['time/step_s'] = step_s
      row['time/examples_per_s'] = self._experiment.batch_size / step_s
    row |= profiling.memory_metrics()
    self._write(row)
    self.write_status('running', steps_per_s=step_s and 1 / step_s)
    if self._experiment.on_metrics is not None:
      self._experiment.on_metrics(values)
    shown = {k: values[k] for k in self._config.progress if k in values}
    self._progress.show(self._step, step_s, shown)

  def _write(self, row: Mapping[str, float]) -> None:
    """Adds the axes of curves other than steps: wall time and examples."""
    axes = {
      'time/unix_s': time.time(),
      'time/train_s': self._seconds + self._timer.total,
      'time/examples': self._step * self._experiment.batch_size,
    }
    self._writer.write(self._step, row | axes)
    self._trackers.write(self._step, row | axes)

  def write_status(self, state: str, **fields: Any) -> None:
    """Writes `status.json`; see `workdirs.write_status`."""
    saved = self._checkpoints.written()
    workdirs.write_status(
      self._workdir,
      state=state,
      step=self._step,
      total_steps=self._total,
      last_checkpoint=saved[-1] if saved else None,
      **fields,
    )

  def _repeat_evaluation(self) -> None:
    """Runs an interrupted evaluation again, and ranks the checkpoint by it."""
    evaluation = self._evaluate()
    if evaluation is not None and self._step in self._checkpoints.steps():
      self._checkpoints.rank(self._step, evaluation)

  def _evaluate_or_save(self) -> dict[str, float] | None:
    """Evaluates; if that fails, the steps until here are safe."""
    try:
      return self._evaluate()
    except metrics_lib.NonFiniteError:
      raise
    except Exception:
      self._save(None)
      self._checkpoints.wait()
      raise

  def _evaluate(self) -> dict[str, float] | None:
    """Scores of all evaluators; None if they were broken off."""
    if not self._experiment.evaluators:
      return {}
    self._metrics.drain()
    with self._timer.paused():
      start = time.perf_counter()
      try:
        self._unevaluated = True
        with self._stop.interruptible():
          row = self._experiment.evaluate(self._state)
        self._unevaluated = False
      except preemption.InterruptedByStop:
        return None
      self._experiment.check_metric(self._config.checkpoints.best_metric, row)
      self._write(row | {'time/eval_s': time.perf_counter() - start})
      shown = '  '.join(f'{name} {value:.4g}' for name, value in row.items())
      self._progress.note(f'step {self._step}  {shown}')
    return row

  def _save(self, evaluation: Mapping[str, float] | None) -> None:
    # Merging first also makes sure that no unsound state is saved.
    metrics = self._metrics.state()
    with self._timer.paused():
      record = {
        'step': self._step,
        'seconds': self._seconds + self._timer.total,
        'metrics': metrics,
        'metrics_offset': self._writer.offset(),
        'batches': self._experiment.batches.get_state(),
        'unevaluated': self._unevaluated,
        'config': self._context.operative_config(),
      }
      self._checkpoints.save(self._step, self._state, record, evaluation)

  def close(self) -> None:
    """Finishes writing; keeps the files consistent after an error."""
    self._profiler.close()
    self._progress.close()
    self._writer.close()
    self._trackers.close()
    self._checkpoints.close()
