"""Cells: mixed operations between nodes, for supernets and for discrete cells.

  node_i = norm(sum_{j < i} sum_o p[i, j, o] op_o(node_j)),  out = f(nodes)

with parameters of their own for every edge and operation. The same parameters
serve two forms. 'naive' is this sum, edge by edge and operation by operation.
'fused' computes each operation once per source node, for all targets together:
one convolution with (N - j) C outputs, its weights p in kernel and bias.

References: arXiv:1806.09055, Eq. 2; arXiv:2106.02229.
"""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from nas.rl_darts import (
  candidates,
  convolutions,
  operations,
  probabilities,
  spaces,
)
from nas.rl_darts import genotype as genotype_lib
from rl import ranges

__all__ = ['FORMS', 'Cell', 'CellForm', 'Group', 'groups', 'pruned']

CellForm = Literal['fused', 'naive']
FORMS: tuple[CellForm, ...] = ('fused', 'naive')


class Group(NamedTuple):
  """The edges out of one node that can have one operation.

  Attributes:
    source: node id.
    op: name of the operation.
    targets: intermediate nodes 0, ..., N - 1.
  """

  source: int
  op: str
  targets: tuple[int, ...]

  @property
  def name(self) -> str:
    """Name of its parameters."""
    return f'{self.op}_{self.source}'


def groups(
  space: spaces.CellSpace, cell: genotype_lib.CellGenotype | None = None
) -> tuple[Group, ...]:
  """All groups of a supernet, or those that a discrete cell keeps.

  Args:
    space: of the cell.
    cell: None for the supernet.
  """
  found = []
  for source in range(space.inputs + space.nodes - 1):
    later = range(max(source - space.inputs + 1, 0), space.nodes)
    for op in space.ops:
      targets = tuple(
        node
        for node in later
        if cell is None or (source, op) in cell.nodes[node]
      )
      if targets and op != operations.ZERO:
        found.append(Group(source, op, targets))
  return tuple(found)


class Cell(nn.Module):
  """A cell of a supernet, or a discrete one.

  Attributes:
    channels: C, of every node and of the output.
    space: nodes, candidates, output and norm.
    stride: of edges that leave an input; others have stride 1.
    genotype: of a discrete cell, which has only the parameters of its edges;
      None: all candidates.
    form: 'fused' or 'naive'.
    products: see `candidates.Form`.
    dtype: of operations and nodes; None: that of the input. Parameters, mixing
      weights and sums at nodes are float32 or wider.
  """

  channels: int
  space: spaces.CellSpace
  stride: int = 1
  genotype: genotype_lib.CellGenotype | None = None
  form: CellForm = 'fused'
  products: bool = False
  dtype: Any = None

  @nn.compact
  def __call__(
    self,
    inputs: Sequence[Float[Array, '... d']],
    weights: probabilities.Logits | None = None,
  ) -> Float[Array, '... c']:
    """Applies the cell.

    Args:
      inputs: I arrays [b, h, w, d], or [b, d] for operations of vectors.
      weights: mixing weights of a supernet, `probabilities.probabilities` or
        `CellGenotype.mixing`, not negative; None for a discrete cell.

    Returns:
      [b, ceil(h / s), ceil(w / s), C], or [b, C].

    Raises:
      ValueError: if there are not I inputs, or weights or genotype do not fit
        the cell.
    """
    self._check(inputs, weights)
    nodes = [self._fit(x, i) for i, x in enumerate(inputs)]
    affine = self._affine()
    sums: list = [0.0] * self.space.nodes
    for source in range(self.space.inputs + self.space.nodes - 1):
      for node, value in self._leaving(nodes[source], source, weights):
        sums[node] = sums[node] + value
      # A node is complete when its last predecessor has been seen.
      done = source + 1 - self.space.inputs
      if done >= 0:
        node = self._norm(sums[done], affine)
        nodes.append(node.astype(nodes[0].dtype))
    return self._out(nodes[self.space.inputs :], weights)

  def _check(self, inputs: Sequence, weights: object) -> None:
    ranges.check_counts(channels=self.channels, stride=self.stride)
    space = self.space
    if self.form not in FORMS:
      raise ValueError(f'form must be one of {FORMS}, got {self.form!r}')
    if len(inputs) != space.inputs:
      raise ValueError(
        f'a cell of this space has {space.inputs} inputs, got {len(inputs)}'
      )
    own = self.genotype
    if (weights is None) != (own is not None):
      raise ValueError(
        'a supernet needs weights, and a discrete cell has none, got '
        f'{"none" if weights is None else "weights"} and genotype={own}'
      )
    if own is not None and (own.space, own.stride) != (space, self.stride):
      raise ValueError(
        f'a genotype of {own.space} with stride {own.stride} is no cell of '
        f'{space=} {self.stride=}'
      )
    if weights is not None:
      expected = space.logit_shapes
      found = {name: jnp.shape(x) for name, x in weights.items()}
      if found != expected:
        raise ValueError(
          f'weights must have the shapes {expected}, got {found}'
        )

  def _cast(self, x: Array) -> Array:
    return x if self.dtype is None else x.astype(self.dtype)

  def _fit(self, x: Float[Array, '... d'], index: int) -> Array:
    """An input with C channels."""
    x = self._cast(x)
    if x.shape[-1] == self.channels:
      return x
    return convolutions.Affine(self.channels, name=f'fit_{index}')(x)

  def _leaving(
    self,
    x: Float[Array, '... c'],
    source: int,
    weights: probabilities.Logits | None,
  ) -> list[tuple[int, Float[Array, '... c']]]:
    """The parts of later nodes' sums that come from a node."""
    stride = self.stride if source < self.space.inputs else 1
    form = candidates.Form(stride, self.products)
    by_targets: dict[tuple[int, ...], list[Group]] = {}
    for group in groups(self.space, self.genotype):
      if group.source == source:
        by_targets.setdefault(group.targets, []).append(group)
    mix = self._fused if self.form == 'fused' else self._naive
    return [
      (node, value)
      for targets, some in by_targets.items()
      for node, value in zip(
        targets,
        mix(x, some, self._weights(some, weights, x), form),
        strict=True,
      )
    ]

  def _weights(
    self,
    some: Sequence[Group],
    weights: probabilities.Logits | None,
    x: Array,
  ) -> Float[Array, 't o']:
    """Mixing weights of groups with the same targets."""
    source, _, targets = some[0]
    wide = jnp.promote_types(x.dtype, jnp.float32)
    if weights is None:
      return jnp.ones((len(targets), len(some)), wide)
    edges = [[self.space.edge(source, node)] for node in targets]
    columns = [self.space.ops.index(group.op) for group in some]
    table = jnp.asarray(weights['edges'], wide)
    return table[jnp.array(edges), jnp.array(columns)]

  def _fused(
    self,
    x: Float[Array, '... c'],
    some: Sequence[Group],
    weights: Float[Array, 't o'],
    form: candidates.Form,
  ) -> list[Float[Array, '... c']]:
    """Sums over operations, for each target; operations see all at once."""
    # Lists, not one array: XLA's CPU programs take ten times as long for the
    # gradient of weighted sums with an axis of targets.
    sums: list = [0.0] * len(weights)
    for column, group in enumerate(some):
      op = operations.get(group.op)
      if isinstance(op, candidates.Feature):
        value = op.value(x, form.stride)
        parts = [weight * value for weight in weights[:, column]]
      else:
        found = op(self._params(group), x, weights[:, column], form)
        flat = found.reshape(*found.shape[:-2], -1)
        parts = jnp.split(flat, len(weights), axis=-1)
      sums = [one + part for one, part in zip(sums, parts, strict=True)]
    return sums

  def _naive(
    self,
    x: Float[Array, '... c'],
    some: Sequence[Group],
    weights: Float[Array, 't o'],
    form: candidates.Form,
  ) -> list[Float[Array, '... c']]:
    """The same, one operation of one edge after the other."""
    one = jnp.ones(1, weights.dtype)
    sums: list = [0.0] * len(weights)
    for column, group in enumerate(some):
      op, params = operations.get(group.op), self._params(group)
      for t, weight in enumerate(weights[:, column]):
        if isinstance(op, candidates.Feature):
          value = op.value(x, form.stride)
        else:
          own = {k: v[..., t : t + 1, :] for k, v in params.items()}
          value = op(own, x, one, form)[..., 0, :]
        sums[t] += weight * value
    return sums

  def _params(self, group: Group) -> dict[str, Array]:
    """Parameters of a group, [..., T, C] each."""
    shapes = operations.parameters(group.op, self.channels, len(group.targets))
    return {
      name: self.param(f'{group.name}_{name}', init, shape)
      for name, (shape, init) in shapes.items()
    }

  def _affine(self) -> tuple[Float[Array, ' c'], ...]:
    """The scale and shift that all nodes of the cell share."""
    if self.space.norm == 'none':
      return ()
    first = {'scale': nn.initializers.ones, 'bias': nn.initializers.zeros}
    return tuple(
      self.param(name, init, (self.channels,)) for name, init in first.items()
    )

  def _norm(
    self, x: Float[Array, '... c'], affine: tuple[Float[Array, ' c'], ...]
  ) -> Float[Array, '... c']:
    norm = self.space.norm
    if norm == 'batch_stats':
      x = operations.normalize(x, tuple(range(x.ndim - 1)))
    if norm == 'layer':
      x = operations.normalize(x, -1)
    if not affine:
      return x
    scale, bias = affine
    return x * scale + bias

  def _out(
    self,
    nodes: Sequence[Float[Array, '... c']],
    weights: probabilities.Logits | None,
  ) -> Float[Array, '... c']:
    output = self.space.output
    if output == 'last':
      return nodes[-1]
    if output == 'concat':
      layer = convolutions.Affine(self.channels, name='out')
      return layer(jnp.concatenate(nodes, axis=-1))
    stacked = jnp.stack(nodes)
    if output == 'weighted':
      chosen = self.genotype.out_weights if weights is None else weights['out']
      mixed = jnp.tensordot(jnp.asarray(chosen), stacked, axes=1)
      return mixed.astype(stacked.dtype)
    return stacked.mean(0) if output == 'mean' else stacked.sum(0)


def pruned(
  params: dict[str, Any],
  space: spaces.CellSpace,
  cell: genotype_lib.CellGenotype,
) -> dict[str, Any]:
  """Parameters of a discrete cell, taken from those of a supernet's cell.

  Args:
    params: of a `Cell` without genotype.
    space: of the cell.
    cell: the edges and operations that are kept.

  Returns:
    Those of a `Cell` with this genotype.
  """
  whole = {group.name: group for group in groups(space)}
  found = {}
  for group in groups(space, cell):
    places = [whole[group.name].targets.index(t) for t in group.targets]
    for name in operations.parameters(group.op, 1, 1):
      key = f'{group.name}_{name}'
      found[key] = params[key][..., jnp.array(places), :]
  prefixes = tuple(f'{name}_' for name in whole)
  rest = {k: v for k, v in params.items() if not k.startswith(prefixes)}
  return {**rest, **found}
