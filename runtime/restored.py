"""A trained run, from its workdir alone.

```python
import runtime

with runtime.restore('runs/protein_mlm_tiny', step='best') as run:
  print(run.step, run.trainer, run.experiment.evaluate(run.state))
```
"""

import contextlib
import dataclasses
import pathlib
import re
import types
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
from absl import logging

from runtime import loop as loop_lib
from runtime import paths
from runtime import trainer as trainer_lib
from runtime.config import sessions
from runtime.devices import mesh as mesh_lib
from runtime.loop import checkpoints as checkpoints_lib
from runtime.loop import program
from runtime.record import writers

__all__ = ['Configuration', 'Restored', 'configuration', 'restore']

_SEED = re.compile(r'# seed = (\d+)\n')


@dataclasses.dataclass(frozen=True)
class Restored:
  """A run that can be looked at, evaluated and used.

  It is its own context: `close`, or the end of a `with` block, stops the
  simulators and workers that it needs.

  Attributes:
    workdir: folder of the run.
    config: its configuration, as gin text.
    seed: its seed.
    trainer: its settings.
    experiment: opened; has the evaluators.
    state: of the checkpoint.
    step: of the checkpoint.
    seconds: time in training until there.
  """

  workdir: pathlib.Path
  config: str
  seed: int
  trainer: Any
  experiment: loop_lib.Experiment
  state: Any
  step: int
  seconds: float
  _stack: contextlib.ExitStack = dataclasses.field(repr=False)

  def finished(self) -> loop_lib.Finished:
    """The run as tables and pictures need it; see `Experiment.tables`."""
    rows = [
      r for r in writers.read_metrics(self.workdir) if r['step'] <= self.step
    ]
    return loop_lib.Finished(self.state, rows, self.seconds)

  def close(self) -> None:
    """Stops the simulators and workers of the experiment."""
    self._stack.close()

  def __enter__(self) -> 'Restored':
    return self

  def __exit__(self, *error: types.TracebackType | None) -> None:
    self.close()


def restore(
  workdir: str,
  *,
  step: int | str = 'latest',
  params: Sequence[str] = (),
  allow_module: Sequence[str] = (),
  devices: Sequence[jax.Device] | None = None,
  **settings: Any,
) -> Restored:
  """Restores a run: its trainer, and the state of a checkpoint.

  Nothing is written to the workdir, and it may belong to a running process.

  Args:
    workdir: folder of the run.
    step: of the checkpoint, or 'latest', or 'best' by the run's `best_metric`.
    params: gin statements that change the configuration, such as
      "EVAL_EPISODES = 100". The parameters must keep their shapes.
    allow_module: modules that the configuration may name; see `config.trust`.
    devices: to use; None: all. Their number may differ from that of training.
    **settings: fields of the trainer to replace, such as `eval_episodes=100`.

  Returns:
    The run.

  Raises:
    ValueError: if the folder holds no run or no such checkpoint, or the trainer
      has no such setting.
    MisfitError: if the checkpoint holds other parameters than the configuration.
    CheckpointError: if it is damaged; names another one.
  """
  folder = paths.local(workdir)
  config = configuration(folder)
  with sessions.session(
    trainer_lib.train, [folder / 'config.gin'], params, allow=allow_module
  ) as parsed:
    found = parsed.arguments()
  trainer = _changed(found['trainer'], settings)
  mesh = _mesh(found.get('mesh', mesh_lib.MeshConfig()), devices)
  with contextlib.ExitStack() as stack:
    opened = trainer.experiment(seed=config.seed, mesh=mesh)
    experiment = stack.enter_context(opened)
    saved = checkpoints_lib.Checkpoints(
      folder, found['loop'].checkpoints, read_only=True
    )
    stack.callback(saved.close)
    number = _step(saved, step, folder)
    state, record = _read(saved, number, program.abstract_state(experiment))
    return Restored(
      folder, config.text, config.seed, trainer, experiment, state, number,
      record['seconds'], stack.pop_all(),
    )  # fmt: skip


class Configuration(NamedTuple):
  """The configuration of a run.

  Attributes:
    text: gin statements.
    seed: of the run.
  """

  text: str
  seed: int


def configuration(folder: pathlib.Path) -> Configuration:
  """Reads `config.gin` of a run.

  Raises:
    ValueError: if the folder holds no run.
  """
  path = folder / 'config.gin'
  text = path.read_text() if path.is_file() else ''
  first = _SEED.match(text)
  if not first:
    raise ValueError(f'{folder} holds no run: it has no config.gin of one')
  return Configuration(text[first.end() :], int(first[1]))


def _changed(trainer: Any, settings: dict[str, Any]) -> Any:
  known = [f.name for f in dataclasses.fields(trainer) if f.init]
  unknown = sorted(settings.keys() - set(known))
  if unknown:
    raise ValueError(
      f'{type(trainer).__name__} has no {", ".join(unknown)}; it has {known}'
    )
  return dataclasses.replace(trainer, **settings) if settings else trainer


def _mesh(
  config: mesh_lib.MeshConfig, devices: Sequence[jax.Device] | None
) -> jax.sharding.Mesh:
  """The mesh of the run; one device, where its axes fit no number of ours."""
  found = jax.devices() if devices is None else list(devices)
  try:
    return config.make(found)
  except ValueError as error:
    logging.warning(
      'one device is used, as the mesh of the run fits none: %s', error
    )
    return mesh_lib.MeshConfig().make(found[:1])


def _step(
  saved: checkpoints_lib.Checkpoints, step: int | str, folder: pathlib.Path
) -> int:
  steps = saved.steps()
  if not steps:
    raise ValueError(f'{folder} has no checkpoint')
  found = steps[-1] if step == 'latest' else step
  if step == 'best':
    found = saved.best_step()
  if found is None:
    raise ValueError(
      f'no checkpoint of {folder} is ranked: its configuration sets no '
      "best_metric, or nothing was evaluated; use step='latest'"
    )
  if found not in steps:
    raise ValueError(f'{folder} has no checkpoint {step!r}; it has {steps}')
  return found


def _read(
  saved: checkpoints_lib.Checkpoints, step: int, abstract_state: Any
) -> tuple[Any, checkpoints_lib.Record]:
  """Reads a checkpoint; says which other one there is if it is damaged."""
  try:
    return saved.read(step, abstract_state)
  except checkpoints_lib.CheckpointError as error:
    others = [other for other in saved.steps() if other != step]
    hint = f'; try step={others[-1]}' if others else ''
    raise checkpoints_lib.CheckpointError(f'{error}{hint}') from error
