"""COCO's official instances: recorded values, optima and batches."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rl.es.bbob import coco
from tests import marks, refusals, seeds
from tests.rl.es.bbob import bbob_cases

RECORDED = bbob_cases.RECORDED['coco']


@pytest.mark.parametrize(
  'row', [0, *marks.slow(1, 2, 3)], ids=lambda row: f'row{row}'
)
def test_values_are_those_of_coco(row):
  """All 24 functions, with their shifts, rotations and offsets."""
  problems, points, expected = [], [], []
  with jax.enable_x64(True):
    for number, rows in RECORDED.items():
      dimension, instance, found = rows[row]
      problems.append(
        coco.instance(int(number), dimension, instance, jnp.float64)
      )
      points.append(bbob_cases.coco_points(dimension))
      expected.append(found)
    assert len(problems) == 24

    @jax.jit
    def values(problems, points):
      at = jax.vmap(coco.value, (0, None))
      pairs = zip(points, problems, strict=True)
      lowest = [coco.value(p.minimizer, p) - p.offset for p in problems]
      return [at(x, problem) for x, problem in pairs], lowest

    found, lowest = values(problems, list(map(jnp.asarray, points)))
  np.testing.assert_allclose(found, expected, rtol=1e-9)
  np.testing.assert_allclose(lowest, 0, atol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize('dimension', [3, 10])
def test_values_are_those_of_the_installed_cocoex(dimension):
  cocoex = pytest.importorskip('cocoex')
  points = seeds.rng(0).uniform(-5, 5, (20, dimension))
  for number in coco.FORMULAS:
    suite = cocoex.Suite(
      'bbob',
      'instances: 7',
      f'dimensions: {dimension} function_indices: {number}',
    )
    theirs = [suite[0](x) for x in points]
    with jax.enable_x64(True):
      problem = coco.instance(number, dimension, 7, jnp.float64)
      ours = jax.vmap(coco.value, (0, None))(jnp.asarray(points), problem)
    np.testing.assert_allclose(ours, theirs, 1e-9, err_msg=str(number))


def test_instances_stack():
  numbers = (1, 2, 3)
  problems = [coco.instance(22, 3, number) for number in numbers]
  stacked = jax.tree.map(lambda *x: jnp.stack(x), *problems)
  x = jnp.float32([1.0, -2.0, 3.0])
  found = jax.jit(jax.vmap(coco.value, (None, 0)))(x, stacked)
  alone = [coco.value(x, problem) for problem in problems]
  np.testing.assert_allclose(found, alone, rtol=1e-5)
  assert len(set(map(float, stacked.offset))) == 3


test_rejects = refusals.all_with(
  'got',
  lambda: coco.instance(25, 2, 1),
  lambda: coco.instance(0, 2, 1),
  lambda: coco.instance(1, 1, 1),
  lambda: coco.instance(1, 41, 1),
  lambda: coco.instance(1, 2, 0),
  lambda: coco.value(jnp.zeros(3), coco.instance(1, 2, 1)),
)
