"""Every kind of agent, as it ships: a run that was stopped is the whole run."""

import pytest

from rl import train_lib
from runtime.config import sessions
from tests import experiments

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


@pytest.mark.slow
@pytest.mark.parametrize('name', list(_SHORTER))
def test_bit_by_bit(name, tmp_path):
  train = lambda steps, workdir: _train(name, steps, workdir)
  rows = experiments.check_resumes(train, tmp_path)
  assert any('eval/' in ' '.join(row) for row in rows)
