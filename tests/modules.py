"""Flax modules, each as one program for all tests of a file."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from tests import seeds


@functools.partial(jax.jit, static_argnums=0)
def init(module, key, *inputs):
  return module.init(key, *inputs)


@functools.partial(jax.jit, static_argnums=0)
def apply(module, variables, *inputs):
  return module.apply(variables, *inputs)


def drawn(module, *inputs, number=3, dtype=np.float32):
  """Random parameters of a module, without a program that draws the first ones.

  Biases and scales too: zeros and ones would hide mistakes.
  """
  rng = seeds.rng(number)

  def draw(path, leaf):
    noise = rng.normal(size=leaf.shape) * 0.35
    return jnp.asarray(noise + (path[-1].key == 'scale'), dtype)

  shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), *inputs))
  return jax.tree_util.tree_map_with_path(draw, shapes)
