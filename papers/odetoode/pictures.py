"""Corrupted pictures: ODEtoODE, its baselines, and ablations.

All learn from clean pictures and are judged on fifteen corruptions, with the
same heads, optimiser, steps and order of pictures. Baselines have the activation
|.| of ODEtoODE and, apart from that, the usual one.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from papers import claims, figures, rows, study, training
from rl.odetoode import (
  accounting,
  baselines,
  bodies,
  classification,
  trivialization,
)
from runtime import loop, optimizers
from runtime.data import images as images_lib

ISO, GATED = 'ODEtoODE-ISO', 'ODEtoODE-Gated'
ABLATIONS = ('static W', 'W_0 fixed', 'W_0 free')
# The arms that the comparison of a shorter run needs.
SHORT = (
  *(ISO, 'static W', 'W_0 free'),
  *(f'{kind} |.|' for kind in ('NODE', 'NANODE-5', 'Dense-1')),
)
_MARGIN, _CLEAN_WITHIN = 1.5, 1.0  # Points.
_MEAN, _CLEAN = 'mean of 15 corruptions', 'clean'


@dataclasses.dataclass(frozen=True)
class Setting:
  """An experiment."""

  load: Callable[[], images_lib.Images]  # Makes the data.
  width: int  # d.
  depth: int  # N.
  steps: int  # Of training.
  batch: int = 64  # Pictures in a step.
  rate: float = 3e-3  # Of Adam; a cosine takes it to 0.
  body: bodies.Body | None = None  # Body to train.


def models(width: int, depth: int) -> dict[str, bodies.Body]:
  """All bodies by name; '|.|' and 'usual' are activations of baselines."""
  ours = functools.partial(bodies.ODEtoODE, width, n_steps=depth)
  abs_, relu, tanh = jax.numpy.abs, jax.nn.relu, jax.numpy.tanh
  found: dict[str, bodies.Body] = {
    ISO: ours(),
    GATED: ours(kind='gated'),
    'static W': ours(kind='static'),
    'W_0 fixed': ours(train_w0=False),
    'W_0 free': ours(orthogonal=False),
  }
  solver = baselines.solvers.Fixed(depth)
  for kind, smooth, dense in (('|.|', abs_, abs_), ('usual', tanh, relu)):
    found |= {
      f'NODE {kind}': baselines.NODE(width, f=smooth, solver=solver),
      f'NANODE-5 {kind}': baselines.NANODE(width, f=smooth, n_steps=depth),
      f'HyperODE {kind}': baselines.HyperODE(width, f=smooth, n_steps=depth),
      f'Dense-1 {kind}': baselines.Dense(width, f=dense, depth=1),
      f'Dense-10 {kind}': baselines.Dense(width, f=dense, depth=10),
    }
  return found


def train(
  seeds: tuple[int, ...], steps: int, **options: Any
) -> list[tuple[classification.ClassifierTrainer, Any]]:
  """Trains a classifier for each seed, side by side where seeds are aligned.

  Args:
    seeds: one model each.
    steps: of training.
    **options: of the trainer.

  Returns:
    Trainers and last states; together they have the models in order of seeds.
  """
  first, count = seeds[0], len(seeds)
  if seeds != tuple(range(first, first + count)) or first % count:
    return [pair for s in seeds for pair in train((s,), steps, **options)]
  trainer = classification.ClassifierTrainer(num_models=count, **options)
  with training.opened(trainer, seed=first // count) as experiment:
    return [(trainer, loop.drive(experiment, steps).state)]


def run(setting: Setting, *, seeds: tuple[int, ...]) -> list[study.Record]:
  """Accuracies in percent, one record per seed."""
  adam = optimizers.adamw(learning_rate=setting.rate, decay_steps=setting.steps)
  records: list[study.Record] = []
  for trainer, state in train(
    seeds,
    setting.steps,
    data=setting.load(),
    body=setting.body,
    optimizer=trivialization.trivialize(adam),
    batch_size=setting.batch,
  ):
    scores = {
      name: 100 * trainer.scores(state, image_set)['accuracy']
      for name, image_set in trainer.test_sets.items()
    }
    harmed = [values for name, values in scores.items() if name != 'test']
    scores[_MEAN] = np.mean(harmed, axis=0)
    records += [
      {name: values[i] for name, values in scores.items()}
      for i in range(trainer.num_models)
    ]
  return records


def studies(
  setting: Setting, seeds: int, names: tuple[str, ...] = ()
) -> study.Study:
  """All bodies, or some, in one setting."""
  known = models(setting.width, setting.depth)
  chosen = {name: known[name] for name in names or known}
  return study.Study(
    run, study.vary(setting, 'body', chosen), seeds=seeds, together=True
  )


def _ours(
  results: study.Results, names: tuple[str, ...]
) -> dict[str, np.ndarray]:
  return {
    f'{name}, {label}': results(name, metric)
    for name in names
    for label, metric in ((_MEAN, _MEAN), (_CLEAN, 'test'))
  }


def _beats(other: str, margin: float = 0.0) -> claims.Claim:
  return claims.above(
    f'{ISO}, {_MEAN}', than=f'{other}, {_MEAN}', margin=margin
  )


def _names(table: claims.Table) -> list[str]:
  return [
    label.rpartition(', ')[0] for label in table if label.endswith(_CLEAN)
  ]


def _robust(table: claims.Table) -> list[claims.Claim]:
  """ISO beside its rivals, and beside whichever is best on clean pictures."""
  names = _names(table)
  best = max(names, key=lambda name: np.mean(table[f'{name}, {_CLEAN}']))
  parts = [_beats(name, _MARGIN) for name in names if name.endswith('|.|')]
  if best != ISO:
    parts.append(
      claims.above(
        f'{ISO}, {_CLEAN}', than=f'{best}, {_CLEAN}', margin=-_CLEAN_WITHIN
      )
    )
  return parts


def _explain(results: study.Results) -> str:
  counts = ', '.join(
    f'{name} {accounting.count_params(setting.body):,}'
    for name, setting in results.settings.items()
  )
  return (
    'Adam trains, and a cosine takes its rate to 0. The corruptions are our own, '
    f'at severity 3. Parameters of the bodies: {counts}.'
  )


def _figure(results: study.Results) -> figures.Panel:
  sets = [name for name in results.records[ISO, None][0] if name != _MEAN]
  return figures.Shades(
    rows=[f'{arm}  ({results(arm, _MEAN).mean():.1f})' for arm in results.arms],
    columns=sets,
    values=[[results(arm, s).mean() for s in sets] for arm in results.arms],
  )


def _rows(name: str, studies: Mapping[str, study.Study]) -> list[rows.Row]:
  """Two rows of one experiment."""
  shared = {
    'study': studies,
    'figure': _figure,
    'title': 'accuracy %; in brackets: mean of the corruptions',
    'headline': f'{ISO}, {_MEAN}',
  }
  return [
    rows.Row(
      id=f'{name}-corruptions',
      claim='Classifiers by ODEtoODE suffer less from corruptions than neural '
      'ODEs without orthogonality (accuracy %, learnt from clean pictures).',
      ours=lambda results: _ours(
        results, tuple(n for n in results.arms if n not in ABLATIONS)
      ),
      unlisted=lambda results: {
        f'{name}, {_CLEAN}': results(name, 'test')
        for name in ABLATIONS
        if name in results.arms
      },
      trend=f'{_MEAN}: ODEtoODE-ISO above every baseline with the same activation '
      f'|.| by at least {_MARGIN} points; clean accuracy within {_CLEAN_WITHIN} '
      'point of the best',
      claims=_robust,
      explain=_explain,
      **shared,
    ),
    rows.Row(
      id=f'{name}-ablations',
      claim='Classifiers by ODEtoODE suffer less because their matrices are '
      'orthogonal and move (accuracy %, learnt from clean pictures).',
      ours=lambda results: _ours(
        results, tuple(n for n in (ISO, GATED, *ABLATIONS) if n in results.arms)
      ),
      trend=f'{_MEAN}: ODEtoODE-ISO above the same with a static orthogonal W and '
      'above the same without the constraint on W_0',
      claims=[_beats('static W'), _beats('W_0 free')],
      explain='Static W: b is 0, and W_0 is learnt on the group. W_0 fixed: W_0 '
      'stays as drawn, and Q and N are learnt. W_0 free: W_0 is learnt without '
      'constraint, so that W_t = W_0 U_t.',
      **shared,
    ),
  ]


_MNIST = functools.partial(images_lib.mnist, 'data/mnist')
# The published width, depth and epochs, and what a laptop can do of them.
ROWS = (
  *_rows(
    'digits', {'tiny': studies(Setting(images_lib.digits, 32, 25, 1200), 5)}
  ),
  *_rows(
    'mnist',
    {
      'tiny': studies(Setting(_MNIST, 32, 10, 1000, batch=100), 4, SHORT),
      'paper': studies(
        Setting(_MNIST, 128, 100, 50_000, batch=100, rate=1e-3), 4
      ),
    },
  ),
)
