"""Policies that look at few patches of a picture (arXiv:2102.04353)."""
