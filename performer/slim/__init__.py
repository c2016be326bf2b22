"""Exact gradients of long sequences in sub-linear memory (arXiv:2012.11346)."""

from performer.slim.gradients import (
  STRATEGIES,
  Gradients,
  Outputs,
  slim_apply,
  slim_loss,
  slim_value_and_grad,
)
from performer.slim.problem import Chunk, Problem

__all__ = [
  'STRATEGIES',
  'Chunk',
  'Gradients',
  'Outputs',
  'Problem',
  'slim_apply',
  'slim_loss',
  'slim_value_and_grad',
]
