"""Leaves of two trees are equal, or close."""

import jax
import jax.numpy as jnp
import numpy as np


def bits(tree):
  """Leaves in NumPy; keys as their data."""
  key = lambda x: jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key)
  return [
    np.asarray(jax.random.key_data(x) if key(x) else x)
    for x in map(_array, jax.tree.leaves(tree))
  ]


def _array(leaf):
  return leaf if hasattr(leaf, 'dtype') else np.asarray(leaf)


def strong(tree):
  """Without weak types: a first state and later ones share one program."""
  key = lambda x: jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key)
  return jax.tree.map(lambda x: x if key(x) else jnp.array(np.asarray(x)), tree)


def differ(one, two):
  """Whether any number of them differs."""
  pairs = zip(bits(one), bits(two), strict=True)
  return any((a != b).any() for a, b in pairs)


def check_same(one, two):
  """Bit for bit."""
  for a, b in zip(bits(one), bits(two), strict=True):
    np.testing.assert_array_equal(a, b)


def check_close(one, two, **tolerance):
  """Up to `rtol` and `atol` of NumPy."""
  for a, b in zip(bits(one), bits(two), strict=True):
    np.testing.assert_allclose(a, b, **tolerance)
