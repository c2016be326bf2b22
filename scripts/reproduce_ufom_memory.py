"""Rows of memory: what the compiler plans against the number of inner steps."""

import functools
import pathlib
from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
import reproduce_common as common

from hpo import ufom

__all__ = ['memory_rows', 'temporary_bytes']

WIDTH = 100  # Of a network with 2 WIDTH^2 = 20,000 parameters.
EXAMPLES = 20
Gradient = Callable[..., ufom.Hypergradient]


def _gradients() -> dict[str, Gradient]:
  exact = {
    mode: functools.partial(ufom.exact_grad, mode=mode) for mode in ufom.MODES
  }
  return {'FOM': ufom.fom_grad, **exact}


def _loss(phi: dict[str, jax.Array], x: jax.Array) -> jax.Array:
  return jnp.mean((jnp.tanh(x @ phi['in']) @ phi['out'] - 1) ** 2)


def temporary_bytes(gradient: Gradient, r: int) -> int:
  """Temporary memory of a compiled gradient of MAML's form.

  Args:
    gradient: `ufom.fom_grad`, or `ufom.exact_grad` in a mode.
    r: number of inner steps.

  Raises:
    RuntimeError: if this platform does not tell.
  """
  loss = lambda theta, phi, x: _loss(phi, x)
  problem = ufom.ABLOProblem(lambda theta, x: theta, loss, loss)
  shape = lambda *s: jax.ShapeDtypeStruct(s, jnp.float32)
  theta = {'in': shape(WIDTH, WIDTH), 'out': shape(WIDTH, WIDTH)}
  compiled = (
    jax.jit(lambda theta, x: gradient(problem, theta, x, r, 0.1).grad)
    .lower(theta, shape(EXAMPLES, WIDTH))
    .compile()
  )
  analysis = compiled.memory_analysis()
  if analysis is None:
    raise RuntimeError('the compiler of this platform tells no memory')
  return analysis.temp_size_in_bytes


def memory_rows(
  scale: str, seeds: Sequence[int], *, steps: Sequence[int] = (8, 32, 128, 512)
) -> list[common.Finding]:
  """Memory of every estimator at some numbers of inner steps.

  Args:
    scale: makes no difference.
    seeds: make none either.
    steps: the numbers, rising.
  """
  del scale, seeds
  found = {
    name: [temporary_bytes(gradient, r) for r in steps]
    for name, gradient in _gradients().items()
  }
  flat = all(
    max(found[name]) <= 1.1 * min(found[name]) for name in ('FOM', 'recompute')
  )
  size = 4 * 2 * WIDTH**2
  rises = {
    name: (found[name][-1] - found[name][0]) / (steps[-1] - steps[0]) / size
    for name in ('store', 'store_phi')
  }
  bends = max(
    abs(
      (found[name][-1] - found[name][-2])
      / (steps[-1] - steps[-2])
      / size
      / rises[name]
      - 1
    )
    for name in rises
  )
  holds = flat and bends < 0.05 and min(rises.values()) >= 0.95
  return [
    common.Finding(
      {
        'id': 'memory-against-r',
        'claim': 'First-order and recomputed gradients need memory that does not '
        'grow with the number of inner steps, stored ones grow linearly.',
        'ours': {
          f'{name}, r={r}: MB': (value / 1e6,)
          for name, values in found.items()
          for r, value in zip(steps, values, strict=True)
        },
        'published': 'not found',
        'trend': 'FOM and recompute flat within 10 %; store and store_phi on a '
        'line within 5 %, of at least one copy of phi per step',
        'verdict': 'holds' if holds else 'fails',
        'explanation': f'Two layers, {2 * WIDTH**2} parameters, {EXAMPLES} '
        'examples; temporary memory that the compiler plans, without '
        'randomness. Copies of phi per step: '
        + ', '.join(f'{name} {value:.2f}' for name, value in rises.items()),
      },
      functools.partial(_draw, found, steps),
    )
  ]


def _draw(
  found: Mapping[str, Sequence[int]], steps: Sequence[int], path: pathlib.Path
) -> None:
  fig, (axis,) = common.new_axes(1)
  for color, (name, values) in zip(common.COLORS, found.items(), strict=False):
    axis.plot(steps, np.divide(values, 1e6), 'o-', color=color, label=name)
  axis.set(
    xscale='log', yscale='log', xlabel='inner steps r', ylabel='temporary MB'
  )
  axis.legend(frameon=False, fontsize='small')
  common.save(fig, path)
