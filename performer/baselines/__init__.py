"""Attention to compare with, in the same models; see README.md of performer."""
