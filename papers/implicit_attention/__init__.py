"""Implicit attention policies and hybrid features (arXiv:2102.04353, 2110.04367)."""

PAPER = '2102.04353'
