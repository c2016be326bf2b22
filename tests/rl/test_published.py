"""Configurations with published settings build what was published."""

import jax.numpy as jnp
import pytest

from rl import train_lib, training
from rl.es import shaping
from rl.es import training as es_training
from runtime.config import sessions


class _BuiltError(Exception):
  """There is a trainer: nothing more is to run."""


@pytest.fixture
def build(monkeypatch):
  """The trainer of a configuration."""
  made = []

  def watch(kind):
    experiment = kind.experiment

    def stop(trainer, **arguments):
      with experiment(trainer, **arguments):
        made.append(trainer)
        raise _BuiltError

    monkeypatch.setattr(kind, 'experiment', stop)

  watch(training.AgentTrainer)
  watch(es_training.ESTrainer)

  def build(name):
    files = [f'configs/rl/{name}.gin']
    with (
      sessions.session(train_lib.train, files) as parsed,
      pytest.raises(_BuiltError),
    ):
      parsed.build(workdir='unused', seed=0)
    return made.pop()

  return build


def test_es_of_es_enas(build):
  """arXiv:2101.07415, the code's config.py: 2 n + n_exact = 450 episodes."""
  pytest.importorskip('envpool')
  trainer = build('es_halfcheetah')
  config = trainer.config
  assert (config.num_pairs, config.center_evaluations) == (150, 150)
  assert (config.sigma, config.normalize) == (0.1, True)
  assert config.estimator.mirrored
  assert config.estimator.count_center
  assert config.estimator.shaping is shaping.z_score
  assert trainer.fitted_policy.size == 17 * 6
  # Plain gradient ascent at a rate of 0.01.
  theta = jnp.ones(3)
  step, _ = trainer.optimizer.update(theta, trainer.optimizer.init(theta))
  assert step.tolist() == pytest.approx([-0.01] * 3)


def test_es_of_implicit_attention(build):
  """All 32 directions of a generation are one orthogonal block."""
  trainer = build('es_swingup')
  config = trainer.config
  assert (config.num_pairs, config.sigma) == (32, 0.05)
  assert config.directions.kind == 'orthogonal'
  assert config.directions.rows_per_block(trainer.fitted_policy.size) == 32
  assert config.estimator.mirrored
  ranks = config.estimator.shaping(
    jnp.array([4.0, 1.0, 2.0]), jnp.ones(3, bool)
  )
  assert ranks.tolist() == [0.5, -0.5, 0.0]
  # Adam's first step is the learning rate, whatever the gradient.
  theta = jnp.full(3, 7.0)
  step, _ = trainer.optimizer.update(theta, trainer.optimizer.init(theta))
  assert step.tolist() == pytest.approx([-0.02] * 3, rel=1e-4)


def test_sac_of_rl_darts(build):
  """arXiv:2106.02229, the code's pisac.gin: one update a step, from states."""
  pytest.importorskip('envpool')
  trainer = build('sac_swingup')
  learner = trainer.learner
  settings = learner.settings
  assert (learner.num_updates, learner.unroll_length) == (1, 1)
  assert (settings.batch_size, settings.learning_rate) == (256, 3e-4)
  assert (settings.discount, settings.tau) == (0.99, 0.005)
  assert learner.target_entropy == -learner.policy.size / 2
  assert learner.policy.hidden == learner.critic.hidden == (256, 256)
  assert learner.replay.length * learner.replay.num_lanes == 100_000
  assert settings.random_steps == settings.min_replay == 1000
  assert trainer.eval_envs['greedy'].num_lanes == 10
