"""Patches: against unfolding and multiplying."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rl.implicit_attention import patches
from tests import marks, seeds

SHAPES = [(7, 4), (1, 1), (2, 3), *marks.slow((3, 1), (2, 2), (3, 2), (5, 1))]


def unfolded(picture, size, stride):
  """All patches, flattened by row, column and channel."""
  height, width, _ = picture.shape
  return np.stack(
    [
      picture[i : i + size, j : j + size].ravel()
      for i in range(0, height - size + 1, stride)
      for j in range(0, width - size + 1, stride)
    ]
  )


@pytest.mark.parametrize(('size', 'stride'), SHAPES)
def test_projections_are_products_with_unfolded_patches(size, stride):
  rng = seeds.rng(0)
  picture = rng.normal(size=(14, 11, 3))
  kernel = rng.normal(size=(size, size, 3, 5))
  cut = patches.Patches(size, stride)
  rows = unfolded(picture, size, stride)
  assert len(rows) == np.prod(cut.grid(14, 11))
  index = np.arange(len(rows))[::-2]

  @jax.jit
  def run(picture, kernel):
    return cut.project(picture, kernel).T, cut.means(
      picture, jnp.asarray(index)
    )

  found, means = run(np.float32(picture), np.float32(kernel))
  np.testing.assert_allclose(
    found, rows @ kernel.reshape(-1, 5), rtol=1e-4, atol=1e-4
  )
  expected = rows.reshape(len(rows), -1, 3).mean(axis=1)[index]
  np.testing.assert_allclose(means, expected, atol=1e-5)


def test_centers_are_in_the_middle_of_patches():
  cut = patches.Patches(7, 4)
  centers = cut.centers(96, 96)
  assert cut.grid(96, 96) == (23, 23)
  assert len(centers) == 529
  np.testing.assert_array_equal(centers[24], [7, 7])
  pixels = patches.Patches(1, 1)
  assert len(pixels.centers(96, 96)) == 9216
  np.testing.assert_array_equal(pixels.centers(96, 96)[97], [1, 1])


def test_members_of_a_population_are_projected_alike():
  rng = seeds.rng(1)
  pictures = jnp.asarray(rng.normal(size=(3, 12, 12, 2)), jnp.float32)
  kernels = jnp.asarray(rng.normal(size=(3, 4, 4, 2, 3)), jnp.float32)
  cut = patches.Patches(4, 2)
  found = jax.jit(jax.vmap(cut.project))(pictures, kernels)
  project = jax.jit(cut.project)
  for i in range(3):
    alone = project(pictures[i], kernels[i])
    np.testing.assert_allclose(found[i], alone, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('values', [(0, 1), (3, 0)])
def test_sizes_that_do_not_fit_are_refused(values):
  with pytest.raises(ValueError, match=r'size|stride'):
    patches.Patches(*values)
  with pytest.raises(ValueError, match='must hold a patch'):
    patches.Patches(7, 4).grid(6, 9)
