"""Small cells and oracles in float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from nas.rl_darts import cells, spaces
from nas.rl_darts import probabilities as probabilities_lib
from tests import modules, seeds


def normal(number, shape):
  """Normal numbers, float32, without a program that draws them."""
  return jnp.asarray(seeds.rng(number).normal(size=shape), jnp.float32)


def logits(space, number=0):
  rng = seeds.rng(number)
  return {
    name: jnp.asarray(rng.normal(size=shape), jnp.float32)
    for name, shape in space.logit_shapes.items()
  }


@functools.cache
def supernet(space, channels=3, **options):
  """A cell, its weights with random scales, and mixing weights."""
  cell = cells.Cell(channels, space, **options)
  p = probabilities_lib.probabilities(logits(space))
  x = normal(1, (2, 6, 5, channels))
  return cell, modules.drawn(cell, [x] * space.inputs, p), p, x


def windows(x, size, stride, dilation=1, fill=0.0):
  """What a padded kernel sees, [b, i, j, size, size, c]; fill beyond borders."""
  b, h, w, c = x.shape
  reach = (size - 1) * dilation + 1
  sides = [-(-side // stride) for side in (h, w)]
  out = np.full((b, *sides, size, size, c), fill)
  pads = [
    max((new - 1) * stride + reach - old, 0) // 2
    for new, old in zip(sides, (h, w), strict=True)
  ]
  for i in range(sides[0]):
    for j in range(sides[1]):
      for u in range(size):
        for v in range(size):
          row = i * stride + u * dilation - pads[0]
          column = j * stride + v * dilation - pads[1]
          if 0 <= row < h and 0 <= column < w:
            out[:, i, j, u, v] = x[:, row, column]
  return out


def average_pool(x, size, stride):
  seen = windows(x, size, stride, fill=np.nan)
  return np.nanmean(seen, axis=(3, 4))


def grads_close(one, two, tolerance=1e-5):
  for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True):
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    assert np.abs(a - b).max() <= tolerance * (np.abs(b).max() + 1e-6)


MIXED = spaces.CellSpace(
  (
    *('Conv3x3', 'DepthConv3x3Relu', 'DepthSepConv3x3', 'MaxPool3x3'),
    *('LayerNorm', 'Tanh', 'Zero'),
  ),
  nodes=2,
  inputs=2,
)
