"""Rethinking Attention with Performers (arXiv:2009.14794)."""

PAPER = '2009.14794'
