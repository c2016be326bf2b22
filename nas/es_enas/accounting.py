"""What a policy costs: exact counts, traced where they depend on choices.

  bits = 32 (weights + rest) + bits of indices + bits of other decisions
  compression = 1 - (weights + rest) / (E + rest)

Bits of indices are E ceil(log2 colors) for partitions, and E where edges are
pruned. Source: arXiv:1907.06511.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from nas.es_enas import networks
from nas.es_enas import sharing as sharing_lib

__all__ = ['costs']

_LARGEST = np.iinfo(np.int32).max


def costs(
  network: networks.Network, rule: sharing_lib.Sharing, parts: sharing_lib.Parts
) -> dict[str, Array]:
  """Counts what an architecture stores and computes.

  Args:
    network: of any kind.
    rule: how its edges share weights.
    parts: decisions of the architecture, of `Space.parts`.

  Returns:
    Scalars, int32 but the last. `edges` that are there; `weights` that are
    stored; `biases`, which are all parameters of the network that are not
    edges; `parameters`, their sum; `bits`; `multiplications` of an action;
    `colors_in_use`, the different weights of edges; `compression` against a
    weight for every edge, float32.

  Raises:
    ValueError: if counts could exceed those of int32.
  """
  shapes, entries = network.shapes, rule.entries(network.shapes)
  sizes = [rows * columns for rows, columns in shapes]
  edges, uses = sum(sizes), network.uses
  index_bits = rule.index_bits(shapes) + sum(
    group.count * (group.options - 1).bit_length() for group in network.groups
  )
  products = sum(n * m for n, m in zip(sizes, uses, strict=True))
  most = max(32 * (edges + network.rest) + index_bits, products)
  if most > _LARGEST:
    raise ValueError(f'counts must be below 2^31, got up to {most}')
  indices = jnp.asarray(rule.indices(shapes, parts))
  active = indices < entries
  used = jnp.zeros(entries + 1, bool).at[indices].set(True)[:entries]
  weights = rule.stored(shapes, parts)
  counts = {
    'edges': jnp.sum(active),
    'weights': weights,
    'biases': network.rest,
    'parameters': weights + network.rest,
    'bits': 32 * (weights + network.rest) + index_bits,
    'multiplications': jnp.sum(active * np.repeat(uses, sizes)),
    'colors_in_use': jnp.sum(used),
  }
  counts = {name: jnp.asarray(c, jnp.int32) for name, c in counts.items()}
  share = counts['parameters'] / (edges + network.rest)
  return {**counts, 'compression': 1 - share.astype(jnp.float32)}
