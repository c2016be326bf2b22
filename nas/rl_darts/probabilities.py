"""Architecture parameters and their probabilities.

The logits alpha of a cell type are one tree: 'edges', [E, |O|], and 'out', [N],
for weighted outputs. All cells of a type share them. Mixing weights are a tree of
the same shape: probabilities of a supernet, zeros and ones of a discrete cell.

A network holds its logits under the name `ALPHA` in its parameters, or takes them
as an argument beside its weights.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Float, Key, PyTree

from nas.rl_darts import spaces

__all__ = [
  'ALPHA',
  'WEIGHTS',
  'Logits',
  'Place',
  'alphas',
  'init',
  'is_alpha',
  'labels',
  'mapped',
  'merge',
  'place',
  'probabilities',
  'split',
]

ALPHA, WEIGHTS = 'alpha', 'weights'

Logits = Mapping[str, Array | np.ndarray]


def init(
  space: spaces.CellSpace, key: Key[Array, ''], deviation: float = 0.0
) -> dict[str, Array]:
  """The first logits of a cell type.

  Args:
    space: of its cells.
    key: for the draw.
    deviation: of normal logits; zeros, as published, for 0.
  """
  shapes = space.logit_shapes
  keys = dict(zip(shapes, jax.random.split(key, len(shapes)), strict=True))
  return {
    name: deviation * jax.random.normal(keys[name], shape)
    for name, shape in shapes.items()
  }


def probabilities(
  logits: Logits, temperature: Float[Array, ''] | float = 1.0
) -> dict[str, Array]:
  """softmax(alpha / T) for each edge and for the output; the only place of it.

  Args:
    logits: of a cell type; leading axes are allowed.
    temperature: T > 0.

  Returns:
    The mixing weights, a tree of the same shape.
  """
  return jax.tree.map(
    lambda x: jax.nn.softmax(x / temperature, axis=-1), dict(logits)
  )


def _names(path: tuple) -> list[str]:
  return [jax.tree_util.keystr((key,), simple=True) for key in path]


def is_alpha(path: tuple) -> bool:
  """Whether a path of `jax.tree_util` leads to architecture parameters."""
  return ALPHA in _names(path)


class Place(NamedTuple):
  """The logits that a leaf of parameters is.

  Attributes:
    network: path of their encoder or core, such as 'policy/encoder'.
    cell: type.
    part: 'edges' or 'out'.
  """

  network: str
  cell: str
  part: str


def place(path: tuple) -> Place | None:
  """The logits to which a path of `jax.tree_util` leads; None: to weights."""
  names = _names(path)
  if ALPHA not in names:
    return None
  at = names.index(ALPHA)
  network = '/'.join(name for name in names[:at] if name != 'params')
  return Place(network, *names[at + 1 :])


def labels(params: PyTree) -> PyTree:
  """`ALPHA` or `WEIGHTS` for each leaf, for `optax.multi_transform`.

  Args:
    params: of a network, or of a whole agent around networks.
  """
  return jax.tree_util.tree_map_with_path(
    lambda path, _: ALPHA if is_alpha(path) else WEIGHTS, params
  )


def split(params: PyTree) -> tuple[PyTree, PyTree]:
  """Weights and logits: two trees of the same shape, with None for the other."""
  pick = lambda wanted: jax.tree_util.tree_map_with_path(
    lambda path, leaf: leaf if is_alpha(path) == wanted else None, params
  )
  return pick(False), pick(True)


def merge(weights: PyTree, alpha: PyTree) -> PyTree:
  """Undoes `split`."""
  return jax.tree.map(
    lambda one, two: two if one is None else one,
    weights,
    alpha,
    is_leaf=lambda x: x is None,
  )


def alphas(params: PyTree) -> dict[str, dict[str, dict[str, Any]]]:
  """All logits of an agent by encoder and cell type.

  Args:
    params: of a network, or of a whole agent around networks.

  Returns:
    By the path of the encoder, such as 'policy/encoder', the logits of each of
    its cell types.
  """
  found: dict[str, dict[str, dict[str, Any]]] = {}

  def visit(path: tuple, leaf: Any) -> None:
    at = place(path)
    if at is not None:
      cells = found.setdefault(at.network, {})
      cells.setdefault(at.cell, {})[at.part] = leaf

  jax.tree_util.tree_map_with_path(visit, params)
  return found


def mapped(params: PyTree, change: Callable[[Array], Array]) -> PyTree:
  """The parameters with each array of logits changed, such as by masks.

  Args:
    params: of a network, or of a whole agent around networks.
    change: makes the new logits of the old ones.
  """
  return jax.tree_util.tree_map_with_path(
    lambda path, leaf: change(leaf) if is_alpha(path) else leaf, params
  )
