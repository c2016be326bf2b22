"""Attention on given queries and keys: errors, norms, matrices."""
