"""Rainbow: distributional Q-learning with its improvements (arXiv:1710.02298)."""

from rl.rainbow.algorithm import Rainbow, procgen
from rl.rainbow.schedules import Linear, Powers

__all__ = ['Linear', 'Powers', 'Rainbow', 'procgen']
