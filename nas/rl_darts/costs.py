"""What the networks of an agent cost: numbers to train, and work for an action."""

import dataclasses
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from nas.rl_darts import networks, probabilities, search
from rl import learner as learner_lib
from rl import training
from rl.envs import protocol
from runtime.devices import counting

__all__ = ['Cost', 'agent_cost', 'trained_cost']


class Cost(NamedTuple):
  """Of all networks of an agent.

  Attributes:
    parameters: numbers in them, logits included.
    multiply_adds: of matrix products and convolutions, for one action; what a
      convolution reads beyond the border counts too.
  """

  parameters: float
  multiply_adds: float


def agent_cost(
  agent: learner_lib.Algorithm, env: protocol.VectorEnvironment
) -> Cost:
  """Counted without running anything.

  Args:
    agent: settings.
    env: has the lanes to learn in.
  """
  space, key = env.observation_space, jax.random.key(0)
  learner = agent.learner(space, env.action_space, env.num_lanes)
  state = jax.eval_shape(learner.init, key)
  flops = counting.matmul_flops(
    lambda state, seen: learner.greedy(
      learner.acting(state),
      learner.initial_memory(1),
      seen,
      jnp.ones(1, bool),
      key,
    ),
    state,
    jax.ShapeDtypeStruct((1, *space.shape), space.dtype),
  )
  leaves = jax.tree.leaves(jax.eval_shape(learner.params, state))
  return Cost(sum(math.prod(leaf.shape) for leaf in leaves), flops / 2)


def trained_cost(
  trainer: training.AgentTrainer, state: training.TrainState
) -> Cost:
  """That of the agents of a run, such as random cells: the mean.

  Args:
    trainer: its settings.
    state: of training.
  """
  found = [agent_cost(a, trainer.env) for a in _agents(trainer, state)]
  return Cost(*np.mean(found, axis=0).tolist())


def _agents(
  trainer: training.AgentTrainer, state: training.TrainState
) -> list[Any]:
  """Agents of different cost; masked cells as the discrete ones that they are."""
  agent = trainer.algorithm
  masked = {
    name: part
    for name in search.PARTS
    if isinstance(part := getattr(agent, name, None), networks.Derivable)
    and isinstance(part.architecture, networks.Masked)
  }
  if not masked:
    return [agent]
  masks = probabilities.alphas(trainer.learner.params(state.learner))
  each = [masks]
  if trainer.num_agents > 1:
    each = [
      jax.tree.map(lambda x, i=i: x[i], masks)
      for i in range(trainer.num_agents)
    ]
  return [dataclasses.replace(agent, **_discrete(masked, m)) for m in each]


def _discrete(masked: dict[str, Any], masks: PyTree) -> dict[str, Any]:
  """Parts of an agent with the genotypes of their masks."""
  return {
    name: masked[name].clone(architecture=masked[name].derive(kinds))
    for path, kinds in masks.items()
    for name in masked.keys() & set(path.split('/'))
  }
