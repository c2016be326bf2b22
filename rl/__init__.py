"""Reinforcement learning: environments, evolution strategies and learners."""
