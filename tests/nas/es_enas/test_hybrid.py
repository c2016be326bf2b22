"""Hybrid problems: their parts, optima and batches."""

import functools

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nas.es_enas import hybrid
from rl.es import bbob, evaluator
from tests import refusals, seeds


@functools.cache
def drawn(name='Sphere', numbers=4, categories=3, **settings):
  size = numbers, categories, 5
  draw = lambda key: hybrid.draw(key, bbob.FUNCTIONS[name], *size, **settings)
  return jax.jit(draw)(seeds.key(0))


@jax.jit
def evaluate(problem, *member):
  """One program for all problems of a kind."""
  return problem.evaluate(*member)


def points(problem, architecture):
  """Where categories are, by hand."""
  order, shift = jax.device_get((problem.order, problem.category_shift))
  return np.linspace(-5, 5, 5)[order[range(3), architecture]] - shift


def ellipsoid(whole):
  function, plain = bbob.FUNCTIONS['Ellipsoidal'], bbob.plain(len(whole))
  return jax.jit(lambda x: function(x, plain))(np.float32(whole))


def test_values_are_the_function_at_grid_points():
  """By hand: the coordinates in their places, the numbers rotated."""
  problem = drawn('EllipsoidalRotated')
  theta = np.float32(seeds.rng(0).uniform(-5, 5, 4))
  architecture = np.int32([4, 0, 2])
  chosen = points(problem, architecture)
  moved = np.asarray(problem.rotation) @ (theta - np.asarray(problem.shift))
  # Seven coordinates, of which the categories are the first, middle and last.
  whole = [
    chosen[0],
    moved[0],
    moved[1],
    chosen[1],
    moved[2],
    moved[3],
    chosen[2],
  ]
  expected = ellipsoid(whole)
  found = evaluate(problem, theta, architecture)
  np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_categories_alone():
  problem = drawn('Ellipsoidal', numbers=0)
  architecture = np.int32([0, 3, 1])
  expected = ellipsoid(points(problem, architecture))
  found = evaluate(problem, np.zeros(0, np.float32), architecture)
  np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_the_optimum_is_hidden():
  """The labels say nothing about the points, which all categories have."""
  problem = jax.jit(
    lambda key: hybrid.draw(key, bbob.FUNCTIONS['Sphere'], 2, 4000, 3)
  )(seeds.key(1))
  order = np.asarray(problem.order)
  assert (np.sort(order, 1) == np.arange(3)).all()
  counts = np.bincount(order[:, 0] * 3 + order[:, 1], minlength=9)
  # Each of the six orders is as frequent as the others: chi-square of 5.
  counts = counts[[1, 2, 3, 5, 6, 7]]
  assert np.sum((counts - 4000 / 6) ** 2 / (4000 / 6)) < 25.7
  assert np.abs(np.asarray(problem.category_shift)).max() <= 4
  still = drawn(shift=0.0)
  np.testing.assert_array_equal(still.shift, 0)
  # Without shifts the optimum is 0: the middle of the grid.
  middle = np.argmax(np.asarray(still.order) == 2, 1).astype(np.int32)
  found = evaluate(still, np.zeros(4, np.float32), middle)
  assert found == pytest.approx(0, abs=1e-9)


def test_starts_are_uniform():
  problem = drawn()
  keys = jax.random.split(seeds.key(2), 2000)
  theta, architecture = map(np.asarray, jax.jit(jax.vmap(problem.start))(keys))
  assert theta.shape == (2000, 4)
  assert np.abs(theta).max() <= 5
  np.testing.assert_allclose(theta.std(0), 10 / 12**0.5, rtol=0.08)
  counts = np.bincount(np.ravel(architecture), minlength=5)
  np.testing.assert_allclose(counts, 1200, atol=5 * 1200**0.5)


def test_problems_stack():
  """A batch of problems is one program, and so is a batch of points."""
  keys = jax.random.split(seeds.key(3), 3)
  function = bbob.FUNCTIONS['Rastrigin']
  stacked = jax.jit(jax.vmap(lambda k: hybrid.draw(k, function, 2, 2, 4)))(keys)
  assert (stacked.size, stacked.space.length) == (2, 2)

  @jax.jit
  @jax.vmap
  def run(problem, key):
    start = problem.start(key)
    return start, problem.evaluate(*start)

  starts, values = run(stacked, keys)
  several = jax.device_get((stacked, starts))
  for i in range(3):
    one, start = jax.tree.map(lambda x, i=i: x[i], several)
    np.testing.assert_allclose(evaluate(one, *start), values[i], rtol=1e-4)


def test_hamming():
  problem = hybrid.hamming(seeds.key(4), 6, 4)
  theta = jnp.zeros(0)
  best = problem.optimum
  assert problem.evaluate(theta, best) == 0
  assert problem.evaluate(theta, best.at[2].set((best[2] + 1) % 4)) == 1
  assert problem.evaluate(theta, (best + 1) % 4) == 6
  assert bool(problem.space.is_valid(best))


@flax.struct.dataclass
class Members:
  """Rows of two sides, as a search with architectures has them."""

  theta: jax.Array
  architectures: jax.Array
  size = 4
  sides = 2
  rows = None
  rows_per_block = 2

  def members(self, start, *, count):
    rows = lambda x: jax.lax.dynamic_slice_in_dim(x, start, count, 1)
    return rows(self.theta), rows(self.architectures)


def test_evaluator():
  """Returns are minus the values, all of one side first; only n rows count."""
  problem = drawn()
  theta = np.float32(seeds.rng(5).uniform(-5, 5, (2, 4, 4)))
  chosen = np.int32(seeds.rng(6).integers(0, 5, (2, 4, 3)))
  runs = hybrid.Evaluator(problem)
  assert isinstance(runs, evaluator.Evaluator)
  found = jax.jit(
    lambda runs: runs.evaluate(
      Members(theta, chosen), jax.random.split(seeds.key(0), 3), None
    )
  )(runs)
  expected = [
    -evaluate(problem, theta[side, row], chosen[side, row])
    for side in range(2)
    for row in range(3)
  ]
  np.testing.assert_allclose(found.returns, expected, rtol=1e-5)
  assert int(found.lengths.sum()) == 6
  runs.close()


test_rejects = refusals.all_with(
  'got',
  lambda: drawn(numbers=-1),
  lambda: drawn(categories=0),
  lambda: drawn(shift=-1.0),
  lambda: hybrid.hamming(seeds.key(0), 3, 0),
)
