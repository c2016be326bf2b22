"""UFOM: unbiased first-order methods (arXiv:2106.02487)."""

PAPER = '2106.02487'
