"""OptFormer, a Transformer that tunes hyperparameters (arXiv:2205.13320)."""

PAPER = '2205.13320'
