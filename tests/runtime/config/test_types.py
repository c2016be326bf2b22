"""Annotations, nearest names and the context of a run."""

import dataclasses
from collections.abc import Callable
from typing import Protocol, TypeVar

import pytest

from runtime import context
from runtime.config import errors
from runtime.config import types as types_lib

T = TypeVar('T')


class Source(Protocol[T]):
  def read(self) -> T: ...


class File:
  def read(self) -> int:
    return 3


@pytest.mark.parametrize(
  ('value', 'hint', 'fits'),
  [
    (1, float, True),
    (True, int, False),
    (True, bool | int, True),
    (None, int | None, True),
    ((1, 'a'), tuple[int, str], True),
    ((1, 2), tuple[int, str], False),
    ((1, 2, 3), tuple[int, str], False),
    ((), tuple[int, ...], True),
    ({'a': (1, 2)}, dict[str, tuple[int, ...]], True),
    ({'a': (1, 'b')}, dict[str, tuple[int, ...]], False),
    ({1: (1,)}, dict[str, tuple[int, ...]], False),
    ([[1], [2, 'x']], list[list[int]], False),
    (len, type, False),
    (File(), Source[int], True),
    (File, Source[int], False),
    (File, Source | None, False),
    ((File(), File), tuple[Source, ...], False),
    (File, type[File], True),
    (File, Callable, True),
    (File, Callable[[], Source], True),
  ],
)
def test_accepts(value, hint, fits):
  assert types_lib.accepts(value, hint) is fits


def test_every_item_is_checked_every_time():
  """The old recipe, one sampled item, misses a wrong one at random."""
  from beartype import door

  value = (*range(200), 'x')
  hint = tuple[int, ...]
  sampled = [door.is_bearable(value, hint) for _ in range(50)]
  assert any(sampled)
  assert not any(types_lib.accepts(value, hint) for _ in range(50))


def test_annotations_of_classes_and_unresolvable_ones(toy):
  assert types_lib.annotations(toy.Dataset)['length'] is int
  assert types_lib.annotations(toy.Encoder)['layers'] is int

  def missing(x: 'NotDefinedAnywhere'):
    return x

  assert types_lib.annotations(missing) == {}


def test_nearest_names():
  known = ['FEATURES', 'LAYERS', 'features_total']
  assert errors.nearest('FEATURS', known).startswith('; did you mean FEATURES')
  assert errors.nearest('zzz', ['a', 'b']) == '; known: a, b'
  assert errors.nearest('zzz', ['a', 'b'], listed=1) == ''
  assert errors.nearest('zzz', []) == ''


def test_context_is_frozen_and_checked():
  empty = context.RunContext()
  assert empty.operative_config() == ''
  assert empty.check_config() is None
  with pytest.raises(dataclasses.FrozenInstanceError):
    empty.dry_run = True
  with pytest.raises(ValueError, match='profile_steps=-1'):
    context.RunContext(profile_steps=-1)
