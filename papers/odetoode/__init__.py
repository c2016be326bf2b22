"""An Ode to an ODE (arXiv:2006.11421)."""

PAPER = '2006.11421'
