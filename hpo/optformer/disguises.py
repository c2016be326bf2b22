"""Names and ranges of hyperparameters for generated problems.

Tokens of trials do not depend on names and ranges, so the same study can be
described in many ways. A model that was trained on many descriptions also reads
those of users.
"""

import dataclasses
import functools

import numpy as np
from jaxtyping import Int

from hpo import spaces, studies
from hpo.optformer import bbob_problems

__all__ = ['PLAIN', 'Disguise']

_NAMES = (
  *('learning_rate', 'batch_size', 'momentum', 'weight_decay', 'dropout'),
  *('num_layers', 'hidden_units', 'width', 'depth', 'epochs', 'optimizer'),
  *('activation', 'kernel', 'gamma', 'beta', 'alpha', 'lambda', 'epsilon'),
  *('max_depth', 'num_estimators', 'subsample', 'eta'),
  *('colsample_bytree', 'num_filters', 'scale', 'clip_norm', 'warmup_steps'),
  *('discount', 'entropy_cost', 'noise', 'sigma', 'population', 'cost', 'lr'),
  *('max_features', 'penalty', 'schedule', 'bias', 'init'),
)
_VALUES = (
  *('adam', 'sgd', 'rmsprop', 'relu', 'tanh', 'cosine', 'none', 'true'),
  *('false', 'mean', 'log', 'l1', 'l2'),
)
_TITLES = ('', 'model', 'tree', 'net', 'score', 'loss', 'accuracy', 'error')
_TITLES += ('validation_loss', 'test_error', 'mean_reward', 'auc', 'mse')


@dataclasses.dataclass(frozen=True)
class Disguise:
  """How problems are described.

  Attributes:
    share: of the problems that get names and ranges of hyperparameters. The
      others have the parameters x0, x1, ... with values in [-5, 5].
  """

  share: float = 0.0

  def __post_init__(self) -> None:
    if not 0 <= self.share <= 1:
      raise ValueError(f'share must lie in [0, 1], got {self.share}')

  def problem(
    self,
    rng: np.random.Generator,
    kinds: Int[np.ndarray, ' d'],
    counts: Int[np.ndarray, ' d'],
    algorithm: str,
  ) -> studies.Problem:
    """A problem with names and ranges.

    Args:
      rng: draws names and ranges.
      kinds: of the parameters; see `bbob_problems`.
      counts: number of values of each parameter.
      algorithm: name of the algorithm that chose the trials.
    """
    width = len(kinds)
    if rng.uniform() >= self.share:
      names = [f'x{place}' for place in range(width)]
      made = map(_plain, names, kinds.tolist(), counts.tolist())
      title = metric = ''
    else:
      names = rng.choice(_NAMES, width, replace=False).tolist()
      make = functools.partial(_disguised, rng)
      made = map(make, names, kinds.tolist(), counts.tolist())
      title, metric = rng.choice(_TITLES, 2).tolist()
    space = spaces.Space(tuple(made))
    return studies.Problem(space, 'MINIMIZE', title, metric, algorithm)


PLAIN = Disguise()


def _plain(name: str, kind: int, count: int) -> spaces.Parameter:
  if kind == bbob_problems.FLOAT:
    return spaces.Float(name, -5.0, 5.0)
  if kind == bbob_problems.INT:
    return spaces.Int(name, 0, count - 1)
  values = np.linspace(-5, 5, count).tolist()
  if kind == bbob_problems.DISCRETE:
    return spaces.Discrete(name, values)
  return spaces.Categorical(name, [f'{value:.3g}' for value in values])


def _disguised(
  rng: np.random.Generator, name: str, kind: int, count: int
) -> spaces.Parameter:
  if kind == bbob_problems.FLOAT:
    return _real(rng, name)
  if kind == bbob_problems.INT:
    low = int(rng.choice([0, 1, 1, 2, 5, 10]))
    return spaces.Int(name, low, low + count - 1)
  if kind == bbob_problems.DISCRETE:
    step = float(rng.choice([0.1, 1, 2, 4]))
    values = [step * (place + 1) for place in range(count)]
    return spaces.Discrete(name, values)
  return spaces.Categorical(
    name, rng.choice(_VALUES, count, replace=False).tolist()
  )


def _real(rng: np.random.Generator, name: str) -> spaces.Float:
  if rng.uniform() < 0.5:
    low = float(rng.choice([0.0, -1.0, 0.1, 0.5, -5.0, 1.0, 0.001]))
    size = float(rng.choice([0.5, 0.9, 1.0, 5.0, 10.0, 100.0]))
    return spaces.Float(name, low, low + size)
  digits = int(rng.integers(-8, 1))
  decades = int(rng.integers(1, 7))
  return spaces.Float(name, 10.0**digits, 10.0 ** (digits + decades), 'LOG')
