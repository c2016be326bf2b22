"""Exact gradients of long sequences in sub-linear memory (arXiv:2012.11346)."""

from performer.slim.gradients import (
  Gradients,
  Outputs,
  slim_apply,
  slim_loss,
  slim_value_and_grad,
)
from performer.slim.planner import Candidate, Plan, plan
from performer.slim.problem import Chunk, Problem
from performer.slim.strategies import STRATEGIES

__all__ = [
  'STRATEGIES',
  'Candidate',
  'Chunk',
  'Gradients',
  'Outputs',
  'Plan',
  'Problem',
  'plan',
  'slim_apply',
  'slim_loss',
  'slim_value_and_grad',
]
