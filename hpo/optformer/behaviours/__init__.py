"""The seven algorithms whose studies OptFormer learns from, batched in JAX.

  history = behaviours.run(
    behaviours.BEHAVIOURS[4], key, cube, objective, trials=40)

Each algorithm is written for one study over the unit cube; `jax.vmap` makes a
batch. `floors` has the exact likelihoods of their proposals.

Reference: arXiv:2205.13320, Appendix B.1.
"""

from hpo.optformer.behaviours.cube import Cube
from hpo.optformer.behaviours.eagle import EagleStrategy
from hpo.optformer.behaviours.evolution import RegularizedEvolution
from hpo.optformer.behaviours.gp_ucb import GpUcb
from hpo.optformer.behaviours.grid_search import GridSearch, ShuffledGridSearch
from hpo.optformer.behaviours.hill_climb import HillClimb
from hpo.optformer.behaviours.one_of import OneOf
from hpo.optformer.behaviours.protocol import Behaviour, History, run
from hpo.optformer.behaviours.random_search import RandomSearch

__all__ = [
  'BEHAVIOURS',
  'Behaviour',
  'Cube',
  'EagleStrategy',
  'GpUcb',
  'GridSearch',
  'HillClimb',
  'History',
  'OneOf',
  'RandomSearch',
  'RegularizedEvolution',
  'ShuffledGridSearch',
  'run',
]

# In the order of the paper; study number n is of algorithm n mod 7.
BEHAVIOURS: tuple[Behaviour, ...] = (
  GridSearch(),
  ShuffledGridSearch(),
  RandomSearch(),
  RegularizedEvolution(),
  HillClimb(),
  EagleStrategy(),
  GpUcb(),
)
