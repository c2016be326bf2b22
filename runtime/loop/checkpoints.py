"""Checkpoints by Orbax: the last ones and the best, written asynchronously.

A checkpoint holds the state of the trainer and a small record of the loop
(position of the data iterator, metric-log offset, timers, configuration).
"""

import contextlib
import dataclasses
import json
import math
import os
import pathlib
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import logging
from orbax.checkpoint import checkpoint_managers as policies

from runtime import errors

__all__ = [
  'CheckpointConfig',
  'CheckpointError',
  'Checkpoints',
  'MisfitError',
  'dotted',
  'newest_arrays',
]

State = TypeVar('State')
Found = TypeVar('Found')
Record = dict[str, Any]


class CheckpointError(errors.RunError):
  """A checkpoint could not be written, or not be read."""


class MisfitError(errors.RunError):
  """The parameters of a checkpoint are not those of the configuration."""


@dataclasses.dataclass(frozen=True)
class CheckpointConfig:
  """The rule by which checkpoints are kept.

  Attributes:
    keep: number of newest checkpoints that stay.
    best_metric: name of a metric in the rows of the evaluation, such as
      'eval/valid/loss'; its best checkpoint stays too. None: only the
      newest stay.
    best_mode: 'min' or 'max'.
  """

  keep: int = 3
  best_metric: str | None = None
  best_mode: str = 'min'

  def __post_init__(self) -> None:
    if self.keep < 2:
      # With one only, a damaged newest checkpoint would lose the run.
      raise ValueError(f'keep must be at least 2, got {self.keep=}')
    if self.best_mode not in ('min', 'max'):
      raise ValueError(
        f"best_mode must be 'min' or 'max', got {self.best_mode!r}"
      )

  def preservation(self) -> policies.PreservationPolicy:
    """The same as a policy of Orbax."""
    latest = policies.LatestN(self.keep)
    if self.best_metric is None:
      return latest
    best = policies.BestN(
      get_metric_fn=self.rank,
      reverse=self.best_mode == 'min',
      n=1,
      keep_checkpoints_without_metrics=False,
    )
    return policies.AnyPreservationPolicy([latest, best])

  def rank(self, metrics: Mapping[str, float | None]) -> float:
    """The metric of a checkpoint; the worst value if it was not evaluated."""
    value = metrics[self.best_metric]
    worst = math.inf if self.best_mode == 'min' else -math.inf
    return worst if value is None else value


class Checkpoints:
  """The checkpoints of one run, under `workdir/checkpoints`.

  Args:
    workdir: folder of the run.
    config: which checkpoints stay.
    read_only: nothing is written, moved or removed.
  """

  def __init__(
    self,
    workdir: str | os.PathLike,
    config: CheckpointConfig,
    *,
    read_only: bool = False,
  ):
    self._config = config
    self._read_only = read_only
    self._path = (pathlib.Path(workdir) / 'checkpoints').absolute()
    self._manager = self._open()
    self._filter = None
    if not read_only:
      # Each failing thread of Orbax logs a long traceback of an error that the
      # next save, or `wait`, raises.
      self._filter = lambda record: (
        not (record.exc_info and 'orbax' in record.pathname)
      )
      logging.get_absl_logger().addFilter(self._filter)

  def _open(self) -> ocp.CheckpointManager:
    best = self._config.best_metric
    options = ocp.CheckpointManagerOptions(
      preservation_policy=self._config.preservation(),
      # Metrics go to disk, where a restarted run finds them, only with it.
      best_fn=None if best is None else self._config.rank,
      best_mode=self._config.best_mode,
      cleanup_tmp_directories=not self._read_only,
      enable_async_checkpointing=not self._read_only,
      read_only=self._read_only,
      save_interval_steps=0 if self._read_only else 1,
      create=not self._read_only,
      # A damaged ranking hides no state from readers.
      lightweight_initialize=self._read_only,
    )
    # The manager reads the ranking of every checkpoint when it is made.
    first = jax.process_index() == 0 and not self._read_only
    self._move_aside(self._without_ranking() if first else [])
    handlers = {
      'state': ocp.StandardCheckpointHandler(),
      'loop': ocp.JsonCheckpointHandler(),
    }
    with _quiet() if self._read_only else contextlib.nullcontext():
      return ocp.CheckpointManager(
        self._path, options=options, item_handlers=handlers
      )

  def _without_ranking(self) -> list[int]:
    """Steps whose metrics file is there and cannot be read."""
    found = []
    for path in self._path.glob('*/metrics/metrics'):
      try:
        json.loads(path.read_text())
      except ValueError as error:
        step = int(path.parts[-3])
        _warn(_unreadable(step, self._path, error))
        found.append(step)
    return found

  def save(
    self,
    step: int,
    state: Any,
    record: Record,
    metrics: Mapping[str, float] | None,
  ) -> None:
    """Starts to write a checkpoint; a step that has one is left alone.

    Args:
      step: number of finished steps.
      state: the state of the trainer, any pytree of arrays.
      record: data that the loop needs to continue; must fit JSON.
      metrics: evaluation results at this very step, if there are any.

    Raises:
      CheckpointError: if this checkpoint, or the one before, cannot be written.
    """
    if step in self._manager.all_steps():
      return
    with self._told(f'the checkpoint of step {step}'):
      self._manager.save(
        step,
        args=ocp.args.Composite(
          state=ocp.args.StandardSave(state), loop=ocp.args.JsonSave(record)
        ),
        metrics=self._ranking(metrics or {}),
      )

  def _ranking(self, metrics: Mapping[str, float]) -> dict[str, Any] | None:
    """The metrics for Orbax, which would warn about a step without any."""
    best = self._config.best_metric
    if best is None:
      return None
    value = metrics.get(best)
    return {best: value if value is None or math.isfinite(value) else None}

  def rank(self, step: int, metrics: Mapping[str, float]) -> None:
    """Ranks a checkpoint that was written before its evaluation ended.

    Args:
      step: has a checkpoint.
      metrics: evaluation results at that step.
    """
    self.wait()
    path = self._path / str(step) / 'metrics' / 'metrics'
    if jax.process_index() == 0 and path.exists():
      temporary = path.with_name('metrics.tmp')
      temporary.write_text(json.dumps(self._ranking(metrics)))
      temporary.replace(path)
    if jax.process_count() > 1:
      ocp.multihost.sync_global_processes('checkpoint ranked')
    self._manager.reload()

  @contextlib.contextmanager
  def _told(self, what: str) -> Iterator[None]:
    """Turns the long errors of Orbax and its threads into one line."""
    try:
      yield
    # They come as ValueError, OSError, XlaRuntimeError and others.
    except Exception as error:
      kept = self.steps()
      raise CheckpointError(
        f'{what} cannot be written to {self._path}: {_first_line(error)}; '
        + (f'step {kept[-1]} is the last that is safe' if kept else 'none is')
      ) from error

  def restore(self, abstract_state: State) -> tuple[int, State, Record] | None:
    """Restores the newest checkpoint that can be read.

    A damaged checkpoint is moved aside, with a warning, as soon as an older one
    has been read.

    Args:
      abstract_state: shapes, dtypes and shardings of the state.

    Returns:
      (step, state, record), or None if there is no checkpoint.

    Raises:
      MisfitError: if the newest one holds arrays of other names or shapes.
      CheckpointError: if there are checkpoints and none can be read.
    """
    steps = self._manager.all_steps()
    if not steps:
      return None
    read = lambda step: self.read(step, abstract_state)
    step, (state, record), damaged = _newest(self._path, steps, read)
    if damaged:
      self._set_aside(damaged)
    return step, state, record

  def _check_fits(self, step: int, abstract_state: Any) -> None:
    """Raises MisfitError if a checkpoint holds other arrays than a state."""
    found = self._manager.item_metadata(step).state
    there, here = _shapes(found.tree), _shapes(abstract_state)
    lines = [
      f'{name}: {there.get(name, "missing")} there, '
      f'{here.get(name, "missing")} here'
      for name in sorted(there | here)
      if there.get(name) != here.get(name)
    ]
    if there and lines:  # Damage leaves no names at all.
      more = f'\n  and {len(lines) - 3} more' if len(lines) > 3 else ''
      raise MisfitError(
        f'the checkpoint of step {step} in {self._path} does not fit:\n  '
        + '\n  '.join(lines[:3])
        + more
      )

  def read(self, step: int, abstract_state: State) -> tuple[State, Record]:
    """Reads one checkpoint.

    Args:
      step: has a checkpoint.
      abstract_state: shapes, dtypes and shardings of the state.

    Returns:
      (state, record).

    Raises:
      MisfitError: if it holds arrays of other names or shapes.
      CheckpointError: if it is damaged.
    """
    with _damage_told(step, self._path):
      self._check_fits(step, abstract_state)
      restored = self._manager.restore(
        step,
        args=ocp.args.Composite(
          state=ocp.args.StandardRestore(abstract_state),
          loop=ocp.args.JsonRestore(),
        ),
      )
    return restored.state, restored.loop

  def _set_aside(self, steps: Sequence[int]) -> None:
    """Frees the names of damaged checkpoints and keeps their files."""
    self._manager.close()
    self._move_aside(steps)
    self._manager = self._open()

  def _move_aside(self, steps: Sequence[int]) -> None:
    """Moves checkpoints where no manager finds them; on process 0."""
    if jax.process_index() == 0 and steps:
      folder = self._path.with_name('checkpoints_damaged')
      folder.mkdir(exist_ok=True)
      for step in steps:
        target = folder / str(step)
        shutil.rmtree(target, ignore_errors=True)
        shutil.move(self._path / str(step), target)
    if jax.process_count() > 1:
      ocp.multihost.sync_global_processes('damaged checkpoints set aside')

  def steps(self) -> list[int]:
    """Steps that have a checkpoint, oldest first."""
    return sorted(self._manager.all_steps())

  def written(self) -> list[int]:
    """The same without one that is being written."""
    saving = self._manager.is_saving_in_progress()
    return self.steps()[:-1] if saving else self.steps()

  def best_step(self) -> int | None:
    """The kept step with the best metric, if one was ranked.

    Raises:
      CheckpointError: if a ranking is damaged.
    """
    name, ranked = self._config.best_metric, {}
    for step in self.steps():
      with _damage_told(step, self._path):
        metrics = self._manager.metrics(step)
      if metrics and metrics[name] is not None:
        ranked[step] = metrics[name]
    if not ranked:
      return None
    choose = min if self._config.best_mode == 'min' else max
    return choose(ranked, key=ranked.get)

  def wait(self) -> None:
    """Returns once everything is on disk.

    Raises:
      CheckpointError: if it cannot be written.
    """
    with self._told('the last checkpoint'):
      self._manager.wait_until_finished()

  def close(self) -> None:
    """Waits until all checkpoints are written."""
    try:
      self.wait()
    finally:
      self._manager.close()
      if self._filter is not None:
        logging.get_absl_logger().removeFilter(self._filter)


def newest_arrays(
  workdir: str | os.PathLike,
) -> tuple[int, dict[str, np.ndarray]]:
  """Reads the newest checkpoint of a run without its configuration.

  One that is damaged is passed over, with a warning.

  Args:
    workdir: folder of the run.

  Returns:
    (step, arrays of the state by their dotted names).

  Raises:
    ValueError: if there is no checkpoint.
    CheckpointError: if none can be read.
  """
  folder = pathlib.Path(workdir).absolute() / 'checkpoints'
  steps = [int(p.name) for p in folder.glob('*') if p.name.isdigit()]
  if not steps:
    raise ValueError(f'{workdir} has no checkpoint')
  step, state, _ = _newest(folder, steps, lambda step: _state(folder, step))
  leaves = jax.tree_util.tree_leaves_with_path(state)
  return step, {
    dotted(path): np.asarray(leaf)
    for path, leaf in leaves
    if not jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
  }


def _state(folder: pathlib.Path, step: int) -> Any:
  """The state of a checkpoint, whatever its structure."""
  path = folder / str(step) / 'state'
  with (
    _damage_told(step, folder),
    ocp.StandardCheckpointer() as reader,
    _quiet(),
  ):
    # On devices of this host: the mesh may be another than that of the run.
    here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    shapes = jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=here),
      reader.metadata(path).item_metadata.tree,
    )
    return reader.restore(path, shapes)


def _newest(
  folder: pathlib.Path, steps: Collection[int], read: Callable[[int], Found]
) -> tuple[int, Found, list[int]]:
  """Reads the newest checkpoint that is not damaged.

  Args:
    folder: of the checkpoints.
    steps: that have one; not empty.
    read: reads a step.

  Returns:
    (step, what was read, newer steps, which are damaged).

  Raises:
    CheckpointError: if all are damaged.
  """
  damaged: dict[int, CheckpointError] = {}
  for step in sorted(steps, reverse=True):
    try:
      return step, read(step), list(damaged)
    except CheckpointError as error:
      damaged[step] = error
      _warn(error)
  newest = max(damaged)
  raise CheckpointError(
    f'no checkpoint in {folder} can be read: train anew, in another workdir; '
    f'the newest, {newest}, says: {_first_line(damaged[newest].__cause__)}'
  )


@contextlib.contextmanager
def _damage_told(step: int, folder: pathlib.Path) -> Iterator[None]:
  """Turns the errors of a damaged checkpoint into a CheckpointError."""
  try:
    yield
  except MisfitError:
    raise
  # Orbax and TensorStore report damage by many types, Exception included.
  except Exception as error:
    raise _unreadable(step, folder, error) from error


def _unreadable(
  step: int, folder: pathlib.Path, error: Exception
) -> CheckpointError:
  return CheckpointError(
    f'checkpoint {step} in {folder} cannot be read ({_first_line(error)})'
  )


def _warn(damage: CheckpointError) -> None:
  logging.warning('%s; trying the one before', damage)


def dotted(path: tuple[Any, ...]) -> str:
  """The name of a leaf, such as `params.blocks.kernel`."""
  return jax.tree_util.keystr(path, simple=True, separator='.')


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
  """Drops Orbax's warnings about reading only."""
  drop = lambda record: False
  logger = logging.get_absl_logger()
  logger.addFilter(drop)
  try:
    yield
  finally:
    logger.removeFilter(drop)


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
  """Shapes of all arrays by their dotted names."""
  tree = jax.tree.map(
    lambda x: (
      jax.eval_shape(jax.random.key_data, x)
      if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key)
      else x
    ),
    tree,
  )
  return {
    dotted(path): tuple(leaf.shape)
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
  }


def _first_line(error: Exception) -> str:
  """The type and the first line, whose end, of a long one, is the cause."""
  line = (str(error).splitlines() or [''])[0]
  if len(line) > 240:
    line = f'{line[:80]} ... {line[-160:]}'
  return f'{type(error).__name__}: {line}'
