"""Discrete cells: derived from logits, drawn, compared, written as JSON.

Reference: arXiv:2106.02229; the code of its authors (google/brain_autorl,
  rl_darts/policies/darts_cells.py, DartsCellConfig.to_fixed_cell_config).
"""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from nas.rl_darts import operations, spaces
from nas.rl_darts import probabilities as probabilities_lib
from rl import ranges

__all__ = [
  'CellGenotype',
  'Genotype',
  'derive',
  'discretise',
  'edge_labels',
  'from_labels',
  'hamming',
  'mixing',
  'random_labels',
]

_SKIP = 'SkipConnection'


@dataclasses.dataclass(frozen=True)
class CellGenotype:
  """A discrete cell: a sum of its edges at each node, without factors.

  Attributes:
    nodes: for each intermediate node its edges (source id, operation), the
      strongest first.
    space: what it was chosen from: numbers of nodes, output and norm.
    out_weights: of the nodes, for weighted outputs; () for others.
    stride: of edges that leave an input.

  Raises:
    ValueError: if an edge does not exist in the space, a node has none or too
      many, or weights of outputs do not fit.
  """

  nodes: tuple[tuple[tuple[int, str], ...], ...]
  space: spaces.CellSpace
  out_weights: tuple[float, ...] = ()
  stride: int = 1

  def __post_init__(self) -> None:
    ranges.check_counts(stride=self.stride)
    space = self.space
    if len(self.nodes) != space.nodes:
      raise ValueError(
        f'there must be edges for {space.nodes} nodes, got {self.nodes}'
      )
    for node, edges in enumerate(self.nodes):
      sources = [source for source, _ in edges]
      repeated = len(set(sources)) < len(sources)
      if repeated or not 1 <= len(edges) <= space.kept:
        raise ValueError(
          f'a node has 1 to {space.kept} edges from different sources, got '
          f'{edges} for node {node}'
        )
      for source, op in edges:
        known = type(source) is int and source in range(space.inputs + node)
        if not known or op not in space.candidates:
          raise ValueError(
            f'sources of node {node} are below {space.inputs + node} and '
            f'operations are {space.candidates}, got {(source, op)}'
          )
    weights = space.nodes if space.output == 'weighted' else 0
    if len(self.out_weights) != weights:
      raise ValueError(
        f'{space.output=} needs {weights} out_weights, got {self.out_weights}'
      )
    for weight in self.out_weights:
      ranges.check_not_negative(out_weights=weight)

  def labels(self) -> Int[np.ndarray, ' e']:
    """Per edge the number of its operation in the space; -1: not kept."""
    found = np.full(self.space.num_edges, -1, np.int32)
    for node, edges in enumerate(self.nodes):
      for source, op in edges:
        found[self.space.edge(source, node)] = self.space.ops.index(op)
    return found

  def mixing(self) -> dict[str, Float[np.ndarray, '...']]:
    """The mixing weights with which a supernet computes this cell."""
    # By NumPy: in a traced function all that JAX makes is traced.
    ops = np.arange(len(self.space.ops))
    found = {'edges': np.float32(self.labels()[:, None] == ops)}
    if self.out_weights:
      found['out'] = np.asarray(self.out_weights, np.float32)
    return found

  def to_dict(self) -> dict[str, Any]:
    """As JSON has it."""
    return {
      'nodes': [[list(edge) for edge in edges] for edges in self.nodes],
      'ops': list(self.space.ops),
      'num_inputs': self.space.inputs,
      'num_pred': self.space.kept,
      'out_mode': self.space.output,
      'out_weights': list(self.out_weights),
      'norm': self.space.norm,
      'reduction_stride': self.stride,
    }

  @classmethod
  def from_dict(cls, found: Any) -> 'CellGenotype':
    """Undoes `to_dict`.

    Raises:
      ValueError: if a value is missing, unknown or of another type, or the cell
        is not valid.
    """
    _check_json(found)
    space = spaces.CellSpace(
      tuple(found['ops']),
      len(found['nodes']),
      found['num_inputs'],
      found['num_pred'],
      found['out_mode'],
      found['norm'],
    )
    nodes = tuple(
      tuple((source, op) for source, op in edges) for edges in found['nodes']
    )
    weights = tuple(map(float, found['out_weights']))
    return cls(nodes, space, weights, found['reduction_stride'])


# A cell in JSON, by examples: lists have any length, and a tuple is a list of two.
_EXAMPLE = {
  'nodes': [[(0, 'Relu')]],
  'ops': ['Relu', 'Zero'],
  'num_inputs': 1,
  'num_pred': 2,
  'out_mode': 'concat',
  'out_weights': [0.5],
  'norm': 'affine',
  'reduction_stride': 1,
}


def _is_like(found: Any, example: Any) -> bool:
  """Whether a value of JSON has the types of an example."""
  if not isinstance(example, list | tuple):
    kind = type(example)
    return type(found) is kind or (kind is float and type(found) is int)
  if not isinstance(found, list):
    return False
  if isinstance(example, list):
    return all(_is_like(one, example[0]) for one in found)
  return len(found) == len(example) and all(map(_is_like, found, example))


def _check_json(found: Any) -> None:
  """Raises a ValueError unless a value of JSON has the form of a cell."""
  if not isinstance(found, Mapping):
    raise ValueError(f'a cell has {sorted(_EXAMPLE)}, got {found!s:.80}')
  missing = sorted(_EXAMPLE.keys() - found.keys())
  unknown = sorted(found.keys() - _EXAMPLE.keys())
  if missing or unknown:
    raise ValueError(
      f'a cell has {sorted(_EXAMPLE)}, got {missing=} {unknown=}'
    )
  for name, example in _EXAMPLE.items():
    if not _is_like(found[name], example):
      raise ValueError(
        f'{name} must be like {example!r}, got {found[name]!r:.80}'
      )


@dataclasses.dataclass(frozen=True)
class Genotype:
  """The discrete cells of a network.

  Attributes:
    cells: (cell type, cell) pairs, sorted by type.
  """

  cells: tuple[tuple[str, CellGenotype], ...]

  @classmethod
  def of(cls, cells: Mapping[str, CellGenotype]) -> 'Genotype':
    """That of cells by type."""
    return cls(tuple(sorted(cells.items())))

  def __getitem__(self, kind: str) -> CellGenotype:
    found = dict(self.cells)
    if kind not in found:
      raise ValueError(
        f'a genotype of {sorted(found)} has no cell of the type {kind!r}'
      )
    return found[kind]

  def to_json(self) -> str:
    """Text that `from_json` reads."""
    found = {kind: cell.to_dict() for kind, cell in self.cells}
    return json.dumps(found, indent=2) + '\n'

  @classmethod
  def from_json(cls, text: str) -> 'Genotype':
    """Undoes `to_json`.

    Raises:
      ValueError: if the text is no JSON, or a cell is not valid.
    """
    found = json.loads(text)
    if not isinstance(found, dict) or not found:
      raise ValueError(f'a genotype is cells by type, got {text[:80]!r}')
    return cls.of({k: CellGenotype.from_dict(v) for k, v in found.items()})

  def digest(self) -> str:
    """Twelve digits that equal networks share, in whatever order edges are."""
    found = {kind: cell.to_dict() for kind, cell in self.cells}
    for cell in found.values():
      # The choice there was is no part of the network.
      del cell['ops'], cell['num_pred']
      cell['nodes'] = [sorted(edges) for edges in cell['nodes']]
      # They would tell runs apart whose cells have the same edges.
      cell['out_weights'] = [round(w, 3) for w in cell['out_weights']]
    text = json.dumps(found, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


@functools.lru_cache
def _table(space: spaces.CellSpace) -> Int[np.ndarray, 'n s']:
  """Numbers of the edges into each node, by source; E where there is none."""
  found = np.full(
    (space.nodes, space.inputs + space.nodes - 1), space.num_edges
  )
  for node in range(space.nodes):
    sources = space.inputs + node
    found[node, :sources] = space.first_edge(node) + np.arange(sources)
  return found


def edge_labels(
  probabilities: Float[Array | np.ndarray, 'e o'],
  space: spaces.CellSpace,
  max_skips: int | None = None,
) -> Int[Array, ' e']:
  """Which edges a discrete cell keeps, and their operations; may be traced.

  The operation of an edge is the most probable one but Zero. A node keeps the
  edges where its probability is largest. Probabilities are not normalised again
  without Zero: an edge whose mass is on Zero is weak. Equal ones: the first
  operation, the first source.

  Args:
    probabilities: of the edges.
    space: of the cell.
    max_skips: most skip connections; beyond, the weakest edges with one take
      their next best operation. None: any number. (A search that goes on for
      long tends to skip connections.)

  Returns:
    Numbers of the operations; -1 where the edge is not kept.

  Raises:
    ValueError: if the shape is not [E, |O|], or `max_skips` is negative, or given
      where there is no other operation.
  """
  ranges.check_counts(least=0, max_skips=max_skips)
  if max_skips is not None and space.candidates == (_SKIP,):
    raise ValueError(
      f'max_skips needs another operation, got {max_skips=} {space.ops=}'
    )
  expected = space.logit_shapes['edges']
  if probabilities.shape != expected:
    raise ValueError(
      f'edges of this space have the shape {expected}, got {probabilities.shape}'
    )
  # Below any probability, so that Zero loses against what underflowed.
  is_zero = jnp.array([name == operations.ZERO for name in space.ops])
  others = jnp.where(is_zero, -1.0, probabilities)
  if max_skips is None or _SKIP not in space.ops:
    return _kept(others, space)
  skip = space.ops.index(_SKIP)

  def demote(
    _: Int[Array, ''], others: Float[Array, 'e o']
  ) -> Float[Array, 'e o']:
    skips = _kept(others, space) == skip
    weakest = jnp.argmin(jnp.where(skips, others[:, skip], jnp.inf))
    # Below all others but Zero.
    changed = others.at[weakest, skip].set(-0.5)
    return jnp.where(skips.sum() > max_skips, changed, others)

  return _kept(jax.lax.fori_loop(0, space.num_edges, demote, others), space)


def _kept(
  others: Float[Array, 'e o'], space: spaces.CellSpace
) -> Int[Array, ' e']:
  """Labels by the largest numbers, where that of Zero is -1."""
  strength = jnp.append(others.max(axis=-1), -1.0)[_table(space)]
  order = jnp.argsort(-strength, axis=-1, stable=True)
  rank = jnp.argsort(order, axis=-1, stable=True)
  kept = jnp.zeros(space.num_edges + 1, bool)
  kept = kept.at[_table(space)].set(rank < space.kept)[:-1]
  return jnp.where(kept, others.argmax(axis=-1), -1).astype(jnp.int32)


def mixing(labels: Int[Array | np.ndarray, '... e'], num_ops: int) -> Array:
  """The mixing weights of discrete cells: 1 for kept operations, else 0."""
  return jax.nn.one_hot(labels, num_ops)


def hamming(
  one: Int[Array | np.ndarray, '... e'], two: Int[Array | np.ndarray, '... e']
) -> Array:
  """Number of edges on which cells differ: kept or not, or the operation."""
  return jnp.sum(jnp.asarray(one) != jnp.asarray(two), axis=-1)


def random_labels(
  key: Key[Array, ''], space: spaces.CellSpace
) -> Int[Array, ' e']:
  """Edge labels of a cell drawn uniformly from all of the space; may be traced.

  Sources and operations are uniform and independent of each other.
  """
  noise_key, op_key = jax.random.split(key)
  candidates = [space.ops.index(name) for name in space.candidates]
  drawn = jax.random.randint(
    op_key, (space.num_edges,), 0, len(candidates), jnp.int32
  )
  ops = jnp.array(candidates)[drawn]
  # Independent strengths: every set of sources is as likely as any other.
  strength = jax.random.uniform(noise_key, (space.num_edges, 1))
  return edge_labels(strength * jax.nn.one_hot(ops, len(space.ops)), space)


def from_labels(
  labels: Int[Array | np.ndarray, ' e'],
  space: spaces.CellSpace,
  *,
  strength: Float[Array | np.ndarray, ' e'] | None = None,
  out_weights: tuple[float, ...] = (),
  stride: int = 1,
) -> CellGenotype:
  """The cell of edge labels.

  Args:
    labels: as of `edge_labels`.
    space: of the cell.
    strength: of the edges, by which those of a node are sorted; None: by source.
    out_weights: see `CellGenotype`.
    stride: see `CellGenotype`.
  """
  labels = np.asarray(labels)
  rank = (
    np.zeros(space.num_edges) if strength is None else -np.asarray(strength)
  )
  nodes = []
  for node in range(space.nodes):
    first = space.first_edge(node)
    sources = [s for s in range(space.inputs + node) if labels[first + s] >= 0]
    sources.sort(key=lambda s: rank[first + s])
    nodes.append(tuple((s, space.ops[labels[first + s]]) for s in sources))
  return CellGenotype(tuple(nodes), space, out_weights, stride)


def discretise(
  logits: probabilities_lib.Logits,
  space: spaces.CellSpace,
  *,
  temperature: float = 1.0,
  stride: int = 1,
  max_skips: int | None = None,
) -> CellGenotype:
  """The discrete cell of logits; see `edge_labels` for the rules.

  Args:
    logits: of the cell type.
    space: of the cell.
    temperature: T.
    stride: of the cells of this type.
    max_skips: see `edge_labels`.

  Raises:
    ValueError: if a number is out of range, logits do not fit the space or are
      not finite, or `max_skips` is given and there is no other operation.
  """
  ranges.check_positive(temperature=temperature)
  found = probabilities_lib.probabilities(logits, temperature)
  edges = np.array(found['edges'])
  if np.isnan(edges).any():
    raise ValueError(f'logits must be finite, got {logits["edges"]}')
  labels = np.asarray(edge_labels(edges, space, max_skips))
  strength = edges[np.arange(len(labels)), np.maximum(labels, 0)]
  return from_labels(
    labels,
    space,
    strength=strength,
    out_weights=tuple(np.asarray(found.get('out', ()), float).tolist()),
    stride=stride,
  )


def derive(
  logits: Mapping[str, probabilities_lib.Logits],
  space: spaces.CellSpace,
  strides: Mapping[str, int],
  **options: Any,
) -> Genotype:
  """The genotype of a network.

  Args:
    logits: by cell type.
    space: of all cells.
    strides: by cell type.
    **options: of `discretise`.

  Raises:
    ValueError: if the cell types are others; as `discretise`.
  """
  if logits.keys() != strides.keys():
    raise ValueError(
      f'logits must have the cell types {sorted(strides)}, got {sorted(logits)}'
    )
  return Genotype.of(
    {
      kind: discretise(found, space, stride=strides[kind], **options)
      for kind, found in logits.items()
    }
  )
