"""Runs of ES on policies from pictures, and what they reach elsewhere."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import optax
from flax import linen as nn

from papers import evolution, study, training
from rl.envs import scenes
from rl.es import estimators, jax_evaluator, population, shaping, strategy
from rl.es import search as search_lib
from rl.es import training as es_training
from rl.implicit_attention import policies

__all__ = ['Setting', 'random_return', 'run']


@dataclasses.dataclass(frozen=True)
class Setting:
  """A search; its sizes are those of configs/rl/iap_dodge_tiny.gin."""

  env: scenes.PixelEnvironment  # The task, as it is trained on.
  front: nn.Module  # What the policy makes of a picture.
  # More environments in which the final policy is judged, by name.
  tests: Mapping[str, scenes.PixelEnvironment] = dataclasses.field(
    default_factory=dict
  )
  ordered: tuple[int, ...] | None = None  # See `policies.PixelPolicy`.
  generations: int = 100  # Of a run.
  pairs: int = 32  # Directions per generation.
  sigma: float = 0.1  # Of perturbations.
  rate: float = 0.05  # Step size of Adam.
  episodes: int = 64  # That judge the final policy in each environment.


def _trainer(setting: Setting) -> es_training.ESTrainer:
  estimator = estimators.Antithetic(shaping=shaping.centered_ranks)
  return es_training.ESTrainer(
    env=setting.env,
    policy=functools.partial(
      policies.PixelPolicy, front=setting.front, ordered=setting.ordered
    ),
    config=strategy.ESConfig(
      setting.pairs, setting.sigma, estimator, normalize=False
    ),
    optimizer=optax.adam(setting.rate),
    eval_episodes=setting.episodes,
  )


def run(setting: Setting, *, seed: int) -> study.Record:
  """Trains a policy; the seed is of parameters, perturbations and episodes.

  Returns:
    `returns`, the mean return of every population; `final`, that of the final
    policy in its own environment; and the same in each of `tests`, by name. All
    are judged in episodes of the same keys.
  """
  made, count = _trainer(setting), setting.generations
  driven = training.driven(made, seed=seed, steps=count, records=count)
  return {'returns': driven.column('train/episode_return')} | {
    name: _final(setting, made, env, driven.state)
    for name, env in {'final': setting.env, **setting.tests}.items()
  }


def _final(
  setting: Setting,
  made: es_training.ESTrainer,
  env: Any,
  state: search_lib.State,
) -> float:
  """Mean return of the final policy in an environment."""
  evaluator = jax_evaluator.JaxEvaluator(env=env, policy=made.fitted_policy)
  # No generation has this number.
  key = jax.random.fold_in(state.key, 2**31 - 2)
  keys = jax.random.split(key, setting.episodes)
  found = evaluator.evaluate(population.Repeated(state.theta), keys, None)
  return float(np.mean(found.returns))


def random_return(setting: Setting) -> study.Record:
  """Mean return of random actions."""
  return evolution.random_return(_trainer(setting))
