"""Studies that several tests read."""

import numpy as np

from hpo import spaces, studies

# The study of Table 1 of arXiv:2205.13320, as far as it is printed.
PAPER = studies.Study.of(
  studies.Problem(
    spaces.Space(
      (
        spaces.Float('opt_kw.lr', 1e-6, 1e-2, 'LOG'),
        spaces.Categorical('opt_type', ('SGD', 'Adam')),
      )
    ),
    name='convnet on cifar10',
    metric='accuracy',
    algorithm='random_search',
  ),
  [
    studies.Trial({'opt_kw.lr': 0.0021237573, 'opt_type': 'SGD'}, 0.69482429),
    studies.Trial({'opt_kw.lr': 0.00038292234, 'opt_type': 'Adam'}, 0.71642583),
  ],
)

MIXED = spaces.Space(
  (
    spaces.Float('x', -2.0, 3.0),
    spaces.Float('lr', 1e-4, 1e2, 'LOG'),
    spaces.Float('keep', 0.5, 0.99, 'REVERSE_LOG'),
    spaces.Int('n', -7, 992),
    spaces.Int('wide', 0, 5000),
    spaces.Discrete('d', (-0.5, 0.1, 1.2)),
    spaces.Categorical('c', ('a', 'b', 'é"')),
    spaces.Float('fixed', 2.0, 2.0),
  )
)


def study(rng, space=MIXED, count=12, **problem):
  """Uniform points and normal values."""
  return studies.Study(
    studies.Problem(space, algorithm='designer_random_search', **problem),
    space.sample(rng, count),
    rng.normal(size=count),
    np.zeros(count, np.int8),
  )
