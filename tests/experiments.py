"""Experiments of trainers, for tests that look inside."""

import json

import jax
import numpy as np

from runtime.devices import mesh as mesh_lib


def of(trainer, *, seed=0, mesh=mesh_lib.MeshConfig(), devices=None):
  """The experiment of a trainer that holds nothing to be closed."""
  with trainer.experiment(seed=seed, mesh=mesh.make(devices)) as experiment:
    return experiment


def check_scores(trainer, row):
  """Every metric of a row of evaluations was declared before it ran."""
  declared = of(trainer).scores
  names = [name.removeprefix('eval/') for name in row if name[:5] == 'eval/']
  assert names
  for evaluator, _, metric in (name.rpartition('/') for name in names):
    assert metric in declared[evaluator]


def _bits(leaf):
  if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
    leaf = jax.random.key_data(leaf)
  return np.asarray(leaf)


def _rows(workdir, after):
  lines = (workdir / 'metrics.jsonl').read_text().splitlines()
  rows = [
    {k: v for k, v in json.loads(line).items() if not k.startswith('time/')}
    for line in lines
  ]
  return [row for row in rows if row['step'] > after]


def check_resumes(train, workdir):
  """A run of 4 steps that was stopped after 2 is the uninterrupted one.

  Args:
    train: of steps and a workdir; returns the last state.
    workdir: empty folder; the resumed run is in 'parts'.

  Returns:
    The rows of metrics after the stop.
  """
  whole = train(4, workdir / 'whole')
  train(2, workdir / 'parts')
  parts = train(4, workdir / 'parts')
  leaves, others = jax.tree.leaves(whole), jax.tree.leaves(parts)
  assert len(leaves) == len(others) > 2
  for one, two in zip(leaves, others, strict=True):
    np.testing.assert_array_equal(_bits(one), _bits(two))
  expected = _rows(workdir / 'whole', 2)
  assert _rows(workdir / 'parts', 2) == expected
  return expected
