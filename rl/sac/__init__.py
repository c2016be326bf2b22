"""Soft actor-critic: continuous actions, off policy."""
