"""PyGlove's algorithms on our spaces, and PyGlove's spaces for our controllers."""

import collections
import contextlib
import dataclasses
import functools
import itertools
import random
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import flax
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from nas.es_enas import space as space_lib
from nas.es_enas.controllers import population as population_lib
from rl import ranges
from runtime import optional

__all__ = ['PyGlove', 'State', 'from_pyglove']


@flax.struct.dataclass
class State:
  """The newest evaluations; the algorithm itself is no part of it.

  Attributes:
    evaluations: the newest first.
    generations: in which each was made, from 1; int32 [history].
    generation: number of generations so far, int32.
  """

  evaluations: Any
  generations: Any
  generation: Any


@dataclasses.dataclass
class _Live:
  """An algorithm that goes on from a state.

  Attributes:
    algorithm: of PyGlove.
    state: `_fingerprint` of the state that it continues.
    proposals: by key and count, so that the same call gives the same.
    pending: proposals of this generation, by their numbers.
  """

  algorithm: Any
  state: int
  proposals: dict = dataclasses.field(default_factory=dict)
  pending: dict = dataclasses.field(
    default_factory=lambda: collections.defaultdict(list)
  )


@dataclasses.dataclass(frozen=True)
class PyGlove:
  """Any `pyglove.DNAGenerator` as a `base.Controller`, on the host.

  The controller keeps a running algorithm. The state has the newest evaluations
  only. If the algorithm does not belong to the given state, as after a restart,
  a new one replays these evaluations (PyGlove's `recover`), the oldest first.

  A restored search continues bit for bit if the algorithm is a function of the
  replayed evaluations, such as regularised evolution with a population of at most
  `history`. All else that an algorithm keeps is lost: evaluations beyond `history`,
  proposals that it made in advance, NEAT's representatives. Lost evaluations are
  not told to the algorithm.

  The keys seed `random` and `numpy.random` for the time of a call. Fields of the
  algorithm named `seed` are set to None, since their generators could not be
  saved.

  `best` has the best mean score over its evaluations in the history.

  Attributes:
    space: what it proposes from.
    algorithm: such as pyglove.evolution.regularized_evolution(); it is copied.
    history: number of evaluations that are kept.

  Raises:
    ValueError: if `history` is not positive.
  """

  space: space_lib.Space
  algorithm: Any
  history: int = 1000
  _running: list[_Live] = dataclasses.field(
    default_factory=list, init=False, repr=False, compare=False
  )
  pure = False

  def __post_init__(self) -> None:
    ranges.check_counts(history=self.history)

  def init(self, key: Key[Array, ''], count: int) -> State:
    """See `base.Controller`."""
    del count
    return State(
      evaluations=population_lib.empty(self.space, key, self.history),
      generations=jnp.zeros(self.history, jnp.int32),
      generation=jnp.zeros((), jnp.int32),
    )

  def propose(
    self, state: State, key: Key[Array, ''], count: int
  ) -> Int[Array, 'count D']:
    """See `base.Controller`.

    Raises:
      ImportError: if PyGlove is not installed, naming the extra.
      ValueError: if the algorithm has no further proposals.
    """
    live = self._live(state, key)
    with _seeded(key):
      call = (np.asarray(jax.random.key_data(key)).tobytes(), count)
      if call not in live.proposals:
        live.proposals[call] = [self._proposal(live) for _ in range(count)]
      found = np.array(live.proposals[call], np.int32)
    return jnp.asarray(found.reshape(count, self.space.length))

  def _proposal(self, live: _Live) -> tuple[int, ...]:
    try:
      dna = live.algorithm.propose()
    except StopIteration:
      raise ValueError(
        f'{type(self.algorithm).__name__} has no further proposals'
      ) from None
    numbers = tuple(dna.to_numbers())
    live.pending[numbers].append(dna)
    return numbers

  def feedback(
    self,
    state: State,
    key: Key[Array, ''],
    architectures: Int[Array, 'n D'],
    scores: Float[Array, ' n'],
    valid: Bool[Array, ' n'],
  ) -> tuple[State, dict[str, Array]]:
    """See `base.Controller`."""
    kept = np.flatnonzero(valid)
    if not kept.size:
      return state, {}
    # PyGlove wants the elements of a subset in increasing order.
    rows = np.asarray(jax.vmap(self.space.canonical)(architectures))[kept]
    returns = np.asarray(scores)[kept]
    generation = int(state.generation) + 1
    live = self._live(state, key)
    with _seeded(key):
      for row, score in zip(rows.tolist(), returns.tolist(), strict=True):
        waiting = live.pending[tuple(row)]
        dna = waiting.pop() if waiting else self._dna(row, generation)
        live.algorithm.feedback(dna, score)
    state = self._counted(state, rows, returns, generation)
    self._running[:] = [_Live(live.algorithm, _fingerprint(state))]
    return state, {}

  def _counted(
    self,
    state: State,
    rows: Int[np.ndarray, 'n D'],
    returns: Float[np.ndarray, ' n'],
    generation: int,
  ) -> State:
    newest = lambda new, old: jnp.asarray(
      np.concatenate([new[::-1], old])[: self.history]
    )
    before = state.evaluations
    evaluations = population_lib.Population(
      architectures=newest(rows, before.architectures),
      scores=newest(returns, before.scores),
      position=before.position,
      filled=jnp.minimum(before.filled + len(rows), self.history),
    )
    since = np.full(len(rows), generation, np.int32)
    return State(
      evaluations,
      newest(since, state.generations),
      jnp.asarray(generation, jnp.int32),
    )

  def _live(self, state: State, key: Key[Array, '']) -> _Live:
    """The algorithm that goes on from a state, replayed if none is running."""
    fingerprint = _fingerprint(state)
    if not self._running or self._running[0].state != fingerprint:
      # Apart from the caller's draws, which a replay must not shift.
      with _seeded(key):
        self._running[:] = [_Live(self._replayed(state), fingerprint)]
    return self._running[0]

  def _replayed(self, state: State) -> Any:
    algorithm = _unseeded(self.algorithm)
    algorithm.setup(_spec(self.space))
    filled = int(state.evaluations.filled)
    rows = np.asarray(state.evaluations.architectures)[:filled].tolist()
    scores = np.asarray(state.evaluations.scores)[:filled].tolist()
    since = np.asarray(state.generations)[:filled].tolist()
    dnas = [self._dna(*one) for one in zip(rows, since, strict=True)]
    algorithm.recover(list(zip(dnas, scores, strict=True))[::-1])
    return algorithm

  def _dna(self, row: list[int], generation: int) -> Any:
    """PyGlove's form of an architecture that was proposed in a generation."""
    pyglove = optional.load('pyglove', extra='nas')
    base = pyglove.evolution.base
    dna = pyglove.DNA.from_numbers(row, _spec(self.space))
    # PyGlove's evolution fails without these; other algorithms ignore them.
    dna.set_metadata(base.DNA_METADATA_INITIAL_POPULATION, False)
    return base.set_generation_id(dna, generation)

  def best(self, state: State) -> Int[Array, ' D']:
    """The architecture of the best mean score; a random one before any."""
    return population_lib.best(self.space, state.evaluations)


def _unseeded(algorithm: Any) -> Any:
  """A copy whose fields named `seed` are None, those within tuples too."""
  pyglove = optional.load('pyglove', extra='nas')
  copy = algorithm.clone(deep=True)
  is_symbolic = lambda one: isinstance(one, pyglove.Symbolic)
  seeds = pyglove.query(copy, r'(^|.*\.)seed$')
  changes = {path: None for path, seed in seeds.items() if seed is not None}
  tuples = pyglove.query(copy, where=lambda one: isinstance(one, tuple))
  for path, found in tuples.items():
    changes[path] = tuple(
      _unseeded(one) if is_symbolic(one) else one for one in found
    )
  return copy.rebind(changes) if changes else copy


def _fingerprint(state: State) -> int:
  leaves = jax.tree.leaves(state)
  return hash(tuple(np.asarray(leaf).tobytes() for leaf in leaves))


@contextlib.contextmanager
def _seeded(key: Key[Array, '']) -> Iterator[None]:
  """Seeds the generators that PyGlove draws from, and puts them back."""
  saved = random.getstate(), np.random.get_state()
  words = np.asarray(jax.random.key_data(key)).tolist()
  random.seed(repr(words))
  np.random.seed(words)
  try:
    yield
  finally:
    random.setstate(saved[0])
    np.random.set_state(saved[1])


@functools.cache
def _spec(space: space_lib.Space) -> Any:
  """PyGlove's form of our space: a list with one `manyof` per group."""
  pyglove = optional.load('pyglove', extra='nas')
  return pyglove.dna_spec(
    pyglove.List(
      pyglove.manyof(
        group.count,
        list(range(group.options)),
        distinct=not isinstance(group, space_lib.Choices),
        sorted=type(group) is space_lib.Subset,
      )
      for group in space.groups
    )
  )


class _Decision(NamedTuple):
  """One hyper value, and the decisions within its candidates.

  Attributes:
    name: of its group.
    element: PyGlove's specification.
    within: the decisions of every candidate. There is one copy where candidates
      are distinct, since each is chosen at most once; else one for each choice.
  """

  name: str
  element: Any
  within: tuple[tuple[tuple['_Decision', ...], ...], ...]


def from_pyglove(
  value: Any,
) -> tuple[space_lib.Space, Callable[[Int[Array | np.ndarray, ' D']], Any]]:
  """Turns a search space of PyGlove into ours.

  `oneof` becomes `space.Choices`: those that follow each other and have the same
  number of candidates become one group. `manyof` becomes `Choices` if it is not
  distinct, `Subset` if it is sorted, and `Arrangement` if its order counts, as
  `permutate` does. A sorted `manyof` that is not distinct becomes `Choices`,
  which the decoder sorts: several architectures are then the same object.

  Candidates may have decisions within them. These follow the decision between
  the candidates, and are always part of the architecture, since it has a fixed
  length. The decoder leaves out those of candidates that are not chosen.

  Args:
    value: any object with hyper values in it, such as
      pyglove.Dict(width=pyglove.oneof([16, 32])).

  Returns:
    The space, and the decoder from an architecture to the object.

  Raises:
    ImportError: if PyGlove is not installed, naming the extra.
    ValueError: if a decision is not categorical.
  """
  pyglove = optional.load('pyglove', extra='nas')
  template = pyglove.template(value)
  spec = template.dna_spec()
  decisions = _decisions(pyglove, spec)
  runs = itertools.groupby(_flat(decisions), _alike)
  space = space_lib.Space(tuple(_group(list(run)) for _, run in runs))

  def decode(architecture: Int[Array | np.ndarray, ' D']) -> Any:
    rest = iter(np.asarray(architecture).tolist())
    numbers = _numbers(decisions, rest)
    return template.decode(pyglove.DNA.from_numbers(numbers, spec))

  return space, decode


def _decisions(
  pyglove: Any, spec: Any, suffix: str = ''
) -> tuple[_Decision, ...]:
  """The decisions of PyGlove's specification of a space, as a tree."""
  found = []
  for element in spec.elements:
    name = f'{element.id or "choice"}{suffix}'
    if not isinstance(element, pyglove.geno.Choices):
      raise ValueError(
        f'decision {name!r} must be oneof, manyof or permutate, got '
        f'{type(element).__name__}; numbers belong to theta'
      )
    suffixes = [suffix]
    if not element.distinct:
      suffixes = [f'{suffix}#{i}' for i in range(element.num_choices)]
    within = tuple(
      tuple(_decisions(pyglove, one, copy) for one in element.candidates)
      for copy in suffixes
    )
    found.append(_Decision(name, element, within))
  return tuple(found)


def _flat(decisions: Iterable[_Decision]) -> Iterator[_Decision]:
  """Each decision, then those within its candidates."""
  for one in decisions:
    yield one
    for candidates in one.within:
      for inner in candidates:
        yield from _flat(inner)


def _numbers(decisions: Iterable[_Decision], rest: Iterator[int]) -> list[int]:
  """PyGlove's form of an architecture: without the options not chosen.

  Args:
    decisions: of one space, or of one candidate.
    rest: the architecture from the first of these decisions on; those that
      `_flat` gives are taken from it.
  """
  found = []
  for one in decisions:
    options = list(itertools.islice(rest, one.element.num_choices))
    within = [[_numbers(c, rest) for c in copy] for copy in one.within]
    if one.element.distinct:
      within *= len(options)
    chosen = [
      (option, copy[option])
      for option, copy in zip(options, within, strict=True)
    ]
    if one.element.sorted:
      chosen.sort(key=lambda pair: pair[0])
    for option, inner in chosen:
      found += [option, *inner]
  return found


def _alike(one: _Decision) -> tuple[int, str]:
  """Equal for neighbours that make one group: those of a single choice."""
  alone = one.name if one.element.num_choices > 1 else ''
  return len(one.element.candidates), alone


def _group(decisions: list[_Decision]) -> space_lib.Group:
  first = decisions[0].element
  names = dict.fromkeys((decisions[0].name, decisions[-1].name))
  kind = space_lib.Choices
  if first.num_choices > 1 and first.distinct:
    kind = space_lib.Subset if first.sorted else space_lib.Arrangement
  count = sum(one.element.num_choices for one in decisions)
  return kind('..'.join(names), count, len(first.candidates))
