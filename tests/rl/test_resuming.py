"""Every kind of agent, as it ships: a run that was stopped is the whole run."""

import json

import jax
import numpy as np
import pytest

from rl import train_lib
from runtime.config import sessions

# As they ship, but for how long they learn and are looked at.
_SHORTER = {
  'cma_pendulum_tiny': ['cma_training.CMATrainer.film = None'],
  'es_pendulum_tiny': ['training.ESTrainer.film = None'],
  'ppo_cartpole_tiny': [
    'training.AgentTrainer.film = None',
    'training.AgentTrainer.iterations_per_step = 2',
    'eval/lanes.Lanes.num_lanes = 4',
  ],
  'rainbow_cartpole_tiny': [
    'training.AgentTrainer.film = None',
    'training.AgentTrainer.iterations_per_step = 8',
    'rainbow.Rainbow.min_replay = 200',
    'eval/lanes.Lanes.num_lanes = 4',
  ],
  'sac_pendulum_tiny': [
    'training.AgentTrainer.film = None',
    'training.AgentTrainer.iterations_per_step = 30',
    'sac.SAC.min_replay = 200',
    'sac.SAC.random_steps = 200',
    'eval/lanes.Lanes.num_lanes = 4',
  ],
}


def _train(name, steps, workdir):
  params = [
    *_SHORTER[name],
    f'STEPS = {steps}',
    'LOG_EVERY = 2',  # Rows are means since the last: no interval may be cut.
    'EVAL_EVERY = 2',
  ]
  with sessions.session(
    train_lib.train, [f'configs/rl/{name}.gin'], params
  ) as parsed:
    return parsed.build(workdir=str(workdir), seed=3).state


def _rows(workdir):
  lines = (workdir / 'metrics.jsonl').read_text().splitlines()
  return [
    {k: v for k, v in json.loads(line).items() if not k.startswith('time/')}
    for line in lines
  ]


def _bits(leaf):
  if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
    leaf = jax.random.key_data(leaf)
  return np.asarray(leaf)


@pytest.mark.slow
@pytest.mark.parametrize('name', list(_SHORTER))
def test_bit_by_bit(name, tmp_path):
  whole = _train(name, 4, tmp_path / 'whole')
  _train(name, 2, tmp_path / 'parts')
  parts = _train(name, 4, tmp_path / 'parts')
  leaves, others = jax.tree.leaves(whole), jax.tree.leaves(parts)
  assert len(leaves) == len(others) > 2
  for one, two in zip(leaves, others, strict=True):
    np.testing.assert_array_equal(_bits(one), _bits(two))
  late = lambda rows: [row for row in rows if row['step'] > 2]
  expected = late(_rows(tmp_path / 'whole'))
  assert any('eval/' in ' '.join(row) for row in expected)
  assert late(_rows(tmp_path / 'parts')) == expected
