"""Sums over features: what a kernel is, they do not know."""
