"""Successive halving: many short runs, of which the better ones go on.

`Hyperband` runs the brackets s = s_max .. 0, s_max = floor(log_eta R), one of which
starts n = ceil((s_max + 1) eta^s / (s + 1)) runs of R eta^-s units; round i keeps
the floor(n eta^-i) best at R eta^(i - s). `Asha` has no rounds: a worker that is
free continues a run that is in the top 1/eta of its rung so far, and starts a new
one if there is none. A run that goes on continues its state.

References: Li et al. (2018), arXiv:1603.06560, Algorithm 1; Li et al. (2020),
arXiv:1810.05934, Algorithm 2.
"""

import dataclasses
import itertools
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from hpo.autorl import asking
from hpo.autorl.search import simple
from rl import ranges

__all__ = ['Asha', 'Bracket', 'Hyperband', 'brackets']


class Bracket(NamedTuple):
  """One successive halving.

  Attributes:
    sizes: runs of each round.
    budgets: steps that they have made at its end.
  """

  sizes: tuple[int, ...]
  budgets: tuple[int, ...]


def brackets(max_budget: int, unit: int, eta: int) -> list[Bracket]:
  """The brackets of Hyperband.

  Args:
    max_budget: steps of the longest runs, R units.
    unit: steps; no run is shorter.
    eta: factor from round to round.
  """
  most = len(_rungs(max_budget, unit, eta)) - 1
  found = []
  for s in range(most, -1, -1):
    count = -(-(most + 1) * eta**s // (s + 1))
    sizes = tuple(count // eta**i for i in range(s + 1))
    budgets = tuple(round(max_budget / eta ** (s - i)) for i in range(s + 1))
    found.append(Bracket(sizes, budgets))
  return found


def _rungs(max_budget: int, unit: int, eta: int) -> list[int]:
  """The budgets unit eta^k up to the largest."""
  powers = (unit * eta**k for k in itertools.count())
  return list(itertools.takewhile(lambda budget: budget <= max_budget, powers))


def _depths(records: Sequence[asking.Record]) -> list[int]:
  """How often each run was continued before."""
  depths: list[int] = []
  for record in records:
    parent = record.job.parent
    depths.append(0 if parent is None else depths[parent] + 1)
  return depths


def _best(records: Iterable[asking.Record]) -> list[asking.Record]:
  """Those with a score, the best first, and the older of equals."""
  known = [record for record in records if record.score is not None]
  return sorted(known, key=lambda record: -record.score)


def _continued(record: asking.Record, budget: int) -> asking.Proposal:
  return asking.Proposal(record.job.params, budget, record.job.id)


@dataclasses.dataclass(frozen=True)
class _Halving:
  """Settings of halving.

  Attributes:
    max_budget: steps of the longest runs.
    unit: steps; no run is shorter.
    eta: factor of the budget from round to round; 1 / eta of the runs go on.
    sampler: chooses the settings of new runs.

  Raises:
    ValueError: a number is out of range.
  """

  max_budget: int
  unit: int = 1
  eta: int = 3
  sampler: asking.Method = simple.Random()

  def __post_init__(self) -> None:
    ranges.check_counts(max_budget=self.max_budget, unit=self.unit)
    ranges.check_counts(least=2, eta=self.eta)
    if self.unit > self.max_budget:
      raise ValueError(
        f'unit must be at most max_budget, got {self.unit=} {self.max_budget=}'
      )


@dataclasses.dataclass(frozen=True)
class Hyperband(_Halving):
  """See the module; finished after its last bracket.

  While a round waits for results, the next bracket begins. See `_Halving` for the
  attributes.
  """

  def propose(
    self, history: asking.History, count: int
  ) -> list[asking.Proposal]:
    """See `asking.Method`."""
    records = history.records
    found, fresh = [], []
    roots = [r.job.id for r in records if r.job.parent is None]
    first = 0
    for bracket in brackets(self.max_budget, self.unit, self.eta):
      last = first + bracket.sizes[0]
      found += _promoted(bracket, _family(records, roots[first:last]))
      started = len(roots) + len(fresh)
      fresh += bracket.budgets[:1] * max(0, last - max(first, started))
      first = last
    found, fresh = found[:count], fresh[: max(0, count - len(found))]
    if fresh:
      drawn = self.sampler.propose(history, len(fresh))
      if len(drawn) < len(fresh):
        raise ValueError(
          'the sampler must give as many points as the brackets start runs, '
          f'got {len(drawn)} of {len(fresh)} from {self.sampler}'
        )
      pairs = zip(drawn, fresh, strict=True)
      found += [one._replace(budget=budget) for one, budget in pairs]
    return found


def _promoted(
  bracket: Bracket, rungs: list[list[asking.Record]]
) -> list[asking.Proposal]:
  """Runs that go on to the next round, if the one before is over."""
  wanted = bracket.sizes[0]
  budgets = zip(bracket.sizes[1:], bracket.budgets[1:], strict=True)
  for here, above, (size, budget) in zip(
    rungs, [*rungs[1:], []], budgets, strict=False
  ):
    if len(here) < wanted or any(record.told is None for record in here):
      return []
    best = _best(here)[:size]
    done = {record.job.parent for record in above}
    missing = [record for record in best if record.job.id not in done]
    if missing:
      return [_continued(record, budget) for record in missing]
    wanted = len(best)
  return []


def _family(
  records: Sequence[asking.Record], roots: Sequence[int]
) -> list[list[asking.Record]]:
  """The runs that began as some jobs, by how often they were continued."""
  members, rungs = set(roots), []
  for record, depth in zip(records, _depths(records), strict=True):
    if record.job.id in members or record.job.parent in members:
      members.add(record.job.id)
      rungs += [[] for _ in range(depth + 1 - len(rungs))]
      rungs[depth].append(record)
  return rungs


@dataclasses.dataclass(frozen=True)
class Asha(_Halving):
  """See the module; never finished.

  The last rung may be less than eta times the one before. See `_Halving` for the
  attributes.
  """

  @property
  def budgets(self) -> list[int]:
    """Steps of each rung."""
    found = _rungs(self.max_budget, self.unit, self.eta)
    return found if found[-1] == self.max_budget else [*found, self.max_budget]

  def propose(
    self, history: asking.History, count: int
  ) -> list[asking.Proposal]:
    """See `asking.Method`."""
    found = self._promotable(history.records)[:count]
    new = count - len(found)
    if new:
      drawn = self.sampler.propose(history, new)
      found += [one._replace(budget=self.budgets[0]) for one in drawn]
    return found

  def _promotable(
    self, records: Sequence[asking.Record]
  ) -> list[asking.Proposal]:
    """Runs in the top 1/eta of their rung that did not go on; high ones first."""
    depths = _depths(records)
    done = {record.job.parent for record in records}
    found = []
    for rung in range(len(self.budgets) - 2, -1, -1):
      here = [r for r, d in zip(records, depths, strict=True) if d == rung]
      told = sum(record.told is not None for record in here)
      top = _best(here)[: told // self.eta]
      found += [
        _continued(record, self.budgets[rung + 1])
        for record in top
        if record.job.id not in done
      ]
    return found
