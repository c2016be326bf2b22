"""Ask and tell: the one interface of tuners, whoever runs their jobs.

  tuner = asking.Tuner(search.Random(), space, seed=0)
  for job in tuner.ask(4):
    tuner.tell(job.id, objective(**job.params))
  print(tuner.best)

Scores are maximised. A job may continue the run of another one, its parent, with
other values, up to a total budget: that is how halving promotes a run, and how a
population copies its best members. A tuner whose `ask` gives no job waits for
results; if no job is pending either, the tuner is finished.

A `Method` chooses the jobs. It is a pure function of the records so far, the seed
and the number of jobs, so that records are all that a resumed tuner needs.
"""

import dataclasses
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np

from hpo import plain, spaces, studies
from rl import ranges
from runtime import seeds

__all__ = ['History', 'Job', 'Method', 'Proposal', 'Record', 'Tuner']


class Proposal(NamedTuple):
  """What a method wants to be run.

  Attributes:
    params: values by name, a point of the space.
    budget: steps that the run has made in the end, those of its parent
      included; None: a whole run.
    parent: id of the job whose last state is continued; None: a fresh run.
  """

  params: Mapping[str, spaces.Value]
  budget: int | None = None
  parent: int | None = None


class Job(NamedTuple):
  """A proposal with its number; the fields are those of `Proposal`.

  Attributes:
    id: number of the job, from 0 on in the order of asking.
    params: see `Proposal`.
    budget: see `Proposal`.
    parent: see `Proposal`.
  """

  id: int
  params: dict[str, spaces.Value]
  budget: int | None
  parent: int | None


class Record(NamedTuple):
  """A job and its result. Events are the calls of `ask` and `tell`, from 0 on.

  Attributes:
    job: what was asked for.
    asked: number of the event that asked for it.
    told: number of the event that told its result; None: it is pending.
    score: maximised; None unless the job is completed.
    step: steps that the run really made; None: its budget.
  """

  job: Job
  asked: int
  told: int | None = None
  score: float | None = None
  step: int | None = None

  @property
  def status(self) -> str:
    """One of `studies.STATUSES`."""
    if self.told is None:
      return 'PENDING'
    return 'INFEASIBLE' if self.score is None else 'COMPLETED'


@dataclasses.dataclass(frozen=True, eq=False)
class History:
  """All that a method may read.

  Attributes:
    space: of the points.
    seed: of all draws.
    records: of all jobs so far.
    memory: where a method may keep what saves time. It may be empty at any
      time, and never changes what is proposed.
  """

  space: spaces.Space
  seed: int
  records: Sequence[Record]
  memory: dict[str, Any]

  @property
  def rng(self) -> np.random.Generator:
    """Draws of the next jobs: a function of the seed and their number."""
    return np.random.default_rng((self.seed, len(self.records)))

  @property
  def fresh(self) -> int:
    """Number of jobs that continue no other one."""
    return sum(record.job.parent is None for record in self.records)

  @property
  def study(self) -> studies.Study:
    """The records as a study whose values are maximised."""
    trials = (
      studies.Trial(r.job.params, r.score, r.status) for r in self.records
    )
    return studies.Study.of(studies.Problem(self.space), trials)

  def events(self, since: int = 0) -> Iterator[list[Record]]:
    """Records by event, in the order in which things happened.

    Args:
      since: the first event.

    Yields:
      The records of an `ask`, without results; or the one record of a `tell`.
    """
    found: dict[int, list[Record]] = {}
    for record in self.records:
      asked = Record(record.job, record.asked)
      found.setdefault(record.asked, []).append(asked)
      if record.told is not None:
        found[record.told] = [record]
    for number in sorted(found):
      if number >= since:
        yield found[number]


@runtime_checkable
class Method(Protocol):
  """Chooses jobs; a frozen dataclass of its settings."""

  def propose(self, history: History, count: int) -> Sequence[Proposal]:
    """The next jobs.

    Args:
      history: of the tuner.
      count: jobs that are wanted, 1 or more.

    Returns:
      At most `count`; fewer where results are needed first, or where there is
      nothing left to run.

    Raises:
      ValueError: the method cannot work on the space.
    """
    ...


class Tuner:
  """Numbers the jobs of a method, and keeps the record of all.

  The same method, space, seed and calls give the same jobs.

  Attributes:
    method: chooses the jobs.
    space: of their points.
    seed: of all draws.
    records: of all jobs, in the order of asking.

  Args:
    method: chooses the jobs.
    space: of their points.
    seed: of all draws, 0..2**32-1.

  Raises:
    ValueError: the seed is out of range.
  """

  def __init__(
    self, method: Method, space: spaces.Space, *, seed: int = 0
  ) -> None:
    seeds.check(seed)
    self.method, self.space, self.seed = method, space, seed
    self.records: list[Record] = []
    self._memory: dict[str, Any] = {}
    self._events = 0

  @property
  def history(self) -> History:
    """What the method reads."""
    return History(self.space, self.seed, tuple(self.records), self._memory)

  @property
  def best(self) -> Record | None:
    """The largest score of all jobs, whatever their budgets; None before any.

    Reference: arXiv:1603.06560, Section 3: the best intermediate result counts.
    """
    known = [record for record in self.records if record.score is not None]
    return max(known, key=lambda record: record.score, default=None)

  def ask(self, count: int = 1) -> list[Job]:
    """The next jobs, which may run at once.

    Args:
      count: jobs that are wanted.

    Returns:
      At most `count`; see the module.
    """
    ranges.check_counts(count=count)
    proposals = self.method.propose(self.history, count)
    first = len(self.records)
    for number, proposal in enumerate(proposals, first):
      codes = self.space.codes(proposal.params)
      job = Job(number, self.space.point(codes), *proposal[1:])
      self.records.append(Record(job, self._events))
    self._events += len(self.records) > first
    return [record.job for record in self.records[first:]]

  def tell(self, number: int, score: Any, step: int | None = None) -> None:
    """Records the result of a job.

    Args:
      number: id of the job.
      score: a finite number, maximised; None: the job is infeasible.
      step: steps that the run made; None: its budget.

    Raises:
      ValueError: there is no such job, it has a result, or the score is not
        finite.
    """
    if not 0 <= number < len(self.records):
      raise ValueError(
        f'number must be that of a job, below {len(self.records)}, '
        f'got {number=}'
      )
    ranges.check_counts(least=0, step=step)
    record = self.records[number]
    if record.told is not None:
      raise ValueError(f'job {number} already has a result, {record}')
    if score is not None:
      score = float(plain.number('score', score))
    self.records[number] = record._replace(
      told=self._events, score=score, step=step
    )
    self._events += 1

  @property
  def pending(self) -> list[Job]:
    """Jobs without a result; an interrupted driver runs them again."""
    return [record.job for record in self.records if record.told is None]

  def state(self) -> dict[str, Any]:
    """All that is needed to continue, as an object of JSON."""
    rows = [{**r._asdict(), 'job': r.job._asdict()} for r in self.records]
    found = {**self._identity(), 'records': rows, 'events': self._events}
    return json.loads(json.dumps(found))

  def restore(self, state: Mapping[str, Any]) -> None:
    """Continues where `state` was taken.

    Args:
      state: of a tuner with the same method, space and seed.

    Raises:
      ValueError: it is that of another tuner.
    """
    wrong = {
      name: (state.get(name), ours)
      for name, ours in self._identity().items()
      if state.get(name) != ours
    }
    if wrong:
      raise ValueError(f'the state is that of another tuner: {wrong}')
    rows = state['records']
    self.records = [Record(**{**r, 'job': Job(**r['job'])}) for r in rows]
    self._events = state['events']
    self._memory = {}

  def _identity(self) -> dict[str, Any]:
    # Through JSON, so that a state from a file compares equal.
    described = json.dumps(self.space.to_json())
    return {
      # Functions print their addresses, which differ between processes.
      'method': re.sub(' at 0x[0-9a-f]+', '', repr(self.method)),
      'space': json.loads(described),
      'seed': self.seed,
    }
