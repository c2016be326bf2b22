"""Flax modules, each as one program for all tests of a file."""

import functools

import jax


@functools.partial(jax.jit, static_argnums=0)
def init(module, key, *inputs):
  return module.init(key, *inputs)


@functools.partial(jax.jit, static_argnums=0)
def apply(module, variables, *inputs):
  return module.apply(variables, *inputs)
