"""Hybrid features: errors in closed form, measured, and in the worst case.

x and y have one length and a given angle. Errors are relative to exp(x . y) and
multiplied by m, the number of projections, of which they are the inverse. The
errors of the two parts of a hybrid, softmax_hyp and softmax_trig, are those of
the row fig2-lemma2 of arXiv:2009.14794.

Letters: m rows of the projection, n rows of a hybrid's coefficient, d width.

Reference: arXiv:2110.04367; the closed forms are derived in
`performer.attention.analysis.theory`.
"""

import dataclasses
import functools
import math
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from papers import claims, figures, mechanisms, rows, study
from performer import attention
from performer.attention.analysis import pair_errors, theory

LENGTHS = (0.5, 0.75, 1.0, 2.0)
ANGLES = (0, 30, 60, 90, 120, 150, 180)  # Degrees.
# |x + y|^2 beyond which squares of the hyperbolic part have such heavy tails
# that no sample of this size tells their mean.
_LARGEST = 1.5
_WITHIN = 0.05
_ZERO = 1e-5


@dataclasses.dataclass(frozen=True)
class Setting:
  """A mean over draws of a hybrid."""

  kernel: str  # 'angular' or 'gaussian'.
  mix_rows: int  # n.
  width: int  # d.
  rows: int = 64  # M of one estimate.
  draws: int = 2**12  # Estimates of one mean.
  block: int = 2**7  # Estimates at a time.

  @property
  def favor(self) -> attention.Favor:
    """The mechanism."""
    return mechanisms.with_projections(
      f'softmax_{self.kernel}', self.rows, mix_rows=self.mix_rows, ortho='iid'
    )


def _pairs(width: int) -> tuple[Float[Array, 'i d'], Float[Array, 'j d']]:
  """Unscaled queries of all lengths, and keys of all lengths and angles."""
  radians = np.deg2rad(ANGLES)
  circle = np.stack([np.cos(radians), np.sin(radians)], axis=1)
  lengths = np.array(LENGTHS) * width**0.25
  q, k = np.zeros((len(LENGTHS), width)), np.zeros((*_SHAPE, width))
  q[:, 0] = lengths
  k[..., :2] = lengths[:, None, None] * circle
  return jnp.float32(q), jnp.float32(k.reshape(-1, width))


_SHAPE = (len(LENGTHS), len(ANGLES))


def _own(values: Float[Array, 'i j']) -> Float[Array, 'i a']:
  """Of all queries with all keys, the pairs of one length."""
  own = jnp.arange(_SHAPE[0])
  return values.reshape(_SHAPE[0], *_SHAPE)[own, own]


def run(setting: Setting, *, seed: int) -> study.Record:
  """Mean squared relative errors times m, and their closed form.

  Returns:
    `error` and `closed`, by length and angle.
  """
  error, closed = _sample(setting, jax.random.key(seed))
  return {'error': error, 'closed': closed}


@functools.partial(jax.jit, static_argnums=0)
def _sample(
  setting: Setting, key: Key[Array, '']
) -> tuple[Float[Array, 'i a'], Float[Array, 'i a']]:
  favor, (q, k) = setting.favor, _pairs(setting.width)
  scale = setting.width**-0.25
  exact = jnp.exp(_own((q * scale) @ (k * scale).T))

  def estimate(key: Key[Array, '']) -> pair_errors.KernelEstimate:
    drawn = favor.draw(
      key, layer=0, step=0, num_heads=1, head_dim=setting.width
    )
    return pair_errors.kernel_estimate(favor, q, k, projection=drawn)

  def body(total: Array, key: Key[Array, '']) -> tuple[Array, None]:
    keys = jax.random.split(key, setting.block)
    values = jax.vmap(lambda key: _own(estimate(key).values))(keys)
    return total + jnp.square(values / exact - 1).mean(axis=0), None

  blocks = -(-setting.draws // setting.block)
  keys = jax.random.split(key, blocks)
  total, _ = jax.lax.scan(body, jnp.zeros(_SHAPE), keys)
  closed = _own(estimate(key).relative_mse)
  return total * (setting.rows / blocks), closed * setting.rows


def _points(
  results: study.Results,
) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
  """Points with light tails: label, and errors and closed forms of all seeds."""
  for arm in results.arms:
    error, closed = results(arm, 'error'), results(arm, 'closed')
    for i, j in np.ndindex(_SHAPE):
      plus = 2 * LENGTHS[i] ** 2 * (1 + math.cos(math.radians(ANGLES[j])))
      if plus <= _LARGEST + 1e-6:
        label = f'{arm}, length {LENGTHS[i]:g}, {ANGLES[j]} degrees'
        yield label, error[:, i, j], closed[:, i, j]


def _ratios(results: study.Results) -> dict[str, np.ndarray]:
  """Measured over closed form."""
  return {
    label: error / closed
    for label, error, closed in _points(results)
    if closed[0] >= _ZERO
  }


def _by_arm(results: study.Results) -> dict[str, np.ndarray]:
  """The mean of the ratios over points."""
  ratios = _ratios(results).items()
  own = lambda arm: [x for k, x in ratios if k.startswith(f'{arm}, length')]
  return {arm: np.mean(own(arm), axis=0) for arm in results.arms}


def _zeros(results: study.Results) -> dict[str, np.ndarray]:
  """Measured errors where the closed form is zero."""
  return {
    f'{label}, zero': error
    for label, error, closed in _points(results)
    if closed[0] < _ZERO
  }


def _near(table: claims.Table) -> list[claims.Claim]:
  near = [
    claims.close(label, 1.0, within=_WITHIN)
    for label in table
    if label.endswith('degrees')
  ]
  zeros = claims.Check(
    f'below {_ZERO:g} where the closed form is zero',
    lambda table: all(
      max(values) < _ZERO
      for label, values in table.items()
      if label.endswith('zero')
    ),
  )
  return [*near, zeros]


def _farthest(results: study.Results) -> str:
  gaps = {label: abs(x.mean() - 1) for label, x in _ratios(results).items()}
  label = max(gaps, key=gaps.__getitem__)
  return (
    f'{len(gaps)} points; the farthest mean is {100 * gaps[label]:.1f} % off, at '
    f'{label}. {len(_zeros(results))} more points have closed form zero: the '
    'angular hybrid at x = y and x = -y.'
  )


# Curves of the closed forms.


def closed_forms(
  kernel: str, length: float, degrees: np.ndarray, mix_rows: int = 1
) -> np.ndarray:
  """Relative mean squared error of one projection.

  Args:
    kernel: 'hyp', 'trig', 'angular' or 'gaussian'.
    length: of x and y.
    degrees: their angles.
    mix_rows: n of hybrids.

  Returns:
    One error for each angle, float64.
  """
  name = f'softmax_{kernel}'
  square = jnp.full(len(degrees), length**2)
  dot = square * jnp.cos(jnp.deg2rad(jnp.asarray(degrees)))
  found = theory.relative_mse(
    name,
    theory.Pairs(dot, square, square),
    features=theory.copies(name, mix_rows=mix_rows),
    size=1,
    mix_rows=mix_rows,
  )
  return np.asarray(found, np.float64)


_FINE = np.linspace(0.0, 180.0, 361)


@dataclasses.dataclass(frozen=True)
class Worst:
  """The angular hybrid with n rows for its coefficient."""

  mix_rows: int


def worst(setting: Worst, *, at: float) -> study.Record:
  """The hybrid's greatest root mean squared error over that of its parts.

  Both x and y have the length `at`.

  Returns:
    The ratio at an equal number of projections, and at an equal number of
    features, of which the hybrid has 8 n for each projection and a part 2. At
    every length both parts have the same greatest error.
  """
  greatest = {
    kernel: closed_forms(kernel, at, _FINE, setting.mix_rows).max() ** 0.5
    for kernel in ('hyp', 'trig', 'angular')
  }
  ratio = greatest['angular'] / min(greatest['hyp'], greatest['trig'])
  more = theory.copies('softmax_angular', mix_rows=setting.mix_rows) / 2
  return {'projections': ratio, 'features': ratio * more**0.5}


_worst_ratios = rows.numbers(
  'projections', 'features', form='{arm}, length {at:g}, equal {metric}'
)


def _not_below(results: study.Results) -> str:
  ratios = _worst_ratios(results)
  beyond = [name for name, ratio in ratios.items() if ratio[0] >= 1]
  return (
    'Closed forms, nothing is sampled. The parts are softmax_hyp and '
    'softmax_trig, which have the same greatest error. At an equal number of '
    f'features the hybrid loses in {len(beyond)} of {len(ratios) // 2} cases, all '
    'with n > 1: its features grow with n.'
  )


def _worst_figure(results: study.Results) -> list[figures.Panel]:
  curves = {
    **{k: closed_forms(k, 1.0, _FINE) for k in ('trig', 'hyp')},
    **{
      f'angular, n={n}': closed_forms('angular', 1.0, _FINE, n) for n in (1, 8)
    },
  }
  return [
    figures.lines(
      {k: x**0.5 for k, x in curves.items()},
      _FINE,
      xlabel='angle (degrees)',
      ylabel='relative error at length 1, m = 1',
    ),
    figures.Lines(
      lines=[
        figures.Line(
          f'{arm}, equal {metric}',
          results.study.at,
          [x[0] for x in results.by_place(arm, metric).values()],
          style=style,
          color=color,
        )
        for metric, style in (('projections', 'o-'), ('features', 's--'))
        for color, arm in enumerate(results.arms)
      ],
      xlabel='length of x and y',
      ylabel='worst error over that of the parts',
      yscale='log',
      levels={'equal': 1.0},
    ),
  ]


def _error_figure(results: study.Results) -> list[figures.Panel]:
  """Curves are closed forms, dots means over seeds, at length 1."""
  at, inner = LENGTHS.index(1.0), _FINE[2:-2]
  lines = []
  for color, (arm, setting) in enumerate(results.settings.items()):
    curve = closed_forms(setting.kernel, 1.0, inner, setting.mix_rows)
    dots = results(arm, 'error').mean(axis=0)[at]
    lines += [
      figures.Line(arm, inner, curve, color=color),
      # Without 0 and 180 degrees, where some closed forms are zero.
      figures.Line('', ANGLES[1:-1], dots[1:-1], style='o', color=color),
    ]
  return [
    figures.Lines(
      lines=lines,
      xlabel='angle (degrees)',
      ylabel='relative squared error at length 1, m = 1',
      yscale='log',
    )
  ]


_HYBRIDS = {
  f'{kernel} n={n}, d={d}': Setting(kernel, n, d)
  for kernel, n in (('angular', 1), ('angular', 4), ('gaussian', 4))
  for d in (4, 64)
}

ROWS = (
  rows.Row(
    id='hybrid-errors',
    claim='The mean squared errors of hybrid estimators have closed forms, which '
    'are zero for the angular one at x = y and at x = -y (measured over closed '
    'form, mean over lengths and angles).',
    study=study.Study(run, _HYBRIDS, seeds=40),
    ours=_by_arm,
    unlisted=lambda results: _ratios(results) | _zeros(results),
    trend=f'within {_WITHIN:.0%} at every point with |x + y|^2 <= {_LARGEST:g}; '
    f'below {_ZERO:g} where the closed form is zero',
    claims=_near,
    figure=_error_figure,
    explain=_farthest,
    headline='angular n=4, d=64',
  ),
  rows.Row(
    id='hybrid-worst-case',
    claim='The greatest relative error over all angles is strictly smaller for '
    'the angular hybrid than for both of its parts (ratio).',
    study=study.Study(
      worst,
      {f'n={n}': Worst(n) for n in (1, 4, 8, 64)},
      seeds=None,
      at=(0.5, 1.0, 1.5, 2.0, 3.0),
    ),
    ours=_worst_ratios,
    trend='below 1 for every length and n at an equal number of projections, and '
    'with n = 1 at an equal number of features',
    claims=lambda table: [
      claims.below(label, 1.0)
      for label in table
      if label.endswith('projections') or label.startswith('n=1,')
    ],
    figure=_worst_figure,
    explain=_not_below,
    headline='n=8, length 1, equal projections',
  ),
)
