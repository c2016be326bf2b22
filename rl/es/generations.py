"""Generations that the host evaluates, as batches of the training loop.

Nothing is read from a data set: a batch is the result of the generation of the
state that the loop is at.
"""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from rl.es import evaluator as evaluator_lib
from rl.es import search as search_lib

__all__ = ['Evaluations', 'Generations', 'of']


def _example(batch: Mapping[str, PyTree]) -> dict[str, PyTree]:
  """With a leading axis, which the loop wants, of this one example."""
  return jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], dict(batch))


def of(batch: Mapping[str, PyTree]) -> dict[str, PyTree]:
  """The result in a batch, without the axis of examples."""
  return jax.tree.map(lambda leaf: leaf[0], dict(batch))


class Evaluations:
  """Evaluations by the host, of a search that is told in a program.

  A batch has `evaluation` and `center`.

  Args:
    search: asks; pure.
    evaluator: answers; not pure.
  """

  def __init__(
    self, search: search_lib.Search, evaluator: evaluator_lib.Evaluator
  ) -> None:
    self._run = functools.partial(search_lib.run, evaluator=evaluator)
    self._ask = jax.jit(search.ask)
    self._state: Any = None

  def observe(self, state: search_lib.StateLike) -> None:
    """Takes the state whose generation comes next."""
    request = self._ask(state)
    self._state = request, jax.tree.map(jnp.copy, state.normalizer)

  def __next__(self) -> dict[str, Any]:
    """The results of the observed state's generation."""
    request, normalizer = self._state
    evaluation, center = self._run(request, normalizer)
    return _example({'evaluation': evaluation, 'center': center})

  def get_state(self) -> dict[str, Any]:
    """Nothing: a request depends on the state alone."""
    return {}

  def set_state(self, state: Mapping[str, Any]) -> None:
    """Does nothing."""


class Generations:
  """Whole generations on the host, of a search that keeps numbers there.

  A batch has the `state` after the generation, without these numbers, and its
  `metrics`. The numbers are the iterator's position: they are saved with the
  loop's state.

  Args:
    search: asks, and is told.
    evaluator: answers.
    numbers: of the search's first state.
  """

  def __init__(
    self,
    search: search_lib.HostSearch,
    evaluator: evaluator_lib.Evaluator,
    numbers: Mapping[str, Any],
  ) -> None:
    self._search = search
    self._evaluator = evaluator
    self._numbers = numbers
    self._state: Any = None

  def observe(self, state: search_lib.StateLike) -> None:
    """Takes the state whose generation comes next."""
    self._state = jax.tree.map(jnp.copy, state)

  def __next__(self) -> dict[str, Any]:
    """The state after the observed one, and the metrics of its generation."""
    state = self._search.joined(self._state, self._numbers)
    state, metrics = self._search.step(state, self._evaluator)
    state, self._numbers = self._search.parted(state)
    return _example({'state': state, 'metrics': metrics})

  def get_state(self) -> dict[str, Any]:
    """The search's numbers, fit for JSON."""
    write = lambda leaf: leaf.tolist() if np.ndim(leaf) else leaf
    return jax.tree.map(write, dict(self._numbers))

  def set_state(self, state: Mapping[str, Any]) -> None:
    """Goes on with a saved search."""
    is_list = lambda leaf: isinstance(leaf, list)
    read = lambda leaf: np.asarray(leaf) if is_list(leaf) else leaf
    self._numbers = jax.tree.map(read, dict(state), is_leaf=is_list)
