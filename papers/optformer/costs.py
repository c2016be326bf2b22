"""What a suggestion costs as trials come in."""

import dataclasses
import time

import numpy as np

from hpo import spaces, studies
from papers import claims, figures, rows, study
from papers.optformer import methods, optimising, peers

_LENGTHS = (5, 10, 20, 40, 80, 160)
_GP = 'GP bandit (Vizier)'


@dataclasses.dataclass(frozen=True)
class Setting:
  """One method on a study of random trials."""

  method: methods.Method  # Chooses points.
  parameters: int = 4  # Number of real parameters.


def run(setting: Setting, *, seed: int, at: int) -> study.Record:
  """Times a suggestion in CPU seconds, of a study that is one trial longer.

  Everything is compiled: the same suggestions were made before.
  """
  reals = [spaces.Float(f'x{i}', -5.0, 5.0) for i in range(setting.parameters)]
  problem = studies.Problem(spaces.Space(reals), 'MINIMIZE')
  rng = np.random.default_rng(seed)
  codes = problem.space.sample(rng, at + 1)
  values = (codes**2).sum(axis=1) + rng.normal(size=at + 1)
  whole = studies.Study(problem, codes, values, np.zeros(at + 1, np.int8))
  for _ in range(2):
    choose = setting.method.start(problem, seed, at + 2)
    choose(whole.take(slice(at)))
    begin = time.process_time()
    choose(whole)
    spent = time.process_time() - begin
  return {'next': spent}


STUDY = study.Study(
  run,
  {
    optimising.EI: Setting(optimising.optformer()),
    _GP: Setting(peers.Vizier('gp')),
  },
  at=_LENGTHS,
  # What the GP bandit spends depends on the trials that it sees.
  seeds=10,
)


_OURS = {at: f'{optimising.EI} after {at}' for at in _LENGTHS}

ROWS = (
  rows.Row(
    id='cost-of-suggestions',
    claim='A suggestion of OptFormer costs far less than one of Gaussian processes, '
    'and hardly more after many trials.',
    study=STUDY,
    ours=rows.numbers('next', form='{arm} after {at}'),
    trend='the cost grows by a power of at most 0.7 of the number of trials; a tenth '
    'of that of the GP bandit at any number',
    claims=(
      claims.slope(_OURS, within=(-0.5, 0.7)),
      *(
        claims.below(
          label, than=f'{_GP} after {at}', log=True, margin=float(np.log(10))
        )
        for at, label in _OURS.items()
      ),
    ),
    figure=figures.of_arms(
      {'next': 'CPU seconds of a suggestion'},
      spread='range',
      style='o-',
      xscale='log2',
      yscale='log',
      xlabel='trials',
    ),
    explain='CPU seconds of a second suggestion, four real parameters, 100 '
    'candidates. Trials beyond the decoder are left out by the rule of the README. '
    'All is compiled before, so what Vizier compiles at a new number of trials comes '
    'on top: its default, which compiles everything, is in benchmarks/optformer.py.',
    headline=_OURS[40],
  ),
)
