"""Automated reinforcement learning: a survey and open problems (arXiv:2201.03916)."""

PAPER = '2201.03916'
