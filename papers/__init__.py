"""The tables and figures of the papers as data; `python -m papers` runs them."""

from typing import NamedTuple

__all__ = ['PAPERS', 'Paper']


class Paper(NamedTuple):
  """A paper that this workspace implements.

  Attributes:
    title: of the paper.
    page: of the package that implements it.
    measured_with: id under which the ledger has its rows; empty: its own.
  """

  title: str
  page: str
  measured_with: str = ''


# By arXiv id, the oldest first.
PAPERS = {
  '2006.03555': Paper(
    'Masked language modeling for proteins via linearly scalable long-context '
    'Transformers',
    'performer/README.md',
    measured_with='2009.14794',
  ),
  '2006.11421': Paper('An ode to an ODE', 'rl/odetoode/README.md'),
  '2009.14794': Paper(
    'Rethinking attention with Performers', 'performer/attention/README.md'
  ),
  '2012.11346': Paper(
    'Sub-linear memory: how to make Performers SLiM', 'performer/slim/README.md'
  ),
  '2101.07415': Paper(
    'ES-ENAS: efficient evolutionary optimization for large hybrid search '
    'spaces',
    'nas/es_enas/README.md',
  ),
  '2102.04353': Paper(
    'Unlocking pixels for reinforcement learning via implicit attention',
    'rl/implicit_attention/README.md',
  ),
  '2106.02229': Paper(
    'RL-DARTS: differentiable architecture search for reinforcement learning',
    'nas/rl_darts/README.md',
  ),
  '2106.02487': Paper(
    'Debiasing a first-order heuristic for approximate bi-level optimization',
    'hpo/ufom/README.md',
  ),
  '2201.03916': Paper(
    'Automated reinforcement learning (AutoRL): a survey and open problems',
    'hpo/autorl/README.md',
  ),
  '2205.13320': Paper(
    'Towards learning universal hyperparameter optimizers with Transformers',
    'hpo/optformer/README.md',
  ),
}
