"""Experiments of trainers, for tests that look inside."""

from runtime.devices import mesh as mesh_lib


def of(trainer, *, seed=0, mesh=mesh_lib.MeshConfig(), devices=None):
  """The experiment of a trainer that holds nothing to be closed."""
  with trainer.experiment(seed=seed, mesh=mesh.make(devices)) as experiment:
    return experiment
