"""Tests of what is refused, as tables."""

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


def all_with(words, *calls):
  """The same, of calls whose errors share their words."""
  return table(*((call, words) for call in calls))
