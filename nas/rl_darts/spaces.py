"""Search spaces: which cells can be built.

Reference: arXiv:2106.02229; the code of its authors (google/brain_autorl,
  rl_darts/policies/darts_ops.py and darts_cells.py). The names Micro and Classic
  for these sets are inferred from comments there.
"""

import dataclasses
import math
from typing import Literal

from nas.rl_darts import operations
from rl import ranges

__all__ = [
  'CLASSIC',
  'CLASSIC_OPS',
  'CLASSIC_POOL',
  'DEBUG_3X3',
  'DEBUG_5X5',
  'MICRO',
  'MICRO_OPS',
  'NORMS',
  'OUTPUTS',
  'RNN',
  'CellSpace',
  'Norm',
  'Output',
]

Norm = Literal['none', 'affine', 'batch_stats', 'layer']
Output = Literal['last', 'sum', 'mean', 'weighted', 'concat']
NORMS: tuple[Norm, ...] = ('none', 'affine', 'batch_stats', 'layer')
OUTPUTS: tuple[Output, ...] = ('last', 'sum', 'mean', 'weighted', 'concat')

MICRO_OPS = ('Conv3x3', 'Relu', 'Tanh', 'SkipConnection', operations.ZERO)
CLASSIC_OPS = (
  'Conv3x3Relu',
  'DilConv3x3Relu',
  'Conv5x5Relu',
  'DilConv5x5Relu',
  'SkipConnection',
  operations.ZERO,
)


@dataclasses.dataclass(frozen=True)
class CellSpace:
  """Cells of one kind.

  Node ids: inputs 0, ..., I - 1, then N intermediate nodes. An edge leads from
  every node to every later intermediate one. Edges are numbered target by
  target, and by source for each.

  Attributes:
    ops: names of the candidates of an edge; the order decides ties.
    nodes: N.
    inputs: I.
    kept: edges that a node of a discrete cell keeps, at most.
    output: what a cell returns: the last node; the sum, mean or weighted sum
      (weights softmax(out logits)) of intermediate nodes; or a 1x1 convolution
      of all of them.
    norm: of the sum at each node. 'affine' is a scale and a shift per channel,
      which all nodes of a cell share; the published batch normalisation is
      that, as its statistics never change. 'batch_stats' and 'layer' normalise
      before it, by the present batch or over channels.

  Raises:
    ValueError: if a name does not exist or repeats, or a number is not
      positive.
  """

  ops: tuple[str, ...] = MICRO_OPS
  nodes: int = 4
  inputs: int = 1
  kept: int = 2
  output: Output = 'concat'
  norm: Norm = 'affine'

  def __post_init__(self) -> None:
    ranges.check_counts(nodes=self.nodes, inputs=self.inputs, kept=self.kept)
    for name in self.ops:
      operations.get(name)
    if len(set(self.ops)) < len(self.ops) or not self.candidates:
      raise ValueError(
        f'ops must differ, and one must not be Zero, got {self.ops=}'
      )
    for name, value, known in (
      ('output', self.output, OUTPUTS),
      ('norm', self.norm, NORMS),
    ):
      if value not in known:
        raise ValueError(f'{name} must be one of {known}, got {value!r}')

  @property
  def candidates(self) -> tuple[str, ...]:
    """Operations of a discrete cell: all but Zero."""
    return tuple(name for name in self.ops if name != operations.ZERO)

  @property
  def num_edges(self) -> int:
    """E = I N + N (N - 1) / 2."""
    return self.inputs * self.nodes + math.comb(self.nodes, 2)

  @property
  def logit_shapes(self) -> dict[str, tuple[int, ...]]:
    """[E, |O|] of the logits of edges; [N] of those of weighted outputs."""
    out = {'out': (self.nodes,)} if self.output == 'weighted' else {}
    return {'edges': (self.num_edges, len(self.ops)), **out}

  def first_edge(self, node: int) -> int:
    """Number of the first edge into intermediate node 0, ..., N - 1."""
    return self.inputs * node + math.comb(node, 2)

  def edge(self, source: int, node: int) -> int:
    """Number of the edge from a node id to intermediate node 0, ..., N - 1."""
    return self.first_edge(node) + source

  def size(self) -> int:
    """Number of discrete cells: kept sources and their operations."""
    found = 1
    for node in range(self.nodes):
      sources = self.inputs + node
      kept = min(self.kept, sources)
      found *= math.comb(sources, kept) * len(self.candidates) ** kept
    return found


MICRO = CellSpace()
CLASSIC = CellSpace(CLASSIC_OPS)
CLASSIC_POOL = CellSpace((*CLASSIC_OPS, 'MaxPool3x3', 'AveragePool3x3'))
DEBUG_3X3 = CellSpace(('Conv3x3Relu', 'DilConv3x3Relu', operations.ZERO))
DEBUG_5X5 = CellSpace(('Conv5x5Relu', 'DilConv5x5Relu', operations.ZERO))
RNN = CellSpace(
  (
    *('HighwayRelu', 'HighwayTanh', 'HighwaySigmoid', 'HighwayLinear'),
    operations.ZERO,
  ),
  kept=1,
  output='mean',
  norm='none',
)
