"""What OptFormer's parts contribute: acquisitions, text, temperatures, proposals."""

from hpo.optformer import acquisitions, bbob_problems
from papers import study
from papers.optformer import methods, optimising, tasks
from papers.optformer.optimising import EI, PRIOR, RANDOM, VIEWS, better
from runtime.record import ledger

_SEEDS = 60
_UCB = 'UCB(0.9)'
_UCB_VIEWS = 'UCB(0.9) of eight views'
_OTHERS = {
  'PI': acquisitions.PI(),
  _UCB: acquisitions.UCB(0.9),
  'Thompson': acquisitions.Thompson(),
  'mean': acquisitions.Mean(),
}
_MINIMAL = 'EI, no names or ranges'
_MINIMAL_PRIOR = 'prior, no names or ranges'
_UNIFORM, _GP = 'uniform proposals, EI', 'GP-UCB proposals, EI'
_CHOICES = {
  name: f'designer_{name}'
  for name in (
    *('recursive_gp', 'random_search', 'reg_evo', 'hill_climb'),
    'eagle_strategy',
  )
}
_CHOSEN = 'reg_evo'
_PLAIN, _COLD, _HOT = 'EI, forecasts as trained', 'EI, cold', 'EI, hot'

_TRAINED = tasks.Bbob(families=bbob_problems.TRAINED)


def _beside_ei(
  found: dict[str, methods.Method], seeds: int = _SEEDS, **options: object
) -> study.Study:
  arms = {EI: optimising.optformer()} | found
  return optimising.compared(arms, seeds, **options)


_ACQUISITIONS = {
  name: optimising.optformer(acquisition)
  for name, acquisition in _OTHERS.items()
}


def _of_views(found: dict[str, methods.Method]) -> study.Study:
  """On tasks of more parameters, whose policy the package chose by these rows."""
  return optimising.compared(
    found | {VIEWS: optimising.averaged()},
    64,
    source=tasks.Bbob(families=bbob_problems.TRAINED, dimensions=(5, 9)),
    trials=50,
  )


_COMMON = (
  'Seeds are tasks, as in the row held-out: 40 trials, five common starts.'
)
_ON_HPOB = (
  'arXiv:2205.13320, curves of its result files on HPO-B after 100 trials'
)

ROWS = (
  optimising.row(
    id='ablation-acquisitions',
    claim='Expected improvement is the best acquisition.',
    study=_beside_ei(_ACQUISITIONS),
    trend='regret at most an eighth above that of any other',
    claims=tuple(better(EI, name, margin=-0.05) for name in _OTHERS),
    published=ledger.Published(
      {'EI': 0.9801, 'PI': 0.9767, 'Thompson': 0.976, 'UCB(0.9)': 0.9739},
      _ON_HPOB,
    ),
    explain=_COMMON,
    headline=EI,
  ),
  optimising.row(
    id='ablation-metadata',
    claim='Without names and ranges both policies are worse.',
    study=_beside_ei(
      {
        _MINIMAL: methods.OptFormer(minimal=True),
        PRIOR: optimising.OURS[PRIOR],
        _MINIMAL_PRIOR: methods.OptFormer(
          optimising.OURS[PRIOR].policy, minimal=True
        ),
      }
    ),
    trend='regret is smaller with names and ranges, for EI and for the prior',
    claims=(better(EI, _MINIMAL), better(PRIOR, _MINIMAL_PRIOR)),
    published=ledger.Published(
      {
        'EI': 0.9801,
        'EI, no names or ranges': 0.9728,
        'prior': 0.9552,
        'prior, no names or ranges': 0.9533,
      },
      _ON_HPOB,
    ),
    explain=f'{_COMMON} The names of generated problems mean nothing, and their '
    'ranges are a disguise of [-5, 5]: nothing can be gained from them here.',
    headline=_MINIMAL,
  ),
  optimising.row(
    id='ablation-temperature',
    claim='Temperatures matter little to expected improvement.',
    study=_beside_ei(
      {
        _PLAIN: methods.OptFormer(temperature=1.0),
        _COLD: optimising.optformer(temperature=0.5),
        _HOT: optimising.optformer(temperature=1.5),
      }
    ),
    trend='no other temperature of proposals or forecasts has a regret smaller by a '
    'quarter',
    claims=tuple(
      better(EI, name, margin=-0.1) for name in (_PLAIN, _COLD, _HOT)
    ),
    explain=f'{_COMMON} Cold and hot: candidates drawn at 0.5 and 1.5. As trained: '
    'forecasts at temperature 1, not at the one fitted to validation studies.',
    headline=EI,
  ),
  optimising.row(
    id='ablation-proposals',
    claim='The forecasts alone improve uniform proposals, and those of an '
    'imitated optimiser improve on them further.',
    study=_beside_ei(
      {
        RANDOM: methods.Random(),
        _UNIFORM: optimising.optformer(algorithm='designer_random_search'),
        _GP: optimising.optformer(algorithm='designer_recursive_gp'),
      }
    ),
    trend='regret falls from random to EI of imitated random search, to EI of the '
    'algorithm that the model prefers',
    claims=(better(_UNIFORM, RANDOM), better(EI, _UNIFORM)),
    published=ledger.Published(
      {'random': 0.9446, 'uniform proposals, EI': 0.9698, 'EI': 0.9801},
      _ON_HPOB,
    ),
    explain=_COMMON,
    headline=_UNIFORM,
  ),
  optimising.row(
    id='choice-of-proposals',
    claim='Of the imitated algorithms, regularised evolution makes the best '
    'candidates for expected improvement, on families of training.',
    study=optimising.compared(
      {RANDOM: methods.Random()}
      | {
        name: optimising.optformer(algorithm=algorithm)
        for name, algorithm in _CHOICES.items()
      },
      96,
      source=_TRAINED,
    ),
    trend='regret at most a quarter above that of any other, and below that of '
    'random search',
    claims=(
      better(_CHOSEN, RANDOM),
      *(
        better(_CHOSEN, name, margin=-0.1)
        for name in _CHOICES
        if name != _CHOSEN
      ),
    ),
    explain='Tasks as in the row held-out, but of the 16 families of training, and '
    'problems that training never drew. The algorithm that the shipped model prefers '
    'was chosen by these numbers; the rows on unseen families test the choice.',
    headline=_CHOSEN,
  ),
  optimising.row(
    id='choice-of-acquisitions',
    claim='On families of training, too, an upper confidence bound chooses better '
    'points than expected improvement.',
    study=_beside_ei(_ACQUISITIONS, 96, source=_TRAINED),
    trend='regret of UCB(0.9) below that of expected improvement, and at most a '
    'quarter above any other',
    claims=(
      better(_UCB, EI),
      *(
        better(_UCB, name, margin=-0.1)
        for name in _ACQUISITIONS
        if name != _UCB
      ),
    ),
    explain='Tasks as in the row choice-of-proposals. The row ablation-acquisitions, '
    'on unseen families, raised the question.',
    headline=_UCB,
  ),
  optimising.row(
    id='choice-of-views',
    claim='With five and nine parameters, forecasts averaged over eight views of '
    'the study choose better points, on families of training.',
    study=_of_views({RANDOM: methods.Random(), EI: optimising.optformer()}),
    trend='regret of eight views below those of one view and of random search',
    claims=(better(VIEWS, EI), better(VIEWS, RANDOM)),
    explain='Tasks as in the row choice-of-proposals, with more parameters and 50 '
    'trials. Not of the paper, whose model sees one order of the parameters at a '
    'time. Eight views rank 16 candidates, one view ranks 100.',
    headline=VIEWS,
  ),
  optimising.row(
    id='acquisitions-of-views',
    claim='With five and nine parameters, too, an upper confidence bound chooses '
    'better points than expected improvement, on families of training.',
    study=_of_views({_UCB_VIEWS: optimising.averaged(acquisitions.UCB(0.9))}),
    trend='regret of UCB(0.9) below that of expected improvement',
    claims=(better(_UCB_VIEWS, VIEWS),),
    explain='Tasks as in the row choice-of-views; both methods average eight views.',
    headline=_UCB_VIEWS,
  ),
  optimising.row(
    id='views-of-few',
    claim='With two to four parameters, too, forecasts averaged over eight views '
    'choose better points, on families of training.',
    study=optimising.compared(
      {
        _UCB: _ACQUISITIONS[_UCB],
        _UCB_VIEWS: optimising.averaged(acquisitions.UCB(0.9)),
      },
      96,
      source=_TRAINED,
    ),
    trend='regret of eight views below that of one view, for UCB(0.9)',
    claims=(better(_UCB_VIEWS, _UCB),),
    explain='Tasks and one of the methods are those of the row '
    'choice-of-acquisitions. Eight views rank 16 candidates, one view ranks 100.',
    headline=_UCB_VIEWS,
  ),
)
