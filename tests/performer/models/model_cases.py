"""Small models, and parameters without a program that makes them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from performer.models import transformer
from tests import seeds


def small(mechanism, *, causal=True, **sizes):
  """A Transformer of proteins, of two layers and heads, without dropout."""
  defaults = {
    **{'vocab_size': 29, 'max_length': 16, 'dropout': 0.0},
    **{'num_layers': 2, 'num_heads': 2, 'd_model': 16, 'd_ff': 32},
  }
  return transformer.Transformer(
    attention=mechanism, causal=causal, **defaults | sizes
  )


@functools.cache
def init(model, scale=0.4):
  """Parameters of which every entry is random, and projections."""
  token = jnp.zeros((1, 1), jnp.int32)
  w = model.draw_projections(seeds.key(9), 0)
  variables = jax.eval_shape(
    lambda: model.init(seeds.key(0), token, mask=token == 0, projections=w)
  )
  rng = seeds.rng(1)
  params = jax.tree.map(
    # Rounded by NumPy: JAX would compile that for each shape.
    lambda x: jnp.asarray(np.float32(scale * rng.normal(size=x.shape))),
    nn.unbox(variables)['params'],
  )
  return params, w


def attention_params(seed=0, *, scale, heads, d, e, source=None, use_bias=True):
  """Random ones of a module, in the tree that is that of Linen and NNX too."""
  rng = seeds.rng(seed)
  widths = {'query': e, 'key': source or e, 'value': source or e}
  shapes = {
    name: {'kernel': (width, heads, d), 'bias': (heads, d)}
    for name, width in widths.items()
  } | {'out': {'kernel': (heads, d, e), 'bias': (e,)}}
  if not use_bias:
    shapes = {name: {'kernel': x['kernel']} for name, x in shapes.items()}
  return jax.tree.map(
    lambda shape: jnp.asarray(scale * rng.normal(size=shape), jnp.float32),
    shapes,
    is_leaf=lambda x: isinstance(x, tuple),
  )
