"""Settings out of their range are errors that name them."""

import functools
import math

import numpy as np
import optax
import pytest

from rl import ppo, rainbow, ranges, sac
from rl.envs import lanes, pendulum
from rl.es import directions, jax_evaluator, policies, strategy, training
from rl.replay import buffer

POLICY = functools.partial(policies.MLP, hidden=(2,))
TASK = pendulum.Pendulum()
FITTED = POLICY(TASK.observation_space, TASK.action_space)


def test_rules():
  ranges.check_counts(a=1, b=np.int64(3), c=None, d=(), e=(2, 1))
  ranges.check_counts(least=0, a=0)
  ranges.check_positive(a=1e-9, b=None, c=np.float32(2), d=lambda step: -1)
  ranges.check_not_negative(a=0, b=0.0)
  ranges.check_shares(a=0, b=1, c=0.5)
  for check, value, rule in (
    (ranges.check_counts, 0, 'must be positive'),
    (ranges.check_counts, 2.0, 'a whole number'),
    (ranges.check_counts, True, 'a whole number'),
    (ranges.check_counts, (3, -1), 'must be positive'),
    (functools.partial(ranges.check_counts, least=0), -1, 'not be negative'),
    (functools.partial(ranges.check_counts, least=2), 1, 'at least 2'),
    (functools.partial(ranges.check_counts, up_to=4), (4, 5), 'at most 4'),
    (ranges.check_positive, 0, 'positive'),
    (ranges.check_positive, math.inf, 'finite'),
    (ranges.check_positive, math.nan, 'finite'),
    (ranges.check_not_negative, -1e-9, 'not be negative'),
    (ranges.check_not_negative, math.nan, 'finite'),
    (ranges.check_shares, 1.1, r'in \[0, 1\]'),
    (ranges.check_shares, math.nan, r'in \[0, 1\]'),
  ):
    with pytest.raises(ValueError, match=rf'this .*{rule}.*got this='):
      check(this=value)


def _trainer(**settings):
  config = strategy.ESConfig(num_pairs=2)
  return training.ESTrainer(TASK, POLICY, config, optax.sgd(1.0), **settings)


@pytest.mark.parametrize('make', [optax.sgd, optax.adam])
def test_an_optimizer_that_climbs_is_refused(make):
  """Returns are maximised by descending what is minus their gradient."""
  config = strategy.ESConfig(num_pairs=2)
  for rate in (0.1, 0.0, optax.linear_schedule(0.0, 0.1, 5)):
    training.ESTrainer(TASK, POLICY, config, make(rate))
  with pytest.raises(ValueError, match='learning_rate must not be negative'):
    training.ESTrainer(TASK, POLICY, config, make(-0.1))


@pytest.mark.parametrize(
  ('make', 'settings'),
  [
    (
      ppo.PPO,
      {
        'unroll_length': (0, -1),
        'num_minibatches': (0,),
        'num_epochs': (0,),
        'learning_rate': (-1e-3, math.nan),
        'adam_eps': (-1e-5,),
        'entropy_cost': (-0.01,),
        'value_cost': (-0.5,),
        'value_clip': (0.0,),
        'trace': (1.5,),
      },
    ),
    (
      rainbow.Rainbow,
      {
        'hidden': ((0,),),
        'n_step': (0,),
        'capacity': (-1,),
        'batch_size': (0, -32),
        'unroll_length': (0,),
        'samples_per_insert': (0.0,),
        'learning_rate': (-1e-3,),
        'weight_exponent': (-0.4,),
        'weight_exponent_last': (-1.0,),
        'initial_priority': (0.0,),
        'discount': (1.1,),
        'max_grad_norm': (0.0,),
      },
    ),
    (
      sac.SAC,
      {
        'hidden': ((64, 0),),
        'batch_size': (0,),
        'capacity': (0,),
        'unroll_length': (-1,),
        'updates_per_step': (0.0, -1.0),
        'random_steps': (-1,),
        'learning_rate': (-1e-3,),
        'temperature': (0.0,),
        'tau': (0.0, 1.5),
        'discount': (-0.1,),
      },
    ),
    (
      functools.partial(strategy.ESConfig, num_pairs=2),
      {
        'center_evaluations': (-1,),
        'guides': (-1,),
        'sigma': (0.0, -0.1, math.nan),
      },
    ),
    (strategy.ESConfig, {'num_pairs': (0, -3)}),
    (directions.Directions, {'block': (0,), 'guide': (2.0,)}),
    (_trainer, {'eval_episodes': (-1,), 'clip': (0.0,)}),
    (
      functools.partial(buffer.Replay, num_lanes=2, unroll_length=1),
      {'length': (0,)},
    ),
    (functools.partial(lanes.Lanes, TASK), {'num_lanes': (0, -2)}),
    (functools.partial(lanes.Lanes, TASK, 2), {'max_steps': (0, -1)}),
    (
      functools.partial(jax_evaluator.JaxEvaluator, TASK, FITTED),
      {'episodes': (0,), 'max_steps': (-5,)},
    ),
  ],
)
def test_settings(make, settings):
  for name, values in settings.items():
    for value in values:
      with pytest.raises(ValueError, match=rf'^{name} must .*got {name}='):
        make(**{name: value})


def test_a_horizon_of_no_steps_is_refused():
  task = pendulum.Pendulum(max_steps=0)
  for make in (
    lambda: lanes.Lanes(task, 2),
    lambda: jax_evaluator.JaxEvaluator(task, FITTED),
  ):
    with pytest.raises(ValueError, match=r'max_steps.* must be positive.*0$'):
      make()
