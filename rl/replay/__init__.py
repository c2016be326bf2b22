"""Replay in JAX: a ring of steps per lane, sampled by priority."""
