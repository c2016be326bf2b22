"""RL-DARTS: differentiable architecture search inside agents."""

from nas.rl_darts.bilevel import alpha_gradient, alpha_optimizer, partitioned
from nas.rl_darts.cells import Cell
from nas.rl_darts.genotype import CellGenotype, Genotype
from nas.rl_darts.networks import (
  Classic,
  Masked,
  Micro,
  PISACEncoder,
  Relaxed,
)
from nas.rl_darts.probabilities import alphas
from nas.rl_darts.recurrent import CellGRU
from nas.rl_darts.search import Search
from nas.rl_darts.spaces import CLASSIC, CLASSIC_POOL, MICRO, RNN, CellSpace

__all__ = [
  'CLASSIC',
  'CLASSIC_POOL',
  'MICRO',
  'RNN',
  'Cell',
  'CellGRU',
  'CellGenotype',
  'CellSpace',
  'Classic',
  'Genotype',
  'Masked',
  'Micro',
  'PISACEncoder',
  'Relaxed',
  'Search',
  'alpha_gradient',
  'alpha_optimizer',
  'alphas',
  'partitioned',
]
