"""Numbers that tell how a search goes; all may be traced.

Reference: arXiv:2106.02229; the code of its authors, for the mean of entropies.
"""

from collections.abc import Iterable
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PyTree, Shaped

from nas.rl_darts import probabilities, spaces

__all__ = [
  'Edges',
  'Entropies',
  'best_of',
  'cells_for',
  'cosine',
  'entropies',
  'op_mass',
  'ranking',
  'spearman',
  'summary',
]


class Edges(NamedTuple):
  """The edges of a cell type.

  Attributes:
    p: probabilities of their operations.
    space: of the cell.
  """

  p: Float[Array, 'e o']
  space: spaces.CellSpace


class Entropies(NamedTuple):
  """Entropies of edges, nats, in [0, log |O|].

  Attributes:
    edges: of each edge, [E].
    mean: over edges.
    by_node: mean over nodes of the mean over a node's edges, as published: the
      one edge of the first node weighs as much as the four of the fourth.
  """

  edges: Float[Array, ' e']
  mean: Float[Array, '']
  by_node: Float[Array, '']


def entropies(
  p: Float[Array | np.ndarray, 'e o'], space: spaces.CellSpace
) -> Entropies:
  """-sum_o p log p of each edge, and means.

  Args:
    p: probabilities of the edges.
    space: of the cell.
  """
  logs = jnp.log(jnp.where(p > 0, p, 1))
  edges = -jnp.sum(p * logs, axis=-1)
  nodes = [
    edges[space.first_edge(n) : space.first_edge(n + 1)].mean()
    for n in range(space.nodes)
  ]
  return Entropies(edges, edges.mean(), jnp.stack(nodes).mean())


def op_mass(
  p: Float[Array | np.ndarray, 'e o'], space: spaces.CellSpace
) -> dict[str, Float[Array, '']]:
  """The mean probability of each operation over edges; they sum to 1."""
  return dict(zip(space.ops, p.mean(axis=0), strict=True))


def ranking(
  p: Float[Array | np.ndarray, 'e o'], space: spaces.CellSpace
) -> list[tuple[int, int, str, float]]:
  """Edges (source, node id, best operation but Zero, probability), strongest first."""
  columns = [space.ops.index(name) for name in space.candidates]
  others = np.asarray(p)[:, columns]
  best = others.argmax(axis=-1)
  edges = [
    (source, space.inputs + node)
    for node in range(space.nodes)
    for source in range(space.inputs + node)
  ]
  found = [
    (*edge, space.candidates[op], float(row[op]))
    for edge, op, row in zip(edges, best, others, strict=True)
  ]
  return sorted(found, key=lambda edge: -edge[-1])


def cosine(one: PyTree, two: PyTree) -> Float[Array, '']:
  """The cosine of the angle between the logits' parts of two gradients.

  Of batches of training levels and of others, for example: where it is small,
  what helps on the ones does not help on the others.

  Args:
    one: a gradient of all parameters.
    two: another.
  """
  flat = lambda tree: jnp.concatenate(
    [
      leaf.ravel()
      for kinds in probabilities.alphas(tree).values()
      for logits in kinds.values()
      for leaf in logits.values()
    ]
  )
  a, b = flat(one), flat(two)
  scale = jnp.linalg.norm(a) * jnp.linalg.norm(b)
  return jnp.sum(a * b) / jnp.where(scale > 0, scale, 1)


def spearman(
  one: Shaped[np.ndarray, ' n'], two: Shaped[np.ndarray, ' n']
) -> float:
  """Correlation of ranks, ties at their mean rank; NaN if one is constant.

  Args:
    one: returns of supernets at some checkpoints, for example.
    two: returns of the cells derived there.

  Raises:
    ValueError: if there are not two values or more, as many in both.
  """
  one, two = (np.asarray(x, np.float64) for x in (one, two))
  if one.shape != two.shape or one.ndim != 1 or one.size < 2:
    raise ValueError(
      f'ranks need two lists of two or more, got {one.shape} and {two.shape}'
    )
  ranks = lambda x: ((x[:, None] > x) + 0.5 * (x[:, None] == x)).sum(1)
  a, b = (ranks(x) - ranks(x).mean() for x in (one, two))
  scale = np.sqrt((a @ a) * (b @ b))
  return float(a @ b / scale) if scale > 0 else float('nan')


def best_of(
  levels: Float[np.ndarray, ' n'], counts: Int[np.ndarray, ' c'] | int
) -> Float[np.ndarray, ' c']:
  """The expected largest of some levels, drawn with replacement.

  Args:
    levels: to draw from, such as those of random cells.
    counts: numbers of draws.
  """
  ordered = np.sort(levels)
  below = np.arange(len(ordered) + 1) / len(ordered)
  return ordered @ np.diff(below[:, None] ** np.atleast_1d(counts), axis=0)


def cells_for(
  level: float, levels: Float[np.ndarray, ' n'], most: int = 1000
) -> float:
  """Random cells whose best is expected to reach a level, between numbers.

  Args:
    level: of a searched cell.
    levels: of random cells.
    most: the answer where no number suffices.
  """
  counts = np.arange(1, most + 1)
  best = best_of(levels, counts)
  return float(most if level > best[-1] else np.interp(level, best, counts))


def summary(cells: Iterable[Edges]) -> dict[str, Float[Array, '']]:
  """Metrics of a search: means over cell types.

  Args:
    cells: one for each type. The mass of an operation is a mean over those that
      have it.
  """
  cells = [*cells]
  found = [entropies(*one) for one in cells]
  masses: dict[str, list[Array]] = {}
  for one in cells:
    for op, mass in op_mass(*one).items():
      masses.setdefault(f'mass_{op}', []).append(mass)
  average = lambda values: jnp.stack(values).mean()
  return {
    'alpha_entropy': average([one.by_node for one in found]),
    'alpha_entropy_edges': average([one.mean for one in found]),
    **{name: average(values) for name, values in masses.items()},
  }
