"""ES-ENAS in the training loop: every way to run it, reports, resumption."""

import dataclasses
import functools
import json

import jax
import numpy as np
import optax
import pytest

from nas.es_enas import (
  controllers,
  edges,
  partitions,
  policies,
  scores,
  training,
)
from nas.es_enas import search as search_lib
from rl.envs import lanes
from rl.es import backends, cma, population, strategy
from rl.es import policies as rl_policies
from runtime import context
from runtime import trainer as trainer_lib
from runtime.config import sessions
from runtime.devices import mesh as mesh_lib
from runtime.loop import program as program_lib
from runtime.record import metrics as metrics_lib
from tests import experiments, trees
from tests.rl.es import es_cases


def _masked(**options):
  """A mask, a score and a front; tests that share it share its programs."""
  policy = functools.partial(
    policies.feed_forward, sharing=edges.Mask(), hidden=(2,)
  )
  return _trainer(
    policy=policy,
    score=scores.Product(target=2.0),
    front=search_lib.Front(capacity=4),
    **options,
  )


def _trainer(*, host=False, small=False, **options):
  env = es_cases.Drift()
  config = strategy.ESConfig(4, 0.1, normalize=True)
  found = {
    'env': lanes.Lanes(env, 4) if host else env,
    'policy': functools.partial(
      policies.feed_forward, sharing=partitions.Partition(2), hidden=(2,)
    ),
    'strategy': strategy.Strategy(config, optax.adam(0.05)),
    'controller': controllers.Evolution,
    'eval_episodes': 4,
    # A choice has as many episodes as the random architectures of the report,
    # and the winner: one program for all.
    'proposals': 15,
    'choice_episodes': 4,
    'final_episodes': 64,
  }
  if host:
    found['evaluator'] = backends.Lanes()
  if small:
    found['strategy'] = cma.CMAES(0.3, 6)
  return training.ESENASTrainer(**found | options)


def _pyglove():
  pyglove = pytest.importorskip('pyglove')
  from nas.es_enas.controllers import pyglove as adapter

  algorithm = pyglove.evolution.regularized_evolution(
    population_size=8, tournament_size=3
  )
  return functools.partial(adapter.PyGlove, algorithm=algorithm, history=8)


# By name, makers: nothing is built while tests are collected.
WAYS = {
  'one program': _trainer,
  'lanes': lambda: _trainer(host=True),
  'CMA-ES': lambda: _trainer(small=True),
  'PyGlove': lambda: _trainer(controller=_pyglove()),
}


def _run(workdir, trainer, steps):
  return trainer_lib.train(
    workdir=str(workdir),
    trainer=trainer,
    loop=experiments.loop_of(steps),
    seed=3,
    context=context.RunContext(),
  )


def test_a_state_that_was_saved_goes_on_as_it_would_have():
  """And members of a generation are counted once."""
  trainer = _masked()
  mesh = mesh_lib.MeshConfig().make(jax.devices()[:1])
  with trainer.experiment(seed=0, mesh=mesh) as experiment:
    # One program for all of them.
    program = program_lib.Program(experiment)
    counted = metrics_lib.StepMetrics(program.packing)

    def driven(state, steps):
      for step in range(steps):
        state, batch = program.prepare(state, step)
        state, metrics = program.step(state, batch)
        counted.add(step, metrics)
      return state

    whole = driven(program.init(), 4)
    half = driven(program.init(), 2)
    scores = experiment.evaluate(half)
    parts = driven(half, 2)
  trees.check_same(whole, parts)
  assert experiment.batch_size == 8
  assert counted.pop()['environment_steps'] <= 8 * 7
  assert np.isfinite(scores['eval/center/episode_return'])


@pytest.mark.slow
@pytest.mark.parametrize('way', WAYS)
def test_a_run_that_was_stopped_is_the_whole_run(way, tmp_path, one_device):
  if way == 'CMA-ES':
    pytest.importorskip('cmaes')
  trainer = WAYS[way]()
  whole = _run(tmp_path / 'whole', trainer, 4).state
  _run(tmp_path / 'parts', WAYS[way](), 2)
  parts = _run(tmp_path / 'parts', WAYS[way](), 4).state
  trees.check_same(whole, parts)
  rows = [
    json.loads(line)
    for line in (tmp_path / 'whole/metrics.jsonl').read_text().splitlines()
  ]
  last = {name: value for row in rows for name, value in row.items()}
  assert np.isfinite(last['eval/center/episode_return'])
  experiments.check_declared(trainer, last)
  assert 0 <= last['train/architecture_diversity'] <= 1
  written = json.loads(
    (tmp_path / 'whole/report/architecture.json').read_text()
  )
  space = trainer.fitted_policy.space
  architecture = space.from_json(written['architecture'])
  costs = trainer.fitted_policy.costs(architecture)
  assert written['costs']['bits'] == costs['bits']
  table = (tmp_path / 'whole/report/architectures.csv').read_text()
  assert 'random, same theta' in table
  assert (
    'share of the controller'
    in (tmp_path / 'whole/report/controller.csv').read_text()
  )


@pytest.mark.slow
@pytest.mark.pictures
def test_the_report_shows_the_front_and_the_network(tmp_path, one_device):
  trainer = _masked()
  state = _run(tmp_path, trainer, 2).state
  assert state.front.used.any()
  report = tmp_path / 'report'
  written = {path.name for path in report.iterdir()}
  assert {'front.png', 'network.png', 'weights.png'} <= written
  # Evaluations show the architecture of the report.
  evaluator = trainer.evaluator(env=trainer.env, policy=trainer.fitted_policy)
  _, shown = population.all_members(trainer.center(state, evaluator), 3)
  told = json.loads((report / 'architecture.json').read_text())
  space = trainer.fitted_policy.space
  expected = space.from_json(told['architecture'])
  np.testing.assert_array_equal(shown, np.tile(expected, (3, 1)))


def test_a_policy_without_a_space_is_refused():
  with pytest.raises(ValueError, match='SharedPolicy'):
    _trainer(policy=functools.partial(rl_policies.MLP, hidden=()))


def test_a_restored_trainer_keeps_the_settings_of_its_controller():
  """It makes the policy and the controller after the session is over."""
  with sessions.session(
    trainer_lib.train,
    ['configs/nas/es_enas_mask_tiny.gin'],
    ['controllers.HillClimb.again = True', 'HIDDEN = (3,)'],
  ) as parsed:
    trainer = parsed.arguments()['trainer']
  changed = dataclasses.replace(trainer, eval_episodes=7)
  assert changed.search(0).controller.again
  assert changed.fitted_policy.space == trainer.fitted_policy.space
