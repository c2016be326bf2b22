"""PPO: proximal policy optimisation (arXiv:1707.06347)."""

from rl.ppo.ppo import PPO

__all__ = ['PPO']
