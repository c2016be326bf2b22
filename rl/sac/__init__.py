"""SAC: soft actor-critic for continuous control (arXiv:1812.05905)."""

from rl.sac.sac import SAC

__all__ = ['SAC']
