"""Hyperparameter optimisation and automated reinforcement learning."""
