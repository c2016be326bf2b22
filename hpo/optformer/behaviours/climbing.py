"""The search for the largest value of a function that is cheap in batches.

Candidates are uniform points and points near to some that are known; then come
rounds of ever smaller steps around the best of them. Numbers are choices of this
module.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.scipy import special
from jaxtyping import Array, Float, Key

from hpo.optformer.behaviours import cube as cube_lib

__all__ = ['BEST', 'climb']

# Candidates of each round around which is searched.
BEST = 4


def climb(
  key: Key[Array, ''],
  cube: cube_lib.Cube,
  near: Float[Array, 'n d'],
  score: Callable[[Float[Array, 'm d']], Float[Array, ' m']],
  *,
  rounds: int,
  offspring: int,
) -> Float[Array, ' d']:
  """The best of candidates, then of their neighbours.

  Args:
    key: of all draws.
    cube: of the points.
    near: as many candidates are drawn near to these, and as many anywhere.
    score: to be maximised.
    rounds: of the search around the best candidates.
    offspring: points of each round, the same number around each of the best 4.
  """
  keys = jax.random.split(key, 3)
  anywhere = cube.uniform(keys[0], (len(near),))
  places = jnp.concatenate([anywhere, _moved(keys[1], cube, near, 0.1)])
  scores = score(places)
  top = jax.lax.top_k(scores, BEST)[1]

  def step(
    carry: tuple[Array, Array], number: Array
  ) -> tuple[tuple[Array, Array], None]:
    places, scores = carry
    parents = jnp.tile(places, (offspring // BEST, 1))
    size = 0.2 * 0.45**number
    moved = _moved(jax.random.fold_in(keys[2], number), cube, parents, size)
    places = jnp.concatenate([places, moved])
    scores = jnp.concatenate([scores, score(moved)])
    top = jax.lax.top_k(scores, BEST)[1]
    return (places[top], scores[top]), None

  start = (places[top], scores[top])
  (places, _), _ = jax.lax.scan(step, start, jnp.arange(rounds))
  return places[0]


def _moved(
  key: Key[Array, ''],
  cube: cube_lib.Cube,
  parents: Float[Array, 'n d'],
  size: Float[Array, ''] | float,
) -> Float[Array, 'n d']:
  """Normal steps of real parameters; listed ones are drawn anew at times."""
  # One call draws for all: each call is much code for the compiler.
  drawn = jax.random.uniform(key, (4, *parents.shape), minval=1e-6)
  # Some steps change few parameters.
  chance = 0.2 + 0.8 * drawn[0, :, :1]
  changes = drawn[1] < chance
  steps = size * special.ndtri(drawn[2])
  reals = jnp.clip(parents + jnp.where(changes, steps, 0), 0.0, 1.0)
  listed = jnp.where(changes, cube.snap(drawn[3]), parents)
  return jnp.where(cube.is_real, reals, listed)
