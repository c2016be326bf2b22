"""Drawings of policies: networks with their edges, matrices with colours."""

import os
import pathlib
from collections.abc import Mapping

import jax
import numpy as np
from jaxtyping import Array, Int

from nas.es_enas import networks, policies
from runtime.record import diagrams

__all__ = ['color_matrices', 'draw_colors', 'draw_networks', 'graph']


def graph(
  policy: policies.SharedPolicy, member: policies.Member, title: str
) -> diagrams.Graph:
  """The nodes of a network, layer by layer, and the edges that are there.

  Args:
    policy: of a `networks.FeedForward`.
    member: its parameters, and architecture.
    title: text above.

  Raises:
    ValueError: if the network is another one.
  """
  network = policy.network
  if not isinstance(network, networks.FeedForward):
    raise ValueError(
      f'a graph needs a FeedForward network, got {type(network).__name__}'
    )
  weights = np.asarray(policy.weights(member))
  edges = _edges(network)
  present = _present(policy, member)
  return diagrams.Graph(
    title=title,
    positions=_positions(network.layers),
    names=_names(policy, member),
    edges=edges[present],
    weights=weights[present],
  )


def draw_networks(
  drawn: Mapping[str, tuple[policies.SharedPolicy, policies.Member]],
  path: str | os.PathLike[str],
) -> pathlib.Path:
  """Draws networks side by side; see `graph`.

  Args:
    drawn: by title, policies and members.
    path: PNG file to write.
  """
  found = [graph(*one, title) for title, one in drawn.items()]
  return diagrams.graphs(found, path)


def color_matrices(
  policy: policies.SharedPolicy,
  architecture: Int[Array | np.ndarray, ' D'] | None,
) -> list[Int[np.ndarray, 'n m']]:
  """The entry of the table that every edge has; -1 where there is no edge.

  Args:
    policy: with any network.
    architecture: one, or None where there is but one.

  Returns:
    One matrix for every matrix of the network, [fan in, fan out].
  """
  shapes = policy.network.shapes
  indices = np.asarray(policy.indices(architecture))
  labels = np.where(indices < policy.entries, indices, -1)
  ends = np.cumsum([rows * columns for rows, columns in shapes])[:-1]
  parts = np.split(labels, ends)
  return [
    part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)
  ]


def draw_colors(
  policy: policies.SharedPolicy,
  architecture: Int[Array | np.ndarray, ' D'] | None,
  path: str | os.PathLike[str],
) -> pathlib.Path:
  """Draws which edges share a weight, one panel a matrix.

  Args:
    policy: with any network.
    architecture: one, or None where there is but one.
    path: PNG file to write.
  """
  matrices = color_matrices(policy, architecture)
  titles = [f'{len(m)} x {m.shape[1]}' for m in matrices]
  return diagrams.labels(
    matrices, titles, path, axes_labels=('output', 'input')
  )


def _present(
  policy: policies.SharedPolicy, member: policies.Member
) -> np.ndarray:
  """Which edges are there, bool [E]."""
  architecture = member[1] if isinstance(member, tuple) else None
  return np.asarray(policy.indices(architecture)) < policy.entries


def _positions(layers: tuple[int, ...]) -> np.ndarray:
  """Layers from left to right, their nodes from top to bottom, [n, 2].

  Every second layer is half a node lower: edges that pass a layer do not run
  through its nodes.
  """
  columns = []
  for layer, count in enumerate(layers):
    height = 1 - (np.arange(count) + 0.5 + 0.25 * (layer % 2)) / count
    columns.append(np.stack([np.full(count, float(layer)), height], axis=1))
  return np.concatenate(columns)


def _edges(network: networks.FeedForward) -> np.ndarray:
  """Both ends of every candidate edge, [E, 2], in the order of the weights."""
  starts = np.cumsum([0, *network.layers])
  found = []
  for layer, (rows, columns) in enumerate(network.shapes):
    first = 0 if network.residual else starts[layer]
    sources = np.repeat(first + np.arange(rows), columns)
    targets = np.tile(starts[layer + 1] + np.arange(columns), rows)
    found.append(np.stack([sources, targets], axis=1))
  return np.concatenate(found)


def _names(policy: policies.SharedPolicy, member: policies.Member) -> list[str]:
  """States and actions by number; hidden nodes by operation, if chosen."""
  network = policy.network
  inputs, *hidden, outputs = network.layers
  between = [''] * sum(hidden)
  if network.groups:
    chosen = policy.space.parts(member[1])['operations']
    between = [
      getattr(network.operations[i], '__name__', '')
      for i in jax.device_get(chosen)
    ]
  states = [f's{i}' for i in range(inputs)]
  return [*states, *between, *(f'a{i}' for i in range(outputs))]
