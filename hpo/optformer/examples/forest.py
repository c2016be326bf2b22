"""A random forest of scikit-learn on its pictures of digits.

  python -m hpo.optformer.tune --objective=hpo.optformer.examples.forest:accuracy \
    --space=hpo.optformer.examples.forest:SPACE --goal=MAXIMIZE \
    --trials=30 --output=runs/forest

A trial takes about a second on one core.
"""

import functools

import numpy as np

from hpo import spaces
from runtime import optional

__all__ = ['SPACE', 'accuracy']

SPACE = spaces.Space(
  (
    spaces.Int('max_depth', 1, 16),
    spaces.Int('min_samples_leaf', 1, 64, 'LOG'),
    spaces.Float('max_features', 0.02, 1.0, 'LOG'),
    spaces.Categorical('criterion', ('gini', 'entropy')),
  )
)
_TREES, _FOLDS = 20, 3


def accuracy(
  max_depth: int, min_samples_leaf: int, max_features: float, criterion: str
) -> float:
  """The mean accuracy of cross-validation with fixed folds and a fixed seed.

  Args:
    max_depth: of a tree.
    min_samples_leaf: examples that a leaf must have.
    max_features: share of the pixels that a split may choose from.
    criterion: 'gini' or 'entropy'.

  Returns:
    In [0, 1]; to be maximised.
  """
  ensemble = optional.load('sklearn.ensemble', extra='hpo')
  selection = optional.load('sklearn.model_selection', extra='hpo')
  forest = ensemble.RandomForestClassifier(
    _TREES,
    criterion=criterion,
    max_depth=max_depth,
    min_samples_leaf=min_samples_leaf,
    max_features=max_features,
    random_state=0,
  )
  return float(
    np.mean(selection.cross_val_score(forest, *_digits(), cv=_FOLDS))
  )


@functools.cache
def _digits() -> tuple[np.ndarray, np.ndarray]:
  data = optional.load('sklearn.datasets', extra='hpo')
  return data.load_digits(return_X_y=True)
