"""Imitated algorithms as optimisers: their curves beside those of the originals."""

import numpy as np

from hpo.optformer import acquisitions, behaviours, suggesting
from papers import claims, figures, rows, study
from papers.optformer import methods, searches
from runtime.record import ledger

_ALGORITHMS = {
  b.name.removeprefix('designer_'): b for b in behaviours.BEHAVIOURS
}


def _imitated(name: str) -> methods.OptFormer:
  """The policy as it is: one draw, which may repeat earlier points."""
  policy = suggesting.Policy(
    acquisition=acquisitions.Prior(),
    num_candidates=1,
    noisy=True,
    algorithm=f'designer_{name}',
  )
  return methods.OptFormer(policy)


STUDY = study.Study(
  searches.run,
  {
    label: searches.Setting(method, starts=0)
    for name, behaviour in _ALGORITHMS.items()
    for label, method in (
      (name, methods.Behaviour(behaviour)),
      (f'{name}, imitated', _imitated(name)),
    )
  },
  seeds=60,
)


def _scores(results: study.Results) -> dict[str, np.ndarray]:
  return rows.table(results, 'final', form='{arm}')


def _diagonal(results: study.Results) -> list[figures.Panel]:
  """Curves, and the published form: means at the last trial."""
  panels: list[figures.Panel] = [
    figures.by_arm(
      results,
      'best',
      arms=[name for name in results.arms if name.endswith('imitated') is last],
      spread='pooled',
      xlabel='trial',
      ylabel='best score so far',
      options={'title': title},
    )
    for title, last in (('original', False), ('imitated', True))
  ]
  means = {arm: x.mean() for arm, x in _scores(results).items()}
  points = [
    figures.Line(name, [means[name]], [means[f'{name}, imitated']], style='o')
    for name in _ALGORITHMS
  ]
  low = min(means.values())
  points.append(figures.Line('', [low, 1], [low, 1], style=':', color=7))
  panels.append(
    figures.Lines(lines=points, xlabel='original', ylabel='imitated')
  )
  return panels


ROWS = (
  rows.Row(
    id='imitation-curves',
    claim='On functions of families it never saw, OptFormer optimises as well as '
    'the algorithm that it imitates.',
    study=STUDY,
    ours=_scores,
    trend='the best score of 40 trials within 0.05 of that of the original, for all '
    'seven algorithms',
    claims=tuple(
      claims.close(f'{name}, imitated', to=name, within=0.05, paired=True)
      for name in _ALGORITHMS
    ),
    figure=_diagonal,
    published=ledger.Published(
      'after 100 trials all points near the diagonal, between 0.80 and 1.00',
      'arXiv:2205.13320, Figure 2c',
    ),
    explain='Seeds are tasks: 2 to 4 parameters of all types, five families. '
    'Both begin without a trial. Scores are of the noiseless values: 0 is the median '
    'of uniform points, 1 the best known.',
    headline='recursive_gp, imitated',
  ),
)
