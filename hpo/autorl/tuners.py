"""Tuners by name, for `python -m runtime.sweep --tuner=NAME`.

| name | options | what it is |
|---|---|---|
| `random`, `sobol` | | points that depend on nothing |
| `grid` | `resolution` | all combinations |
| `hyperband`, `asha` | `max_budget`, `unit`, `eta` | short runs, and longer ones of the best |
| `gp` | those of `search.gp.GP` | a Gaussian process with expected improvement |
| `optformer` | `name`, `metric` | the model that comes with the package |
| `optuna`, `vizier` | | TPE and Eagle, of the extras `optuna` and `vizier` |
| `pbt`, `pb2` | `size`, `rounds`, `interval` | populations that copy their best members |

Options are given in brackets, as in `--tuner='asha(max_budget=900, unit=100)'`.
Budgets are values of the setting that `--budget` names.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from hpo import spaces
from hpo.autorl import asking
from hpo.autorl.population import pb2 as pb2_lib
from hpo.autorl.population import pbt as pbt_lib
from hpo.autorl.population import rounds as rounds_lib
from hpo.autorl.search import gp as gp_lib
from hpo.autorl.search import halving, learned, simple
from hpo.autorl.search import optuna as optuna_lib
from hpo.autorl.search import vizier as vizier_lib

__all__ = [
  'asha',
  'gp',
  'grid',
  'hyperband',
  'optformer',
  'optuna',
  'pb2',
  'pbt',
  'random',
  'sobol',
  'vizier',
]

Described = Sequence[Mapping[str, Any]]  # `spaces.Space.to_json`.
Make = Callable[..., asking.Tuner]


def _named(method: Callable[..., asking.Method]) -> Make:
  """A function of a space, a seed and the method's options."""

  def make(space: Described, *, seed: int, **options: Any) -> asking.Tuner:
    found = spaces.Space.from_json(list(space))
    return asking.Tuner(method(**options), found, seed=seed)

  return make


def _population(method: Callable[..., Any]) -> Make:
  return _named(lambda **options: rounds_lib.Rounds(method, **options))


asha = _named(halving.Asha)
gp = _named(gp_lib.GP)
grid = _named(simple.Grid)
hyperband = _named(halving.Hyperband)
optformer = _named(learned.OptFormer)
optuna = _named(optuna_lib.Optuna)
pb2 = _population(pb2_lib.PB2)
pbt = _population(pbt_lib.PBT)
random = _named(simple.Random)
sobol = _named(simple.Sobol)
vizier = _named(vizier_lib.Vizier)
