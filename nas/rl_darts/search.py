"""An agent that searches: any agent of `rl` around a supernet.

`Search` is an algorithm like the agent itself: it acts and learns as the agent
does, watches the logits, and keeps snapshots of them in its state.
"""

import dataclasses
import functools
import math
from collections.abc import Mapping
from typing import Any, Literal

import flax
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Key, PyTree

from nas.rl_darts import (
  diagnostics,
  genotype,
  learners,
  networks,
  probabilities,
)
from rl import learner as learner_lib
from rl import ranges
from rl.envs import spaces

__all__ = [
  'PARTS',
  'Discrete',
  'Mode',
  'Search',
  'SearchLearner',
  'SearchState',
  'snapshot_times',
]

Mode = Literal['joint', 'first_order', 'second_order']
_MODES: tuple[Mode, ...] = ('joint', 'first_order', 'second_order')
_MAX_SNAPSHOTS = 1000
PARTS = ('encoder', 'core')  # Of agents, that may be supernets.


def snapshot_times(count: int, iterations: int) -> tuple[int, ...]:
  """At most `count` iterations, spaced logarithmically, with the last one.

  Args:
    count: of snapshots.
    iterations: length of the search.
  """
  powers = [iterations ** (k / count) for k in range(1, count + 1)]
  return tuple(sorted({min(math.ceil(p - 1e-9), iterations) for p in powers}))


@dataclasses.dataclass(frozen=True)
class Search:
  """An agent and how the logits of its encoder are trained.

  Attributes:
    agent: settings, with a supernet for its encoder, or for its core in joint
      training without an optimiser of the logits.
    mode: 'joint': logits and weights on the same data. 'first_order' and
      'second_order': the logits on the steps of other lanes.
    alpha_optimizer: of the logits; None, in joint training only: they are
      parameters like others for the agent, which is unchanged (as published).
    alpha_lanes: the last lanes, whose steps train the logits alone. Give these
      lanes levels of their own.
    rate: of the step ahead of second order; None: the agent's learning rate.
    iterations: length of the search, which spaces the snapshots.
    snapshots: of the logits, kept in the state; see `snapshot_times`.
    max_skips: of the cells that are derived; see `genotype.edge_labels`.

  Raises:
    ValueError: if there is no supernet, or settings contradict the mode.
  """

  agent: Any
  mode: Mode = 'joint'
  alpha_optimizer: optax.GradientTransformation | None = None
  alpha_lanes: int = 0
  rate: float | None = None
  iterations: int = 1000
  snapshots: int = 8
  max_skips: int | None = None

  def __post_init__(self) -> None:
    ranges.check_counts(iterations=self.iterations, snapshots=self.snapshots)
    ranges.check_counts(
      least=0, alpha_lanes=self.alpha_lanes, max_skips=self.max_skips
    )
    if self.snapshots > _MAX_SNAPSHOTS:
      raise ValueError(
        f'snapshots must be at most {_MAX_SNAPSHOTS}, as the state keeps them, '
        f'got {self.snapshots=}'
      )
    ranges.check_positive(rate=self.rate)
    if self.mode not in _MODES:
      raise ValueError(f'mode must be one of {_MODES}, got {self.mode!r}')
    parts = {name: getattr(self.agent, name, None) for name in PARTS}
    cells = [getattr(part, 'architecture', None) for part in parts.values()]
    relaxed = any(isinstance(one, networks.Relaxed) for one in cells)
    if not relaxed or any(isinstance(one, networks.Masked) for one in cells):
      raise ValueError(
        'a search needs an agent whose encoder or core has Relaxed cells, and '
        f'none of which are Masked, got {parts}'
      )
    apart = self.mode != 'joint'
    if apart != bool(self.alpha_lanes):
      raise ValueError(
        "alpha_lanes are for the modes but 'joint', got "
        f'{self.mode=} {self.alpha_lanes=}'
      )
    if apart and self.alpha_optimizer is None:
      raise ValueError(f'{self.mode=} needs an alpha_optimizer')
    if self.rate is not None and self.mode != 'second_order':
      raise ValueError(
        f"rate is read in the mode 'second_order', got {self.mode=}"
      )
    if self._rate is not None and callable(self._rate):
      raise ValueError('with a schedule for its learning rate, give the rate')

  def supernet(self, path: str) -> Any:
    """The encoder or core to which logits belong.

    Args:
      path: of `probabilities.alphas`, such as 'trunk/encoder'.
    """
    (part,) = set(PARTS) & set(path.split('/'))
    return getattr(self.agent, part)

  @property
  def _rate(self) -> Any:
    if self.mode != 'second_order':
      return None
    return self.agent.learning_rate if self.rate is None else self.rate

  @property
  def times(self) -> tuple[int, ...]:
    """Iterations after which snapshots are taken."""
    return snapshot_times(self.snapshots, self.iterations)

  def learner(
    self,
    observation_space: spaces.Space,
    action_space: spaces.Space,
    num_lanes: int,
  ) -> 'SearchLearner':
    """See `learner.Algorithm`.

    Raises:
      ValueError: as the agent does; or if a rule for logits does not fit it.
    """
    both = observation_space, action_space
    outside = core = self.agent.learner(*both, num_lanes)
    if self.alpha_optimizer is not None:
      rule = learners.Rule(self.alpha_optimizer, self.alpha_lanes, self._rate)
      core = learners.fit(self.agent, both, num_lanes, rule)
    return SearchLearner(self, outside, core)

  def discrete(self, *task: Any) -> 'Discrete':
    """Acts with the derived cells instead of the supernet.

    Args:
      *task: as of `learner`.
    """
    parts = {name: getattr(self.agent, name, None) for name in PARTS}
    masked = {
      name: part.clone(architecture=networks.Masked())
      for name, part in parts.items()
      if isinstance(getattr(part, 'architecture', None), networks.Relaxed)
    }
    agent = dataclasses.replace(self.agent, **masked)
    return Discrete(self, agent.learner(*task), self.learner(*task).core)


@flax.struct.dataclass
class SearchState:
  """All that changes.

  Attributes:
    agent: state of the agent.
    iteration: so far, int32.
    labels: of edges, by encoder and cell type: the present genotypes.
    snapshots: logits by encoder and cell type, [m, ...] each; row k is taken
      after iteration `Search.times[k]`.
  """

  # Not annotated by shape: transformations put other things into the leaves.
  agent: Any
  iteration: Any
  labels: Any
  snapshots: Any


def _theirs(name: str) -> property:
  """What the agent outside has under this name."""
  return property(lambda self: getattr(self.outside, name))


@dataclasses.dataclass(frozen=True)
class SearchLearner:
  """See `learner.Learner`; it acts as the agent.

  Attributes:
    settings: of the search.
    outside: the agent for all lanes, which acts.
    core: what learns; the agent itself, or one with a rule for its logits.
  """

  settings: Search
  outside: Any
  core: Any

  unroll_length = _theirs('unroll_length')
  initial_memory = _theirs('initial_memory')
  act = _theirs('act')
  final = _theirs('final')
  greedy = _theirs('greedy')

  def init(self, key: Key[Array, '']) -> SearchState:
    """See `learner.Learner`."""
    agent = self.core.init(key)
    alphas = probabilities.alphas(self.core.params(agent))
    count = len(self.settings.times)
    snapshots = jax.tree.map(
      lambda x: jnp.zeros((count, *x.shape), x.dtype), alphas
    )
    zero = jnp.zeros((), jnp.int32)
    labels = self._labels(self._cells(alphas))
    return SearchState(agent, zero, labels, snapshots)

  def _cells(self, alphas: PyTree) -> dict[str, diagnostics.Edges]:
    """Edges by supernet and cell type."""
    found = {}
    for path, kinds in alphas.items():
      part = self.settings.supernet(path)
      for kind, logits in kinds.items():
        p = probabilities.probabilities(logits, part.architecture.temperature)
        found[f'{path}/{kind}'] = diagnostics.Edges(p['edges'], part.space)
    return found

  def _labels(self, cells: Mapping[str, diagnostics.Edges]) -> dict[str, Array]:
    """The cells that are derived from these edges."""
    most = self.settings.max_skips
    return {
      name: genotype.edge_labels(edges.p, edges.space, most)
      for name, edges in cells.items()
    }

  def params(self, state: SearchState) -> PyTree:
    """See `learner.Learner`."""
    return self.core.params(state.agent)

  def acting(self, state: SearchState) -> PyTree:
    """See `learner.Learner`."""
    return self.outside.acting(state.agent)

  def learn(
    self,
    state: SearchState,
    trajectory: learner_lib.Trajectory,
    key: Key[Array, ''],
  ) -> tuple[SearchState, dict[str, Array]]:
    """As the agent; adds metrics of the logits, and takes snapshots.

    Metrics: entropies of edges, nats; the mean probability of each operation;
    and the number of edges of the genotypes that changed in this iteration.
    """
    agent, metrics = self.core.learn(state.agent, trajectory, key)
    alphas = probabilities.alphas(self.core.params(agent))
    cells = self._cells(alphas)
    labels = self._labels(cells)
    changed = [
      genotype.hamming(labels[name], state.labels[name]) for name in labels
    ]
    iteration = state.iteration + 1
    taken = jnp.array(self.settings.times) == iteration
    snapshots = jax.tree.map(
      lambda kept, now: jnp.where(
        taken.reshape(-1, *[1] * now.ndim), now, kept
      ),
      state.snapshots,
      alphas,
    )
    state = SearchState(agent, iteration, labels, snapshots)
    return state, {
      **metrics,
      **diagnostics.summary(cells.values()),
      'genotype_changes': functools.reduce(jnp.add, changed).astype(
        jnp.float32
      ),
    }


@dataclasses.dataclass(frozen=True)
class Discrete(SearchLearner):
  """A search that acts with its derived cells and the supernet's weights.

  The supernet's return less that of these cells is the discretisation gap. The agent
  outside has `networks.Masked` cells.
  """

  def acting(self, state: SearchState) -> PyTree:
    """See `learner.Learner`."""
    acting = self.outside.acting(state.agent)
    return jax.tree_util.tree_map_with_path(self._masked, acting)

  def _masked(self, path: tuple, leaf: Array) -> Array:
    """Logits as mixing weights of the cell that is derived from them."""
    at = probabilities.place(path)
    if at is None:
      return leaf
    part = self.settings.supernet(at.network)
    temperature = part.architecture.temperature
    p = probabilities.probabilities({at.part: leaf}, temperature)[at.part]
    if at.part == 'out':
      return p
    labels = genotype.edge_labels(p, part.space, self.settings.max_skips)
    return genotype.mixing(labels, len(part.space.ops))
