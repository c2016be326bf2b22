"""Tuning problems whose every answer is known: tables of real training runs.

There are 15, of three benchmarks: HPOBench (a multilayer perceptron on eight
data sets), HPOLib (a perceptron of two layers on four regressions) and
NAS-Bench-201 (a convolutional cell on three sets of pictures).
`scripts/prepare_hpo_tables.py` makes the file.

  table = tabular.load('data/hpo_tables.npz', 'hpobench/car')
  table(alpha=1e-8, batch_size=16, depth=2, learning_rate_init=1.0, width=64)

A configuration was trained several times. Its value is the mean over these runs;
of HPOLib the logarithm of the mean, as losses reach from 1e-5 to 1e7.

Reference: Eggensperger et al. 2021 (arXiv:2109.06716), Klein and Hutter 2019
(arXiv:1905.04970), Dong and Yang 2020 (arXiv:2001.00326).
"""

import dataclasses
import os
import zipfile

import numpy as np
import numpy.typing as npt
from jaxtyping import Float

from hpo import spaces, studies

__all__ = ['FAMILIES', 'NAMES', 'Family', 'Table', 'family', 'load']

_OPERATIONS = (
  *('none', 'skip_connect', 'nor_conv_1x1', 'nor_conv_3x3', 'avg_pool_3x3'),
)
_WIDTHS = (16, 25, 40, 64, 101, 161, 256, 406, 645, 1024)
_ALPHAS = (
  *(1e-8, 7.742637e-8, 5.994842e-7, 4.641589e-6, 3.5938137e-5),
  *(2.7825593e-4, 2.1544348e-3, 1.6681006e-2, 1.2915497e-1, 1.0),
)
_RATES = (
  *(1e-5, 3.5938137e-5, 1.2915497e-4, 4.641589e-4, 1.6681006e-3),
  *(5.9948424e-3, 2.1544347e-2, 7.742637e-2, 2.7825594e-1, 1.0),
)


@dataclasses.dataclass(frozen=True)
class Family:
  """Tables over one space.

  Attributes:
    tables: their names.
    space: of listed values only.
    goal: see `studies.Problem`.
    metric: name of the objective in the tables.
    logarithm: whether the value is the logarithm of the objective.
  """

  tables: tuple[str, ...]
  space: spaces.Space
  goal: str
  metric: str
  logarithm: bool = False

  @property
  def shape(self) -> tuple[int, ...]:
    """The number of values of each parameter."""
    return tuple(len(p.values) for p in self.space.parameters)


_HPOBENCH = Family(
  (
    *('australian', 'blood_transfusion', 'car', 'credit_g', 'kc1'),
    *('phoneme', 'segment', 'vehicle'),
  ),
  spaces.Space(
    (
      spaces.Discrete('alpha', _ALPHAS, 'LOG'),
      spaces.Discrete(
        'batch_size', (4, 6, 10, 16, 25, 40, 64, 101, 161, 256), 'LOG'
      ),
      spaces.Discrete('depth', (1, 2, 3)),
      spaces.Discrete('learning_rate_init', _RATES, 'LOG'),
      spaces.Discrete('width', _WIDTHS, 'LOG'),
    )
  ),
  'MAXIMIZE',
  'val_acc',
)
_HPOLIB = Family(
  (
    *('naval_propulsion', 'parkinsons_telemonitoring', 'protein_structure'),
    'slice_localization',
  ),
  spaces.Space(
    (
      spaces.Categorical('activation_fn_1', ('relu', 'tanh')),
      spaces.Categorical('activation_fn_2', ('relu', 'tanh')),
      spaces.Discrete('batch_size', (8, 16, 32, 64), 'LOG'),
      spaces.Discrete('dropout_1', (0.0, 0.3, 0.6)),
      spaces.Discrete('dropout_2', (0.0, 0.3, 0.6)),
      spaces.Discrete('init_lr', (5e-4, 1e-3, 5e-3, 1e-2, 5e-2, 1e-1), 'LOG'),
      spaces.Categorical('lr_schedule', ('cosine', 'const')),
      spaces.Discrete('n_units_1', (16, 32, 64, 128, 256, 512), 'LOG'),
      spaces.Discrete('n_units_2', (16, 32, 64, 128, 256, 512), 'LOG'),
    )
  ),
  'MINIMIZE',
  'val_loss',
  logarithm=True,
)
_NASBENCH = Family(
  ('cifar10', 'cifar100', 'imagenet'),
  spaces.Space(
    tuple(spaces.Categorical(f'Op{i}', _OPERATIONS) for i in range(6))
  ),
  'MAXIMIZE',
  'val_acc',
)
FAMILIES = {'hpobench': _HPOBENCH, 'hpolib': _HPOLIB, 'nasbench201': _NASBENCH}
NAMES = tuple(
  f'{name}/{table}'
  for name, found in FAMILIES.items()
  for table in found.tables
)


@dataclasses.dataclass(frozen=True, eq=False)
class Table:
  """The value of every point of a space; an objective of points.

  Attributes:
    problem: its name and metric are those of the table.
    values: float64 [n1, ..., nd], by index of each parameter's value.

  Raises:
    ValueError: a parameter is not listed, or there are not as many values.
  """

  problem: studies.Problem
  values: Float[np.ndarray, '...']

  def __post_init__(self) -> None:
    listed = spaces.Discrete | spaces.Categorical
    parameters = self.problem.space.parameters
    if not all(isinstance(p, listed) for p in parameters):
      raise ValueError(f'a table needs listed parameters, got {parameters}')
    shape = tuple(len(p.values) for p in parameters)
    if self.values.shape != shape or not np.isfinite(self.values).all():
      raise ValueError(
        f'a table of {shape} points needs as many finite values, '
        f'got {self.values.shape}'
      )

  def __call__(self, **point: spaces.Value) -> float:
    """The value of a point.

    Raises:
      ValueError: a parameter is missing or unknown, or its value is not listed.
    """
    return float(self.at(self.problem.space.codes(point)[None])[0])

  def at(self, codes: Float[np.ndarray, 'n d']) -> Float[np.ndarray, 'n']:
    """The values of points by their codes; see `spaces`."""
    return self.values[tuple(np.int64(codes).T)]

  @property
  def best(self) -> float:
    """The best value of all."""
    sign = self.problem.sign
    return float(sign * (sign * self.values).max())

  def normalized(self, values: npt.ArrayLike) -> Float[np.ndarray, '*n']:
    """Values on the scale where the median of all points is 0, and the best 1.

    Reference: arXiv:2205.13320, Section 6.
    """
    median = np.median(self.values)
    return (np.asarray(values) - median) / (self.best - median)


def family(name: str) -> Family:
  """The family of a table.

  Raises:
    ValueError: there is no such table.
  """
  if name not in NAMES:
    raise ValueError(f'a table must be one of {NAMES}, got {name!r}')
  return FAMILIES[name.partition('/')[0]]


def load(path: str | os.PathLike[str], name: str) -> Table:
  """Reads a table.

  Args:
    path: file that `scripts/prepare_hpo_tables.py` wrote.
    name: in `NAMES`.

  Raises:
    FileNotFoundError: there is no such file; names the script.
    ValueError: there is no such table, or the file is another one.
  """
  found = family(name)
  try:
    with np.load(path) as arrays:
      runs = np.float64(arrays[name])
  except FileNotFoundError as error:
    raise FileNotFoundError(
      f'{path}: no such file; `python scripts/prepare_hpo_tables.py '
      f'--output={os.fspath(path)}` makes it'
    ) from error
  except (
    EOFError,
    KeyError,
    TypeError,
    ValueError,
    zipfile.BadZipFile,
  ) as error:
    raise ValueError(
      f'{path} does not hold the table {name}: {error}'
    ) from error
  # Some configurations of NAS-Bench-201 were trained twice, others three times.
  values = np.nanmean(runs, axis=-1)
  metric = found.metric
  if found.logarithm:
    values, metric = np.log(values), f'log_{metric}'
  problem = studies.Problem(found.space, found.goal, name, metric)
  return Table(problem, values)
