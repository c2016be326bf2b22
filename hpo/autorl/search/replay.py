"""Tuners of other libraries, which remember what they were asked and told.

Their memory is made anew from the events of the history, where there is none: the
same calls in the same order give the same points.
"""

from collections.abc import Callable, Mapping
from typing import Protocol

from hpo import spaces
from hpo.autorl import asking

__all__ = ['Live', 'propose']

Point = Mapping[str, spaces.Value]


class Live(Protocol):
  """A tuner of another library, at work."""

  def ask(self, first: int, count: int) -> list[Point]:
    """The next points; their jobs have the numbers from `first` on."""

  def tell(self, record: asking.Record) -> None:
    """A result."""


def propose(
  history: asking.History, count: int, start: Callable[[], Live]
) -> list[asking.Proposal]:
  """See `asking.Method`.

  Args:
    history: of the tuner.
    count: jobs that are wanted.
    start: makes the tuner before its first event.

  Raises:
    ValueError: the library gives other points than it gave before.
  """
  memory = history.memory
  if 'live' not in memory:
    memory |= {'live': start(), 'events': 0}
  live = memory['live']
  for records in history.events(memory['events']):
    memory['events'] += 1
    if records[0].told is not None:
      live.tell(records[0])
      continue
    points = live.ask(records[0].job.id, len(records))
    given = [record.job.params for record in records]
    if points != given:
      raise ValueError(
        'the library must repeat its points to continue, got '
        f'{points} in the place of {given}'
      )
  memory['events'] += 1
  points = live.ask(len(history.records), count)
  return [asking.Proposal(point) for point in points]
