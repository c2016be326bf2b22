"""UFOM: unbiased first-order methods for bi-level optimisation."""

from hpo.ufom.adaptive import AdaptiveQ, AdaptiveRule
from hpo.ufom.batches import BatchEstimate, ufom_batch
from hpo.ufom.bounds import (
  bias_bound,
  published_bias_bound,
  published_gradient_bound,
)
from hpo.ufom.costs import Cost, Telemetry, cost
from hpo.ufom.estimator import Estimate, Inner, ufom_grad
from hpo.ufom.exact import MODES, Hypergradient, exact_grad
from hpo.ufom.first_order import fom_grad
from hpo.ufom.optimal import optimal_q, predicted_cost, predicted_saving
from hpo.ufom.problem import ABLOProblem, inner_gd
from hpo.ufom.synthetic import Tasks, counterexample, descend, study

__all__ = [
  'MODES',
  'ABLOProblem',
  'AdaptiveQ',
  'AdaptiveRule',
  'BatchEstimate',
  'Cost',
  'Estimate',
  'Hypergradient',
  'Inner',
  'Tasks',
  'Telemetry',
  'bias_bound',
  'cost',
  'counterexample',
  'descend',
  'exact_grad',
  'fom_grad',
  'inner_gd',
  'optimal_q',
  'predicted_cost',
  'predicted_saving',
  'published_bias_bound',
  'published_gradient_bound',
  'study',
  'ufom_batch',
  'ufom_grad',
]
