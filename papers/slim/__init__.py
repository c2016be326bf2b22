"""Sub-Linear Memory: How to Make Performers SLiM (arXiv:2012.11346)."""

PAPER = '2012.11346'
