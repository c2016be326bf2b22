"""Points, rotations and recorded values of google-vizier and cocoex.

`reference.json` has what the real libraries return at `points(d)`. Vizier ran with
`rotation(1, d)` for R and `rotation(2, d)` for Q where its seed is not 0.
"""

import json
import pathlib

import jax.numpy as jnp
import numpy as np

from rl.es import bbob

RECORDED = json.loads(
  pathlib.Path(__file__).with_name('reference.json').read_text()
)


def rotation(seed, dimension):
  """An orthogonal matrix: three reflections, the same on every machine."""
  made = np.eye(dimension)
  for v in np.random.default_rng([seed, dimension]).normal(size=(3, dimension)):
    made = made - 2 * np.outer(v, v @ made) / (v @ v)
  return made


def points(seed, dimension, half):
  """Two points in [-half, half]^D; larger in 5 dimensions, for penalties."""
  rng = np.random.default_rng([seed, dimension, 7])
  return rng.uniform(-half, half, (2, dimension))


def vizier_points(dimension):
  return points(3, dimension, 9.0 if dimension == 5 else 5.0)


def coco_points(dimension):
  return points(4, dimension, 7.0 if dimension == 5 else 5.0)


def instance(dimension, rotated, dtype):
  """Vizier's: not shifted."""
  matrix = rotation if rotated else lambda _, d: np.eye(d)
  return bbob.Instance(
    jnp.zeros(dimension, dtype),
    jnp.asarray(matrix(1, dimension), dtype),
    jnp.asarray(matrix(2, dimension), dtype),
  )
