"""Imitated algorithms as optimisers: their curves beside those of the originals."""

from hpo.optformer import acquisitions, behaviours, suggesting
from papers import claims, figures, rows, study
from papers.optformer import methods, optimising, searches
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


def _diagonal(results: study.Results) -> list[figures.Panel]:
  """Regrets over trials; and the published form: those at the last trial."""
  lines = {
    arm: optimising.regret_line(arm, results(arm, 'best'))
    for arm in results.arms
  }
  curves = [
    figures.Lines(
      lines=[lines[name.format(algorithm)] for algorithm in _ALGORITHMS],
      xlabel='trial',
      ylabel='regret',
      yscale='log',
      options={'title': title},
    )
    for title, name in (('original', '{}'), ('imitated', '{}, imitated'))
  ]
  last = {arm: line.y[-1] for arm, line in lines.items()}
  points = [
    figures.Line(name, [last[name]], [last[f'{name}, imitated']], style='o')
    for name in _ALGORITHMS
  ]
  ends = [min(last.values()), max(last.values())]
  points.append(figures.Line('', ends, ends, style=':', color=7))
  diagonal = figures.Lines(
    lines=points,
    xlabel='regret of the original',
    ylabel='regret of the imitation',
    xscale='log',
    yscale='log',
  )
  return [*curves, diagonal]


ROWS = (
  rows.Row(
    id='imitation-curves',
    claim='On functions of families it never saw, OptFormer optimises as well as '
    'the algorithm that it imitates.',
    study=STUDY,
    ours=rows.numbers('final'),
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
    'of uniform points, 1 the best known. The picture has the regrets, what scores '
    'lack to 1.',
    headline='recursive_gp, imitated',
  ),
)
