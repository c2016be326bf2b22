"""Experiment trackers beside `metrics.jsonl`, to watch many runs.

A tracker that fails does not end the run. One warning is logged, and the
tracker is left out from then on.
"""

import dataclasses
import json
import math
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import jax
from absl import logging

from runtime.record import writers

__all__ = ['MLflow', 'Tracker', 'Trackers', 'Writer']

_STATE = 'mlflow.json'


class Writer(Protocol):
  """Takes the rows of a run."""

  def write(self, step: int, values: Mapping[str, float]) -> None:
    """Takes one row; see `MetricWriter.write`."""

  def close(self) -> None:
    """Takes no more."""


Tracker = Callable[[pathlib.Path], Writer]


class Trackers:
  """The trackers of a run, on process 0.

  Args:
    trackers: the trackers to open.
    workdir: folder of the run.
  """

  def __init__(
    self, trackers: Sequence[Tracker], workdir: pathlib.Path
  ) -> None:
    self._writers: list[Writer] = []
    for tracker in trackers if jax.process_index() == 0 else ():
      self._try('open', lambda t=tracker: self._writers.append(t(workdir)))

  def write(self, step: int, values: Mapping[str, float]) -> None:
    """Hands a row to every tracker."""
    for writer in tuple(self._writers):
      if not self._try('write', lambda w=writer: w.write(step, values)):
        self._writers.remove(writer)

  def close(self) -> None:
    """Closes every tracker."""
    for writer in self._writers:
      self._try('close', writer.close)

  def _try(self, what: str, action: Callable[[], Any]) -> bool:
    """Tells whether an action of a tracker succeeded; logs if it did not."""
    try:
      action()
    # Trackers talk to servers: anything may happen there.
    except Exception as error:
      logging.warning('a tracker cannot %s and is left out: %s', what, error)
      return False
    return True


@dataclasses.dataclass(frozen=True)
class MLflow:
  """Logs to MLflow (extra `mlflow`); a resumed run continues its MLflow run.

  Attributes:
    uri: of the tracking server or a local database.
    experiment: its name; made if missing.
  """

  uri: str = 'sqlite:///mlflow.db'
  experiment: str = 'attune'

  def __call__(self, workdir: pathlib.Path) -> Writer:
    """Opens the run of a workdir.

    Raises:
      ImportError: without MLflow.
    """
    try:
      from mlflow.tracking import MlflowClient
    except ModuleNotFoundError as error:
      raise ImportError(
        "MLflow is missing: pip install 'attune[mlflow]' (extra `mlflow`)"
      ) from error
    client = MlflowClient(self.uri)
    path = workdir / _STATE
    kept = len(writers.read_metrics(workdir))
    if path.exists():
      return _MLflowWriter(client, path, kept, **json.loads(path.read_text()))
    found = client.get_experiment_by_name(self.experiment)
    number = found and found.experiment_id
    number = number or client.create_experiment(self.experiment)
    run = client.create_run(
      number, run_name=workdir.name, tags={'workdir': str(workdir)}
    )
    return _MLflowWriter(client, path, kept, run_id=run.info.run_id, logged=0)


class _MLflowWriter:
  """Logs every row once, also those that a resumed run computes again."""

  def __init__(
    self,
    client: Any,
    path: pathlib.Path,
    rows: int,
    *,
    run_id: str,
    logged: int,
  ) -> None:
    self._client = client
    self._path = path
    self._run_id = run_id
    self._rows = rows  # In `metrics.jsonl`.
    self._logged = logged  # May be more: a kill takes rows back.
    self._save()

  def write(self, step: int, values: Mapping[str, float]) -> None:
    self._rows += 1
    if self._rows <= self._logged:
      return
    from mlflow.entities import Metric

    now = int(1000 * values.get('time/unix_s', 0))
    metrics = [
      Metric(name, float(value), now, step)
      for name, value in values.items()
      if math.isfinite(value)
    ]
    self._client.log_batch(self._run_id, metrics)
    self._logged = self._rows
    self._save()

  def _save(self) -> None:
    state = {'run_id': self._run_id, 'logged': self._logged}
    self._path.write_text(json.dumps(state) + '\n')

  def close(self) -> None:
    self._client.set_terminated(self._run_id)
