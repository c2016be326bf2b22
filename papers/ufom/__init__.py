"""UFOM: unbiased first-order methods (arXiv:2106.02487)."""
