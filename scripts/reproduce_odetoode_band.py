"""The row about gradients along the depth (Lemma 4.1)."""

import functools
import math
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import reproduce_common as common

from rl.odetoode import (
  bodies,
  classification,
  flows,
  generators,
  manifolds,
  retractions,
  trivialization,
)
from runtime.data import images as images_lib
from runtime.devices import mesh as mesh_lib

__all__ = ['CASES', 'Ratios', 'band_finding', 'band_rows']

# (d, N, T) of random nets.
CASES = (
  *((d, n, 1.0) for d in (1, 4, 16, 64) for n in (10, 100)),
  *((d, 1000, t) for d in (16, 64) for t in (1.0, 4.0, 10.0)),
  (256, 10, 1.0),
)
_ROUNDING = {'float64': 1e-9, 'float32': 1e-4}
_STATES = 32


class Ratios(NamedTuple):
  """Extremes of |g_n| / |g_N| over steps and states.

  Attributes:
    greatest: of the ratios.
    beyond: log of how far a ratio lies outside of its band; below 0 inside.
  """

  greatest: float
  beyond: float


def _ratios(norms: np.ndarray, time: float) -> Ratios:
  """Of |g_n| / |g_N|, [..., N + 1, states]."""
  depth = norms.shape[-2] - 1
  left = np.arange(depth, -1, -1)[:, None]
  eta = time / depth
  with np.errstate(divide='ignore'):
    low = left * np.log(max(1 - eta, 0.0)) if eta < 1 else -np.inf * (left > 0)
    logs = np.log(norms)
  high = left * math.log1p(eta)
  below = np.where(left > 0, low - logs, 0.0)
  above = np.where(left > 0, logs - high, 0.0)
  beyond = max(np.nanmax(below), np.nanmax(above))
  return Ratios(float(np.nanmax(norms)), float(beyond))


@functools.lru_cache(maxsize=1)
def _norms(d: int, n: int, time: float) -> Callable[..., Any]:
  """(key, whether free) -> |g_n| / |g_N| of random states and losses."""

  def run(key: Any, spread: Any) -> Any:
    keys = jax.random.split(key, 6)
    normal = lambda i, *shape: jax.random.normal(keys[i], shape)
    b = generators.skew_iso(*(normal(i, d, d) / math.sqrt(d) for i in (0, 1)))
    # Draws of Haar's measure are of single precision.
    w0 = retractions.newton_schulz(
      manifolds.haar(keys[2], d).astype(jnp.float64)
    )
    flow = flows.matrix_flow(w0, b, n_steps=n, time=time)
    free = 2 * normal(3, d, d) / math.sqrt(d)
    matrices = jnp.where(spread, free, flow.matrices)
    x0, c = normal(4, _STATES, d), normal(5, _STATES, d)
    loss = lambda nudges: jnp.sum(
      c * flows.states(x0, matrices, time=time, nudges=nudges)[-1]
    )
    gradients = jax.grad(loss)(jnp.zeros((n + 1, _STATES, d)))
    norms = jnp.linalg.norm(gradients, axis=-1)
    return norms / norms[-1]

  return jax.jit(run)


def band_rows(
  scale: str,
  seeds: Sequence[int],
  *,
  cases: Sequence[tuple[int, int, float]] = CASES,
  steps: int = 300,
) -> list[common.Finding]:
  """Gradients of random and of trained nets along the depth.

  Args:
    scale: the same at both.
    seeds: of matrices, states and losses.
    cases: d, N and T of random nets.
    steps: of training.

  Returns:
    The finding.
  """
  del scale
  inside: dict[tuple[int, int, float], list[Ratios]] = {}
  free: dict[tuple[int, int, float], list[Ratios]] = {}
  with jax.enable_x64(True):
    for case in cases:
      for seed in seeds:
        key = jax.random.key(seed)
        for spread, found in ((False, inside), (True, free)):
          norms = np.asarray(_norms(*case)(key, spread))
          found.setdefault(case, []).append(_ratios(norms, case[2]))
      print(f'd, N, T = {case}: {inside[case][0]}', flush=True)
  trained = _trained(len(seeds), steps) if steps else {}
  return [band_finding(inside, free, trained)]


def _trained(count: int, steps: int) -> dict[str, tuple[np.ndarray, float]]:
  """|g_n| / |g_N| of classifiers of digits, and T."""
  images = images_lib.digits()
  found = {}
  for name, time, orthogonal in (
    ('trained, T=1', 1.0, True),
    ('trained, T=4', 4.0, True),
    ('trained with free W_0, T=4', 4.0, False),
  ):
    body = bodies.ODEtoODE(16, n_steps=100, time=time, orthogonal=orthogonal)
    trainer = classification.ClassifierTrainer(
      data=images,
      body=body,
      optimizer=trivialization.trivialize(optax.adam(3e-3)),
      batch_size=64,
      num_models=count,
    )
    experiment = trainer.experiment(seed=0, mesh=mesh_lib.MeshConfig().make())
    state, step = experiment.init(), jax.jit(experiment.step)
    for _ in range(steps):
      state, _ = step(state, next(experiment.batches))
    found[name] = trainer.gradient_norms(state), time
  return found


def band_finding(
  inside: Mapping[tuple[int, int, float], Sequence[Ratios]],
  free: Mapping[tuple[int, int, float], Sequence[Ratios]],
  trained: Mapping[str, tuple[np.ndarray, float]],
) -> common.Finding:
  """Judges ratios of orthogonal flows and of the control.

  Args:
    inside: of the flows, by d, N and T, one for each seed.
    free: of constant Gaussian W of spectral scale 2.
    trained: |g_n| / |g_N|, [models, N + 1, pictures], and T by name. A name with
      'free' is a control.

  Returns:
    The finding.
  """
  worst = max(r.beyond for found in inside.values() for r in found)
  parts = ['holds' if worst <= _ROUNDING['float64'] else 'fails']
  escaped = [
    r.beyond > 0 for (d, _, t), f in free.items() if d > 1 and t == 1
    for r in f
  ]  # fmt: skip
  longest = [
    r.greatest for (d, _, t), found in free.items() if d > 1 and t == 10
    for r in found
  ]  # fmt: skip
  parts.append('holds' if any(escaped) else 'fails')
  parts.append('holds' if not longest or max(longest) > 1e3 else 'fails')
  ours: dict[str, tuple[float, ...]] = {'orthogonal, log beyond': (worst,)}
  for name, (norms, time) in trained.items():
    found = [_ratios(n, time) for n in norms]
    ours[f'{name}, log beyond'] = tuple(r.beyond for r in found)
    if 'free' not in name:
      worst = max(r.beyond for r in found)
      parts.append('holds' if worst <= _ROUNDING['float32'] else 'fails')
  for time in sorted({t for *_, t in inside}):
    for name, table in (('orthogonal', inside), ('free', free)):
      rows = [f for (d, _, t), f in table.items() if t == time and d > 1]
      ours[f'{name}, T={time:g}, greatest ratio'] = tuple(
        max(r.greatest for r in per_seed)
        for per_seed in zip(*rows, strict=True)
      )
  draws = sum(map(len, inside.values()))
  return common.Finding(
    {
      'id': 'gradient-band',
      'claim': 'Lemma 4.1: gradients with respect to the state stay within a band '
      'that does not depend on depth, width or what was learnt.',
      'ours': ours,
      'published': 'not found',
      'trend': '(1 - eta)^(N-n) <= |g_n| / |g_N| <= (1 + eta)^(N-n) for all n, '
      'states and nets (log beyond <= rounding); W free of scale 2 leaves the '
      'band at T = 1 in some draws and exceeds 1000 at T = 10',
      'verdict': common.combine(parts),
      'explanation': f'{draws} random nets of d up to '
      f'{max(d for d, *_ in inside)} and N up to {max(n for _, n, _ in inside)}, '
      f'{_STATES} states each, float64; nets trained on digits in float32. '
      f'{sum(escaped)} of {len(escaped)} free draws leave at T = 1. The band is '
      'e^T wide: it says little at T = 10.',
    },
    functools.partial(_band_picture, inside, free),
  )


def _band_picture(
  inside: Mapping[tuple[int, int, float], Sequence[Ratios]],
  free: Mapping[tuple[int, int, float], Sequence[Ratios]],
  path: pathlib.Path,
) -> None:
  fig, (axis,) = common.new_axes(1)
  for color, (name, table) in zip(
    common.COLORS, {'orthogonal': inside, 'free, scale 2': free}.items(),
    strict=False,
  ):  # fmt: skip
    points = [
      (t * (1.05 if name != 'orthogonal' else 0.95), r.greatest)
      for (*_, t), found in table.items()
      for r in found
    ]
    axis.plot(*zip(*points, strict=True), 'o', ms=3, color=color, label=name)
  times = np.linspace(0.8, 12, 50)
  axis.plot(times, np.exp(times), ':', color='0.4', label='e^T')
  axis.set_xscale('log')
  axis.set_yscale('log')
  axis.set_xlabel('time T')
  axis.set_ylabel('greatest |dL/dx_n| / |dL/dx_N|')
  axis.legend(frameon=False, fontsize='small')
  common.save(fig, path)
