"""Flax models built on the fast attention of `performer.attention`."""
