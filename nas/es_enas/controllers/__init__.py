"""Controllers: they propose architectures, and learn from scores (`base`)."""

from nas.es_enas.controllers.autoregressive import Autoregressive
from nas.es_enas.controllers.base import Controller
from nas.es_enas.controllers.evolution import Evolution
from nas.es_enas.controllers.hill_climb import HillClimb
from nas.es_enas.controllers.neat import Neat
from nas.es_enas.controllers.policy_gradient import PolicyGradient
from nas.es_enas.controllers.pyglove import PyGlove, from_pyglove
from nas.es_enas.controllers.uniform import Random

__all__ = [
  'Autoregressive',
  'Controller',
  'Evolution',
  'HillClimb',
  'Neat',
  'PolicyGradient',
  'PyGlove',
  'Random',
  'from_pyglove',
]
