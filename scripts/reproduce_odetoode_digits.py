"""Rows about corrupted pictures: ODEtoODE, its baselines, and ablations.

All learn from clean pictures and are judged on fifteen corruptions, with the
same heads, optimiser, steps and order of pictures. Baselines have the activation
|.| of ODEtoODE and, apart from that, the usual one.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import reproduce_common as common
from jaxtyping import Float

from rl.odetoode import (
  accounting,
  baselines,
  bodies,
  classification,
  trivialization,
)
from runtime import optimizers
from runtime.data import images as images_lib
from runtime.devices import mesh as mesh_lib
from runtime.record import verdicts

__all__ = [
  'ISO',
  'MARGIN',
  'SHORT',
  'Setting',
  'digits_rows',
  'findings',
  'models',
  'train',
]

ISO, GATED = 'ODEtoODE-ISO', 'ODEtoODE-Gated'
MARGIN = 1.5  # Points.
_CLEAN_WITHIN = 1.0  # Points.
ABLATIONS = ('static W', 'W_0 fixed', 'W_0 free')
# Those that the comparison of a shorter run needs.
SHORT = (
  *(ISO, 'static W', 'W_0 free'),
  *(f'{kind} |.|' for kind in ('NODE', 'NANODE-5', 'Dense-1')),
)
_MEAN = 'mean of 15 corruptions'

Scores = Mapping[str, Mapping[str, Float[np.ndarray, ' s']]]


@dataclasses.dataclass(frozen=True)
class Setting:
  """An experiment.

  Attributes:
    name: of the data.
    load: makes them.
    width: d.
    depth: N.
    steps: of training.
    batch: pictures in a step.
    rate: of Adam; a cosine takes it to 0.
    names: models, all if empty.
  """

  name: str
  load: Callable[[], images_lib.Images]
  width: int
  depth: int
  steps: int
  batch: int = 64
  rate: float = 3e-3
  names: tuple[str, ...] = ()


TINY = Setting('digits', images_lib.digits, 32, 25, 1200)


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
  body: bodies.Body, images: images_lib.Images, setting: Setting, count: int
) -> dict[str, Float[np.ndarray, ' s']]:
  """Trains models of seeds 0, ..., count - 1; accuracies in percent.

  Raises:
    FloatingPointError: if a loss is not finite.
  """
  adam = optimizers.adamw(learning_rate=setting.rate, decay_steps=setting.steps)
  trainer = classification.ClassifierTrainer(
    data=images,
    body=body,
    optimizer=trivialization.trivialize(adam),
    batch_size=setting.batch,
    num_models=count,
  )
  experiment = trainer.experiment(seed=0, mesh=mesh_lib.MeshConfig().make())
  state = jax.jit(experiment.init)()
  step = jax.jit(experiment.step, donate_argnums=0)
  for _ in range(setting.steps):
    state, metrics = step(state, next(experiment.batches))
  if not np.isfinite(metrics.compute()['loss']):
    raise FloatingPointError(f'a loss is not finite: {body}')
  return {
    name: 100 * trainer.scores(state, image_set)['accuracy']
    for name, image_set in trainer.test_sets.items()
  }


def digits_rows(
  scale: str, seeds: Sequence[int], *, setting: Setting = TINY
) -> list[common.Finding]:
  """Trains all models and judges them.

  Args:
    scale: 'tiny': the setting; `paper` gives its own.
    seeds: 0, 1, ...
    setting: the experiment.

  Returns:
    The findings.
  """
  del scale
  images = setting.load()
  scores, params = {}, {}
  for name, body in models(setting.width, setting.depth).items():
    if setting.names and name not in setting.names:
      continue
    scores[name] = train(body, images, setting, len(seeds))
    params[name] = accounting.count_params(body)
    print(f'{name}: {_mean(scores[name]).mean():.2f}', flush=True)
  return findings(scores, params, setting)


def _mean(found: Mapping[str, Float[np.ndarray, ' s']]) -> np.ndarray:
  """Over the corruptions, of every seed."""
  return np.mean([v for name, v in found.items() if name != 'test'], axis=0)


def findings(
  scores: Scores, params: Mapping[str, int], setting: Setting
) -> list[common.Finding]:
  """Judges ODEtoODE beside its baselines, and beside its ablations.

  Args:
    scores: percent by model and test set, a value per seed.
    params: of the bodies.
    setting: the experiment.
  """
  rivals = [name for name in scores if name.endswith('|.|')]
  beaten = [_beats(scores, ISO, name, MARGIN) for name in rivals]
  best = max(scores, key=lambda name: scores[name]['test'].mean())
  clean = verdicts.verdict(
    scores[ISO]['test'],
    scores[best]['test'],
    higher_is_better=True,
    margin=-_CLEAN_WITHIN,
  )
  clean = 'holds' if best == ISO else clean
  same = {n: v for n, v in scores.items() if n not in ABLATIONS}
  first = {
    'id': f'{setting.name}-corruptions',
    'claim': 'Classifiers by ODEtoODE suffer less from corruptions than neural '
    'ODEs without orthogonality (accuracy %, learnt from clean pictures).',
    'ours': _ours(same),
    'published': 'not found',
    'trend': f'{_MEAN}: ODEtoODE-ISO above every baseline with the same '
    f'activation |.| by at least {MARGIN} points; clean accuracy within '
    f'{_CLEAN_WITHIN} point of the best',
    'verdict': common.combine([*beaten, clean]),
    'explanation': _explain(scores, rivals, params, setting, best),
  }
  second = {
    'id': f'{setting.name}-ablations',
    'claim': 'What helps is that the matrices are orthogonal and move '
    '(accuracy %, learnt from clean pictures).',
    'ours': _ours(
      {n: scores[n] for n in (ISO, GATED, *ABLATIONS) if n in scores}
    ),
    'published': 'not found',
    'trend': f'{_MEAN}: ODEtoODE-ISO above the same with a static orthogonal W '
    'and above the same without the constraint on W_0',
    'verdict': common.combine(
      [_beats(scores, ISO, name, 0.0) for name in ('static W', 'W_0 free')]
    ),
    'explanation': '; '.join(
      _difference(scores, name) for name in ABLATIONS if name in scores
    )
    + '. Static: b = 0 and W_0 learnt on the group. Fixed: W_0 as drawn, Q and N '
    'learnt. Free: W_0 learnt without constraint, so W_t = W_0 U_t.',
  }
  draw = functools.partial(_picture, scores)
  return [common.Finding(first, draw), common.Finding(second, draw)]


def _beats(
  scores: Scores, ours: str, other: str, margin: float
) -> verdicts.Verdict:
  return verdicts.verdict(
    _mean(scores[ours]),
    _mean(scores[other]),
    higher_is_better=True,
    margin=margin,
  )


def _ours(scores: Scores) -> dict[str, tuple[float, ...]]:
  rows = {}
  for name, found in scores.items():
    rows[f'{name}, {_MEAN}'] = tuple(_mean(found))
    rows[f'{name}, clean'] = tuple(found['test'])
  return rows


def _difference(scores: Scores, other: str) -> str:
  """How far ODEtoODE-ISO is ahead, with its interval."""
  ours, theirs = _mean(scores[ISO]), _mean(scores[other])
  low, high = verdicts.interval(ours, theirs)
  return (
    f'ISO minus {other} {ours.mean() - theirs.mean():+.2f} '
    f'[{low:+.2f}, {high:+.2f}]'
  )


def _explain(
  scores: Scores,
  rivals: Sequence[str],
  params: Mapping[str, int],
  setting: Setting,
  best: str,
) -> str:
  counts = ', '.join(f'{name} {n:,}' for name, n in params.items())
  ahead = '; '.join(_difference(scores, name) for name in rivals)
  return (
    f'Mean over corruptions, 95 % intervals: {ahead}. Best clean: {best}. '
    f'Width {setting.width}, {setting.depth} steps of the flow, '
    f'{setting.steps} steps of Adam at {setting.rate:g} with a cosine, batches of '
    f'{setting.batch}; corruptions are our own at severity 3. Parameters of the '
    f'bodies: {counts}.'
  )


def _picture(scores: Scores, path: pathlib.Path) -> None:
  """A table in colours: models by test sets."""
  sets = [*next(iter(scores.values()))]
  table = np.array(
    [[found[s].mean() for s in sets] for found in scores.values()]
  )
  from matplotlib import figure

  fig = figure.Figure(figsize=(11, 0.42 * len(table) + 2), layout='constrained')
  axis: Any = fig.add_subplot()
  # Colours by column: how a model does beside the others.
  low, high = table.min(0), table.max(0)
  shades = (table - low) / np.maximum(high - low, 1e-9)
  axis.imshow(shades, cmap='cividis', aspect='auto', vmin=0, vmax=1)
  for (row, column), value in np.ndenumerate(table):
    color = 'black' if shades[row, column] > 0.5 else 'white'
    axis.text(
      column, row, f'{value:.1f}', ha='center', va='center', color=color,
      fontsize='x-small',
    )  # fmt: skip
  axis.set_xticks(range(len(sets)), sets, rotation=40, ha='right')
  labels = [f'{n}  ({_mean(found).mean():.1f})' for n, found in scores.items()]
  axis.set_yticks(range(len(table)), labels)
  axis.set_title(
    'accuracy %; in brackets: mean of the corruptions', fontsize='medium'
  )
  common.save(fig, path)
