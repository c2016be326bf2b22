"""Agents in the training loop: resuming, several agents, devices, actors."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rl import actors, rollout, training
from rl.envs import lanes, pendulum
from runtime import loop
from tests import experiments, marks, trees
from tests.rl import agent_cases
from tests.rl.envs import env_cases

ENV = env_cases.Scripted(length=3, max_steps=5)


def _trainer(num_agents=1, host=False, **settings):
  train, test = lanes.Lanes(ENV, 8), lanes.Lanes(ENV, 2)
  if host:
    train, test = agent_cases.Host(train), agent_cases.Host(test)
  return training.AgentTrainer(
    agent_cases.Counting(noise=0.3),
    train,
    {'test': test},
    num_agents=num_agents,
    **settings,
  )


_run = functools.partial(experiments.run, seed=0, every=3)


def _driven(trainer, steps, *, devices=1):
  """The state after some steps in memory."""
  experiment = experiments.of(trainer, devices=jax.devices()[:devices])
  return loop.drive(experiment, steps).state


@pytest.mark.parametrize('num_agents', [*marks.slow(1), 2])
def test_a_resumed_run_is_the_uninterrupted_one(tmp_path, num_agents):
  whole = _run(_trainer(num_agents), tmp_path / 'whole', 7)
  _run(_trainer(num_agents), tmp_path / 'parts', 3)
  parts = _run(_trainer(num_agents), tmp_path / 'parts', 7)
  trees.check_same(whole, parts)
  # The shorter run wrote a row and an evaluation at its own end.
  rows = experiments.rows(tmp_path / 'parts')
  assert [r for r in experiments.rows(tmp_path / 'whole') if r['step'] > 4] == [
    r for r in rows if r['step'] > 4
  ]


def test_agents_differ_and_are_counted_apart(tmp_path):
  state = _run(_trainer(2), tmp_path, 4)
  assert state.learner.bias.shape == (2,)
  assert state.learner.bias[0] != state.learner.bias[1]
  last = experiments.rows(tmp_path)[-1]
  experiments.check_declared(_trainer(2), last)
  apart = [last[f'eval/test/episode_return_agent0{i}'] for i in range(2)]
  np.testing.assert_allclose(last['eval/test/episode_return'], np.mean(apart))
  train = next(
    r for r in experiments.rows(tmp_path) if 'train/episode_return' in r
  )
  assert 'train/episode_return_agent01' in train
  assert 'train/episode_return_agent02' not in train


def test_iterations_in_one_program_are_the_same():
  one, three = (
    _driven(_trainer(2), 6),
    _driven(_trainer(2, iterations_per_step=3), 2),
  )
  trees.check_same(one, three)


@pytest.mark.parametrize(
  ('num_agents', 'devices'), [(2, 2), *marks.slow((1, 8), (8, 8))]
)
def test_devices_share_the_work(num_agents, devices):
  alone = _driven(_trainer(num_agents), 4)
  shared = _driven(_trainer(num_agents), 4, devices=devices)
  close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5)
  jax.tree.map(close, alone.learner, shared.learner)
  split = shared.stage.observation.sharding
  assert not split.is_fully_replicated


def test_what_cannot_be_shared_is_done_everywhere(caplog):
  experiment = experiments.of(_trainer(2), devices=jax.devices()[:3])
  assert 'num_agents=2 num_lanes=8 for 3' in caplog.text
  shardings = jax.tree.leaves(experiment.shardings)
  assert all(s.is_fully_replicated for s in shardings)


@pytest.mark.parametrize('pipelined', [*marks.slow(False), True])
def test_simulators_learn_from_the_parameters_they_should(tmp_path, pipelined):
  vector = agent_cases.Host(lanes.Lanes(ENV, 4))
  learner = agent_cases.CountingLearner(5)
  actor = actors.Actor(
    rollout.HostActor(vector, learner),
    key=jax.random.key(1),
    pipelined=pipelined,
  )
  used = []
  for k in range(5):
    actor.observe(jnp.float32(k))
    batch = next(actor)
    found = actors.time_major(batch)
    plain = found.extras['value'] - found.observation.sum(-1)
    # The value of a first step is the parameter, one for the memory, and what
    # was seen.
    used.append(np.median(plain[found.first]) - 1)
  actor.close()
  expected = [0, 0, 1, 2, 3] if pipelined else [0, 1, 2, 3, 4]
  np.testing.assert_allclose(used, expected, atol=0.2)


@pytest.mark.slow
def test_simulators_train_like_jax_environments(tmp_path):
  pure = _run(_trainer(), tmp_path / 'pure', 4)
  host = _run(_trainer(host=True, pipelined=False), tmp_path / 'host', 4)
  assert host.learner.seen == pure.learner.seen == 4 * 5 * 8
  names = [sorted(experiments.rows(tmp_path / n)[-1]) for n in ('pure', 'host')]
  assert names[0] == names[1]
  resumed = _run(_trainer(host=True), tmp_path / 'host', 6)
  assert resumed.learner.seen == 6 * 5 * 8


def test_an_actor_without_parameters_is_refused():
  vector = agent_cases.Host(lanes.Lanes(ENV, 4))
  host = rollout.HostActor(vector, agent_cases.CountingLearner(5))
  actor = actors.Actor(host, key=jax.random.key(1), pipelined=True)
  with pytest.raises(RuntimeError, match='observe'):
    next(actor)


def test_what_does_not_fit_is_refused():
  with pytest.raises(ValueError, match=r'num_agents=2.*training'):
    _trainer(2, host=True)
  with pytest.raises(ValueError, match='eval_episodes must be positive'):
    _trainer(eval_episodes=0)
  waiting = lanes.Lanes(ENV, 2, auto_reset=False)
  with pytest.raises(ValueError, match='must reset itself'):
    training.AgentTrainer(agent_cases.Counting(), waiting)
  other = lanes.Lanes(pendulum.Pendulum(), 2)
  trainer = training.AgentTrainer(
    agent_cases.Counting(), lanes.Lanes(ENV, 2), {'test': other}
  )
  with pytest.raises(ValueError, match=r"observation_space.*'test'"):
    _ = trainer.learner
