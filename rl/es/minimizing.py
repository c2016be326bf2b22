"""Minimising a plain function, without environments or policies."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import flatten_util
from jaxtyping import Array, Float, PyTree

from rl import ranges
from rl.es import evaluator as evaluator_lib
from rl.es import population as population_lib
from rl.es import search as search_lib
from rl.es import strategy

__all__ = ['Minimum', 'minimize']

_STRATEGY = strategy.Strategy(
  strategy.ESConfig(num_pairs=16, sigma=0.1, normalize=False), optax.adam(0.05)
)


class Minimum(NamedTuple):
  """The result of `minimize`.

  Attributes:
    x: the best of all evaluated points.
    value: f there.
    history: float32 [steps] each: `value`, f at the centre of each population,
      and `best`, the smallest value until then.
  """

  x: PyTree
  value: float
  history: dict[str, Float[np.ndarray, ' steps']]


def minimize(
  f: Callable[[PyTree], Float[Array, '']],
  x0: PyTree,
  *,
  method: search_lib.Search = _STRATEGY,
  steps: int = 200,
  seed: int = 0,
  batched: bool = False,
) -> Minimum:
  """Minimises a function by its values alone.

  Args:
    f: of a point like `x0`; in JAX, and vmapped here. Values that are not finite
      are ignored.
    x0: the first centre, a tree of float arrays.
    method: `strategy.Strategy`, whose default has 16 pairs, sigma 0.1 and
      `optax.adam(0.05)`; or `cma.CMAES(sigma)`. Neither may normalise.
    steps: generations; each takes the population's values and one more.
    seed: of all draws.
    batched: whether f takes all points of a generation at once, as NumPy arrays
      with a leading axis, and runs on the host.

  Returns:
    The best point, its value and the history.

  Raises:
    ValueError: if `steps` is not positive, x0 has no numbers, f does not return
      one number per point, or no value is finite.
  """
  ranges.check_counts(steps=steps)
  flat, unravel = flatten_util.ravel_pytree(x0)
  if not flat.size:
    raise ValueError(f'x0 must have numbers to vary, got {x0=}')
  flat = flat.astype(jnp.float32)
  values = _on_host(f, unravel) if batched else _vmapped(f, unravel, flat)

  def generation(state: search_lib.State) -> tuple:
    request = method.ask(state)
    points = population_lib.all_members(
      request.population, request.keys.shape[0]
    )
    points = jnp.concatenate([points, state.theta[None]])
    found = values(points)
    center = None
    if request.center_keys.shape[0]:
      center = evaluator_lib.Evaluation.of(-found[-1:])
    evaluation = evaluator_lib.Evaluation.of(-found[:-1])
    state, _ = method.tell(state, request, evaluation, center)
    best = jnp.argmin(jnp.where(jnp.isfinite(found), found, jnp.inf))
    return state, points[best], found[best], found[-1]

  if method.pure and not batched:
    generation = jax.jit(generation)
  state = method.init(flat, jax.random.key(seed))
  x, value = flat, np.inf
  history = {'value': np.zeros(steps, np.float32)}
  history['best'] = np.zeros(steps, np.float32)
  for step in range(steps):
    state, point, lowest, history['value'][step] = generation(state)
    if lowest < value:
      x, value = point, float(lowest)
    history['best'][step] = value
  if not np.isfinite(value):
    raise ValueError(f'f must be finite somewhere near x0, got {x0=}')
  return Minimum(unravel(x), value, history)


def _vmapped(
  f: Callable, unravel: Callable, like: Float[Array, ' d']
) -> Callable[[Float[Array, 'p d']], Float[Array, ' p']]:
  one = lambda x: f(unravel(x))
  shape = jax.eval_shape(one, like).shape
  if shape:
    raise ValueError(f'f must return a scalar, got shape {shape}')
  return jax.jit(jax.vmap(one))


def _on_host(
  f: Callable, unravel: Callable
) -> Callable[[Float[Array, 'p d']], Float[Array, ' p']]:
  def run(points: Float[Array, 'p d']) -> Float[Array, ' p']:
    found = np.asarray(f(jax.device_get(jax.vmap(unravel)(points))))
    if found.shape != points.shape[:1]:
      raise ValueError(
        'a batched f must return one number per point, got shape '
        f'{found.shape} for {points.shape[0]} points'
      )
    return jnp.asarray(found, jnp.float32)

  return run
