"""PPO: proximal policy optimisation (arXiv:1707.06347)."""

from rl.ppo.algorithm import PPO

__all__ = ['PPO']
