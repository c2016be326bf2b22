"""Rainbow: distributional Q-learning with its improvements (arXiv:1710.02298)."""

from rl.exploration import Linear, Powers
from rl.rainbow.rainbow import Rainbow, procgen

__all__ = ['Linear', 'Powers', 'Rainbow', 'procgen']
