"""Runs of ES, with and without a controller of architectures, on one task."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from nas.es_enas import controllers, policies, scores, selection, sharing
from nas.es_enas import training as enas_training
from papers import rows, study
from rl.es import estimators, jax_evaluator, policy_training, strategy
from rl.es import evaluator as evaluator_lib
from rl.es import search as search_lib
from rl.es import training as es_training
from runtime import loop
from runtime.devices import mesh as mesh_lib

__all__ = ['Setting', 'levels', 'run', 'trainer']

# Generations whose mean return is the level of a run.
_LAST = 10


@dataclasses.dataclass(frozen=True)
class Setting:
  """A search."""

  env: Callable[[], Any]  # Makes the task.
  # Which edges there are, and which weights they share.
  sharing: sharing.Sharing
  # Makes the controller; None: plain ES, of one architecture.
  controller: Callable[..., controllers.Controller] | None = None
  # Makes what runs rollouts; see `rl.es.training.ESTrainer`.
  evaluator: Callable[..., Any] = jax_evaluator.JaxEvaluator
  generations: int = 80  # Of a run.
  pairs: int = 24  # Directions per generation.
  sigma: float = 0.1  # Of perturbations.
  rate: float = 0.25  # Step size.
  optimizer: Callable[[float], Any] = optax.sgd  # Makes it of the step size.
  # Turns returns into a gradient.
  estimator: estimators.Estimator = dataclasses.field(
    default_factory=estimators.TopPairs
  )
  hidden: tuple[int, ...] = ()  # Widths of the hidden layers.
  residual: bool = False  # See `networks.FeedForward`; as the next.
  # Functions of hidden nodes; more than one are to be chosen.
  operations: tuple[Any, ...] = (jnp.tanh,)
  paired: bool = True  # Whether both members of a pair have one architecture.
  # Whether all members of a generation meet the same ones.
  same_environments: bool = False
  init_scale: float = 0.1  # Standard deviation of the first weights.
  score: scores.Score | None = None  # What is maximised; None: the return.
  keep: int | None = None  # Edges that are left of a masked policy in the end.
  episodes: int = 48  # That judge the final policy.


def trainer(setting: Setting) -> policy_training.PolicyTrainer:
  """The trainer of a setting; without a controller that of plain ES."""
  config = strategy.ESConfig(setting.pairs, setting.sigma, setting.estimator)
  optimizer = setting.optimizer(setting.rate)
  common = {
    'env': setting.env(),
    'policy': functools.partial(
      policies.feed_forward,
      sharing=setting.sharing,
      hidden=setting.hidden,
      residual=setting.residual,
      operations=setting.operations,
      init_scale=setting.init_scale,
    ),
    'evaluator': setting.evaluator,
    'eval_episodes': setting.episodes,
  }
  if setting.controller is None:
    return es_training.ESTrainer(config=config, optimizer=optimizer, **common)
  return enas_training.ESENASTrainer(
    strategy=strategy.Strategy(config, optimizer),
    controller=setting.controller,
    paired=setting.paired,
    same_environments=setting.same_environments,
    score=setting.score,
    **common,
  )


def run(setting: Setting, *, seed: int) -> study.Record:
  """Returns of the populations; return and costs of the final policy."""
  made, mesh = trainer(setting), mesh_lib.MeshConfig().make()
  with made.opened(seed=seed, mesh=mesh) as (experiment, evaluator, _):
    silent = dataclasses.replace(experiment, evaluators={})
    count = setting.generations
    driven = loop.drive(silent, count, records=count)
    policy, member = _chosen(setting, made, driven.state, evaluator)
    if setting.keep is not None:
      evaluator = setting.evaluator(
        env=made.env, policy=policy, mesh=None, clip=None
      )
    final = _returns(evaluator, driven.state, member, setting.episodes)
  returns = driven.column('train/episode_return')
  record = {
    'returns': returns,
    'level': np.mean(returns[-_LAST:]),
    'final': final.mean(),
    'steps': np.sum(driven.column('train/environment_steps')),
  }
  name = 'train/architecture_diversity'
  if name in driven.rows[-1]:
    record['diversity'] = driven.column(name)
  costs = jax.device_get(policy.costs(member[1]))
  return record | {name: float(value) for name, value in costs.items()}


def _chosen(
  setting: Setting,
  made: policy_training.PolicyTrainer,
  state: search_lib.State,
  evaluator: evaluator_lib.Evaluator,
) -> tuple[policies.SharedPolicy, policies.Member]:
  """The policy and its member that a run ends with."""
  policy, architecture = made.fitted_policy, jnp.zeros(0, jnp.int32)
  if setting.keep is not None:
    return policies.thresholded(policy, state.theta, count=setting.keep)
  if setting.controller is not None:
    search = made.search(0)
    architecture = selection.choose(search, state, evaluator, episodes=4)
  return policy, (state.theta, architecture)


def _returns(
  evaluator: evaluator_lib.Evaluator,
  state: search_lib.State,
  member: policies.Member,
  episodes: int,
) -> np.ndarray:
  theta, architecture = member
  # No generation has this number.
  keys = jax.random.split(jax.random.fold_in(state.key, 2**31 - 2), episodes)
  returns = selection.returns_of(
    evaluator, state, architecture[None], keys, theta[None]
  )
  return np.asarray(returns[0], np.float64)


# The levels of the populations, and the final policies' returns.
levels = rows.numbers(
  'level', 'final', names={'level': 'population'}, form='{arm}, {metric}'
)
