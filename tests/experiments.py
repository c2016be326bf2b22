"""Experiments of trainers, for tests that look inside."""

import contextlib

import jax
import pytest

from runtime import loop as loop_lib
from runtime.devices import mesh as mesh_lib
from runtime.loop import durations, warm_start
from runtime.record import pictures, writers
from tests import trees


def of(trainer, *, seed=0, mesh=mesh_lib.MeshConfig(), devices=None):
  """The experiment of a trainer that holds nothing to be closed."""
  with trainer.experiment(seed=seed, mesh=mesh.make(devices)) as experiment:
    return experiment


def loop_of(steps, *, every=2, log_every=2):
  """A loop that evaluates and saves as often as is said."""
  every = durations.Duration(steps=every)
  return loop_lib.LoopConfig(
    durations.Duration(steps=steps),
    log_every=log_every,
    eval_every=every,
    checkpoint_every=every,
  )


def run(
  trainer,
  workdir,
  steps,
  *,
  seed=3,
  mesh=mesh_lib.MeshConfig(),
  devices=1,
  **options,
):
  """The last state of a run without a report, by `loop_of` these options."""
  config, mesh = loop_of(steps, **options), mesh.make(jax.devices()[:devices])
  with trainer.experiment(seed=seed, mesh=mesh) as experiment:
    return loop_lib.run(experiment, config, workdir=workdir, seed=seed).state


def check_declared(trainer, row):
  """Metrics of a row of evaluations, and the parameters that others inherit."""
  experiment = of(trainer)
  declared = experiment.scores
  names = [name.removeprefix('eval/') for name in row if name[:5] == 'eval/']
  assert names
  for evaluator, _, metric in (name.rpartition('/') for name in names):
    assert metric in declared[evaluator]
  if experiment.inheritable:
    state = jax.eval_shape(experiment.init)
    with pytest.raises(ValueError, match='no parameter fits'):
      warm_start.replace_params(state, experiment.params, {})


def rows(workdir, after=-1):
  """Rows of metrics after a step, without what no two runs share."""
  return [
    {k: v for k, v in row.items() if not k.startswith(('time/', 'memory/'))}
    for row in writers.read_metrics(workdir)
    if row['step'] > after
  ]


@contextlib.contextmanager
def _all_programs_cached():
  """Runs of one trainer compile each program once, small ones too."""
  name = 'jax_persistent_cache_min_compile_time_secs'
  before = getattr(jax.config, name)
  jax.config.update(name, 0.0)
  try:
    yield
  finally:
    jax.config.update(name, before)


def check_resumes(train, workdir):
  """A run of 4 steps that was stopped after 2 is the uninterrupted one.

  Args:
    train: of steps and a workdir; returns the last state.
    workdir: empty folder; the resumed run is in 'parts'.

  Returns:
    The rows of metrics after the stop.
  """
  with pytest.MonkeyPatch.context() as patch, _all_programs_cached():
    # One run with pictures is enough.
    patch.setattr(pictures, 'can_draw', lambda: False)
    whole = train(4, workdir / 'whole')
    train(2, workdir / 'parts')
    patch.undo()
    parts = train(4, workdir / 'parts')
  assert len(jax.tree.leaves(whole)) > 2
  trees.check_same(whole, parts)
  expected = rows(workdir / 'whole', 2)
  assert rows(workdir / 'parts', 2) == expected
  return expected
