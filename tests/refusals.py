"""Tests of what is refused, as tables."""

import functools

import pytest


def table(*rows):
  """A test that each call raises a ValueError that matches its words.

  Args:
    *rows: functions without arguments, and words.
  """

  @pytest.mark.parametrize(('call', 'words'), rows)
  def test(call, words):
    with pytest.raises(ValueError, match=words):
      call()

  return test


def settings(make, *rows):
  """The same, of one function: rows of its keyword arguments, and words."""
  calls = [(functools.partial(make, **some), words) for some, words in rows]
  return table(*calls)


def all_with(words, *calls):
  """The same, of calls whose errors share their words."""
  return table(*((call, words) for call in calls))
