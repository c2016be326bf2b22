"""Evolution strategies and CMA-ES: for policies, and for plain functions.

A search asks for the returns of a population and is told them (`search`); an
evaluator runs the rollouts (`evaluator`). The other modules are the mathematics.
"""

from rl.es.cma import CMAES
from rl.es.evaluator import Evaluation
from rl.es.minimizing import Minimum, minimize
from rl.es.strategy import ESConfig, Strategy

__all__ = [
  'CMAES',
  'ESConfig',
  'Evaluation',
  'Minimum',
  'Strategy',
  'minimize',
]
