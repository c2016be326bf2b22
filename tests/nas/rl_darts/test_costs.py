"""What networks cost, against the formulas of the paper's networks."""

import dataclasses

import jax
import numpy as np
import pytest

from nas.rl_darts import (
  costs,
  genotype,
  networks,
  probabilities,
  search,
  spaces,
)
from rl import networks as rl_networks
from rl import ppo, training
from rl.envs import grid_levels, lanes
from tests.nas.rl_darts import darts_cases

DEPTHS, DENSE, SIDE = (4, 8), 16, 10
SPACE = dataclasses.replace(spaces.MICRO, nodes=2)
ENV = lanes.Lanes(grid_levels.GridLevels(size=SIDE), 4)


def _heads(width):
  """Weights and biases of the policy and the value."""
  return (width + 1) * (ENV.action_space.n + 1)


def _impala():
  """Parameters, and multiply-adds for a picture."""
  side, below, params, work = SIDE, 3, 0, 0
  for depth in DEPTHS:
    params += 9 * below * depth + depth + 4 * (9 * depth**2 + depth)
    work += side**2 * 9 * below * depth
    side, below = -(-side // 2), depth
    work += 4 * side**2 * 9 * depth**2
  flat = side**2 * below
  params += flat * DENSE + DENSE + _heads(DENSE)
  work += flat * DENSE + DENSE * (ENV.action_space.n + 1)
  return params, work


def _cost(encoder, **settings):
  return costs.agent_cost(ppo.PPO(encoder=encoder, **settings), ENV)


def test_impala_costs_what_its_layers_do():
  found = _cost(rl_networks.ImpalaCNN(DEPTHS, dense=DENSE))
  assert found == _impala()


def test_forms_of_a_supernet_have_one_cost():
  """Without its search, with it, by products or by convolutions."""
  micro = networks.Micro(depths=DEPTHS, dense=DENSE, space=SPACE)
  both = {_cost(micro.clone(products=products)) for products in (True, False)}
  agent = search.Search(ppo.PPO(encoder=micro), iterations=4)
  assert both == {costs.agent_cost(agent, ENV)}
  params, work = _impala()
  assert (both := both.pop()).parameters > params
  assert both.multiply_adds > work


@pytest.mark.parametrize('num_agents', [1, 2])
def test_masked_cells_cost_what_they_do_alone(num_agents):
  """And not what the supernet does that computes them."""
  micro = networks.Micro(depths=(4,), dense=DENSE, space=SPACE)
  masked = ppo.PPO(encoder=micro.clone(architecture=networks.Masked()))
  # The first cell has no convolution, the second no other operation.
  bias = 9 * (np.array(SPACE.ops) == 'Conv3x3')
  cells = [
    genotype.discretise(
      {'edges': darts_cases.logits(SPACE, n)['edges'] + (2 * n - 1) * bias},
      SPACE,
    )
    for n in range(num_agents)
  ]
  masks = np.stack([cell.mixing()['edges'] for cell in cells])
  trainer = training.AgentTrainer(masked, ENV, num_agents=num_agents)
  state = jax.eval_shape(lambda: trainer._init(0))
  learner = jax.tree_util.tree_map_with_path(
    lambda path, leaf: (
      masks.reshape(leaf.shape) if probabilities.is_alpha(path) else leaf
    ),
    state.learner,
  )
  found = costs.trained_cost(trainer, state.replace(learner=learner))
  each = [
    _cost(micro.clone(architecture=genotype.Genotype.of({'normal': cell})))
    for cell in cells
  ]
  assert len(set(each)) == num_agents
  assert found == tuple(np.mean(each, axis=0))
