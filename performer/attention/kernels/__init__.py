"""Kernels: each is one object that knows its draw, its maps and its errors."""
