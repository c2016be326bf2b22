"""Forecasts of a Gaussian process, on the bins on which OptFormer forecasts.

Objectives are warped by a Yeo-Johnson transformation that is fitted to the history.
The process is that of `behaviours.gaussian_process`: Matern-5/2 with a length scale
for each parameter, noise, and hyperparameters of the largest posterior. A forecast is
the normal distribution of a warped value, as masses of bins.

Reference: arXiv:2205.13320, Section 6.2 and Appendix B.2 (output warping; truncation).
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from hpo import studies
from hpo.optformer import behaviours, forecasts, quantizing
from hpo.optformer.behaviours import gaussian_process as gp
from runtime import optional

__all__ = ['forecast']

# Share of the uniform forecast, so that no value is impossible.
_UNIFORM = 0.01
# Trials are filled up to a multiple, so that one program serves many.
_ROWS = 40
_STEPS, _RATE = 150, 0.1  # Of Adam.


def forecast(
  study: studies.Study,
  codes: Float[np.ndarray, 'n d'],
  scale: quantizing.ObjectiveRange,
  *,
  bins: int = quantizing.NUM_BINS,
) -> forecasts.Forecasts:
  """Forecasts of points from a history.

  Args:
    study: the history, of two different completed values at least.
    codes: of the points.
    scale: of the objectives; the forecast covers `scale.low` to `scale.high`.
    bins: Q.
  """
  linear = scale.start, scale.start + scale.size
  edges = np.clip(np.linspace(0, 1, bins + 1), *linear)
  # In units of the range, so that the transformation is well conditioned.
  unit = lambda z: (z - scale.start) / scale.size
  warp = optional.load('sklearn.preprocessing', extra='hpo').PowerTransformer()
  known = unit(scale.to_scaled(study.gains))[:, None]
  # With the ends of the range, or few values make it far too steep.
  warp.fit(np.append(known, [[0.0], [1.0]], axis=0))
  warped = warp.transform(known)[:, 0]
  mean, deviation = _posterior(study, codes, warped)
  places = warp.transform(unit(edges)[:, None])[:, 0]
  stats = optional.load('scipy.stats', extra='hpo')
  below = stats.norm.cdf((places - mean[:, None]) / deviation[:, None])
  inside = (edges[:-1] < linear[1]) & (edges[1:] > linear[0])
  masses = np.where(inside, np.diff(below, axis=1) + 1e-300, 0)
  masses /= masses.sum(axis=1, keepdims=True)
  masses = (1 - _UNIFORM) * masses + _UNIFORM * inside / inside.sum()
  return forecasts.Forecasts(masses, scale, study.problem.sign)


def _posterior(
  study: studies.Study,
  codes: Float[np.ndarray, 'n d'],
  warped: Float[np.ndarray, 't'],
) -> tuple[Float[np.ndarray, 'n'], Float[np.ndarray, 'n']]:
  """Means and deviations of warped values, noise included."""
  space, count = study.problem.space, len(warped)
  pad = -count % _ROWS
  points = np.pad(space.to_unit(study.codes), ((0, pad), (0, 0)))
  found = _fit_and_predict(
    behaviours.Cube.of(space),
    np.float32(points),
    np.pad(warped, (0, pad)).astype(np.float32),
    np.arange(count + pad) < count,
    np.float32(space.to_unit(codes)),
  )
  mean, deviation = (np.asarray(x, np.float64) for x in found)
  return mean, deviation


@jax.jit
def _fit_and_predict(
  cube: behaviours.Cube,
  points: Float[Array, 't d'],
  values: Float[Array, ' t'],
  known: Bool[Array, ' t'],
  others: Float[Array, 'n d'],
) -> tuple[Float[Array, ' n'], Float[Array, ' n']]:
  data = gp.Data(cube.squared_gaps(points[:, None], points), values, known)
  hyper = gp.fit(data, steps=_STEPS, rate=_RATE)
  gaps = cube.squared_gaps(others[:, None], points)
  mean, deviation = gp.predict(gp.factor(hyper, data), hyper, gaps, known)
  return mean, jnp.sqrt(deviation**2 + jnp.exp(2 * hyper.noise))
