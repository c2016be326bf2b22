"""The driver of a sweep, with a pool that only plays: order, retries, kills."""

import dataclasses
import json
import random

import pytest

from runtime.sweeping import calls as calls_lib
from runtime.sweeping import driving, plans, reporting, watching
from runtime.sweeping import members as members_lib

SPACE = ({'type': 'FLOAT', 'name': 'X', 'low': 0.0, 'high': 1.0},)
FAILURE = calls_lib.LostError('killed')


class Climber:
  """A tuner whose next point depends on all that it was told, and when."""

  def __init__(self):
    self.log = []

  def ask(self, count):
    first = sum(kind == 'ask' for kind, *_ in self.log)
    jobs = []
    for number in range(first, first + count):
      told = sum(event[2] or 0.0 for event in self.log if event[0] == 'tell')
      jobs.append(plans.Job(number, {'X': (0.37 * number + told) % 1}))
      self.log.append(('ask', number))
    return jobs

  def tell(self, job, score, step):
    self.log.append(('tell', job, score, step))

  def state(self):
    return json.loads(json.dumps(self.log))

  def restore(self, state):
    self.log = [tuple(event) for event in state]


class Player:
  """A pool that ends runs in any order; some tries fail."""

  def __init__(self, workers, order, broken=(), dies_after=None):
    self.workers, self.running, self.started = workers, [], []
    self._order = random.Random(order)
    self._broken, self._dies_after = dict(broken), dies_after
    self._calls = {}

  def start(self, key, function, member, metric, log=''):
    assert function is members_lib.train
    assert len(self.running) < self.workers
    self.running.append(key)
    self.started.append(member)
    self._calls[key] = member

  def wait(self, seconds=None):
    if self._dies_after is not None and len(self.started) > self._dies_after:
      raise KeyboardInterrupt
    key = self.running.pop(self._order.randrange(len(self.running)))
    member = self._calls[key]
    left = self._broken.get(key, [])
    if left:
      found = left.pop(0)
      is_error = isinstance(found, Exception)
      return [
        calls_lib.Outcome(key, error=found)
        if is_error
        else calls_lib.Outcome(key, found)
      ]
    x = float(member.params[-1].rpartition('= ')[2])
    value = round(x * x, 6) + member.seed
    return [calls_lib.Outcome(key, members_lib.Ended('finished', value, 10))]


def tuned(folder, *, most=9, parallel=3, retries=1, seeds=1, in_order=True):
  plan = plans.Plan(
    files=('x.gin',), space=SPACE, tuner='climber', metric='eval/x',
    goal='MINIMIZE', seeds=seeds,
  )  # fmt: skip
  return driving.Sweep(
    plan, folder, Climber(), parallel=parallel, most=most, retries=retries,
    in_order=in_order,
  )  # fmt: skip


def listed(folder, *, points=4, retries=1, seeds=1):
  texts = [f'X=[{", ".join(str(i / 8) for i in range(points))}]']
  plan = plans.Plan(
    files=('x.gin',), points=plans.grid(texts), seeds=seeds, metric='eval/x',
    goal='MAXIMIZE',
  )  # fmt: skip
  return driving.Sweep(
    plan, folder, plans.Listed(plan.points), parallel=None, most=None,
    retries=retries, in_order=False,
  )  # fmt: skip


def drive(sweep, pool, config='c'):
  sweep.load(config)
  while sweep.advance(pool, 1.0):
    pass
  return sweep


def results(sweep):
  return [(trial.job.params, trial.value) for trial in sweep.trials]


def test_choices_depend_on_the_seed_and_not_on_who_was_faster(tmp_path):
  found = []
  for order in range(4):
    folder = tmp_path / str(order)
    folder.mkdir()
    sweep = drive(tuned(folder), Player(3, order))
    found.append((results(sweep), sweep._tuner.log))
  assert all(one == found[0] for one in found)
  values, log = found[0]
  assert len(values) == 9
  assert [event[1] for event in log if event[0] == 'tell'] == list(range(9))
  # Minimised: the tuner is told the negative.
  assert log[3] == ('tell', 0, -values[0][1], 10)


def test_any_order_tells_at_once(tmp_path):
  sweep = drive(tuned(tmp_path, in_order=False), Player(3, 1))
  told = [event[1] for event in sweep._tuner.log if event[0] == 'tell']
  assert sorted(told) == list(range(9))
  assert told != list(range(9))


@pytest.mark.parametrize('death', range(9))
def test_a_driver_killed_anywhere_ends_with_the_same_results(tmp_path, death):
  whole, parts = tmp_path / 'whole', tmp_path / 'parts'
  whole.mkdir()
  parts.mkdir()
  expected = drive(tuned(whole), Player(3, 0))
  with pytest.raises(KeyboardInterrupt):
    drive(tuned(parts), Player(3, 5, dies_after=death))
  pool = Player(3, 7)
  again = drive(tuned(parts), pool)
  assert results(again) == results(expected)
  assert again._tuner.log == expected._tuner.log
  # What had a result did not run again.
  assert len(pool.started) <= 9 - death + 3


def test_failures_are_tried_again_and_then_given_up(tmp_path):
  broken = {
    '001-X=0.125': [FAILURE],
    '002-X=0.25': [FAILURE, members_lib.Ended('stopped')],
    '003-X=0.375': [members_lib.Ended('infeasible', message='nan')],
  }
  pool = Player(2, 0, broken)
  sweep = drive(listed(tmp_path), pool)
  assert [run.status for run in sweep.runs] == [
    *('finished', 'finished', 'failed', 'infeasible')
  ]
  assert [run.failures for run in sweep.runs] == [0, 1, 2, 0]
  assert sweep.runs[1].value == 0.125**2
  assert [trial.value for trial in sweep.trials[2:]] == [None, None]
  # Runs of a list that failed have another chance; infeasible ones have not.
  pool = Player(2, 0)
  again = drive(listed(tmp_path), pool)
  assert [member.name for member in pool.started] == ['002-X=0.25']
  assert again.runs[2].status == 'finished'


def test_a_refused_configuration_is_not_tried_again(tmp_path):
  (tmp_path / 'logs').mkdir()
  log = tmp_path / 'logs' / '001-X=0.125.txt'
  log.write_text('starting\nerror: WIDTH must divide HEADS\n')
  broken = {'001-X=0.125': [members_lib.Ended('refused')]}
  pool = Player(2, 0, broken)
  sweep = drive(listed(tmp_path, retries=5), pool)
  assert sweep.runs[1].status == 'failed'
  assert sweep.runs[1].message == 'WIDTH must divide HEADS'
  assert len(pool.started) == 4


def test_infeasible_trials_are_told_without_a_score(tmp_path):
  broken = {'001-X=0.37': [members_lib.Ended('infeasible')]}
  sweep = drive(tuned(tmp_path, most=4), Player(3, 0, broken))
  tells = [event for event in sweep._tuner.log if event[0] == 'tell']
  assert tells[1] == ('tell', 1, None, None)
  assert sweep.best is not sweep.trials[1]
  found = reporting.study(sweep, 'name')
  expected = {'parameters': {'X': 0.37}, 'status': 'INFEASIBLE'}
  assert found['trials'][1] == expected
  assert found['trials'][0]['value'] == sweep.trials[0].value


def test_a_trial_is_the_mean_of_its_seeds(tmp_path):
  sweep = drive(listed(tmp_path, points=2, seeds=3), Player(4, 0))
  assert [run.name for run in sweep.trials[1].runs] == [
    f'001-X=0.125-seed{i}' for i in range(3)
  ]
  assert [run.value for run in sweep.trials[0].runs] == [0.0, 1.0, 2.0]
  assert sweep.trials[0].value == 1.0
  assert sweep.best is sweep.trials[1]


def test_another_sweep_is_refused_with_the_difference(tmp_path):
  drive(listed(tmp_path), Player(2, 0))
  with pytest.raises(ValueError, match='holds another sweep') as told:
    listed(tmp_path, points=3).load('c\nd')
  lines = str(told.value).splitlines()
  assert {'-   "X": "0.375"', '+d'} <= set(lines)
  with pytest.raises(ValueError, match='another sweep'):
    listed(tmp_path).load('d')
  listed(tmp_path).load('c')


def test_a_list_can_be_scored_by_another_metric(tmp_path):
  drive(listed(tmp_path), Player(2, 0))
  sweep, pool = listed(tmp_path), Player(2, 0)
  sweep.plan = dataclasses.replace(sweep.plan, metric='eval/y')
  drive(sweep, pool)
  assert len(pool.started) == 4


def test_jobs_that_continue_others(tmp_path):
  class Halving(Climber):
    def ask(self, count):
      told = len([event for event in self.log if event[0] == 'tell'])
      asked = len(self.log) - told
      if asked == 0:
        jobs = [plans.Job(i, {'X': i / 4}, 5) for i in range(2)]
      elif asked == 2 and told == 2:
        jobs = [plans.Job(2, {'X': 0.25}, 10, 1)]
      else:
        return []
      self.log += [('ask', job.id) for job in jobs]
      return jobs

  plan = plans.Plan(
    files=('x.gin',), space=SPACE, tuner='h', metric='eval/x',
    goal='MAXIMIZE', budget='STEPS',
  )  # fmt: skip
  sweep = driving.Sweep(
    plan, tmp_path, Halving(), parallel=2, most=None, retries=0
  )
  pool = Player(2, 0, {'000-X=0': [members_lib.Ended('finished', 200.0, 5)]})
  drive(sweep, pool)
  last = pool.started[-1]
  assert last.params == ('X = 0.25', 'STEPS = 10')
  assert last.parent == str(tmp_path / 'members' / '001-X=0.25')
  assert pool.started[0].parent == ''
  rows = reporting.trial_rows(sweep)
  assert (rows[2]['budget'], rows[2]['continues']) == (10, 1)
  # A short run may be the best, though others had larger budgets.
  assert sweep.best is sweep.trials[0]


class Terminal:
  def __init__(self, is_terminal):
    self.text, self._is_terminal = '', is_terminal

  def isatty(self):
    return self._is_terminal

  def write(self, text):
    self.text += text

  def flush(self):
    pass


def test_what_a_terminal_and_a_file_show(tmp_path):
  broken = {'001-X=0.125': [FAILURE]}
  sweep, pool = listed(tmp_path, points=2), Player(1, 0, broken)
  sweep.load('c')
  terminal, file = Terminal(True), Terminal(False)
  shown = [
    watching.Watch(sweep, tmp_path, stream=stream, every=0.0)
    for stream in (terminal, file)
  ]
  while sweep.advance(pool, 1.0):
    for watch in shown:
      watch.show()
  shown[0].show(last=True)
  assert file.text.splitlines() == [
    '000-X=0.0: finished  0',
    '001-X=0.125: waiting  LostError: killed',
    '001-X=0.125: finished  0.015625',
  ]
  last = terminal.text.split('\x1b[4A')[-1]
  assert '2 finished, best 0.015625 by 001-X=0.125' in last
  assert '| 001-X=0.125 | finished |' in last


def test_running_members_show_where_they_are(tmp_path):
  sweep = listed(tmp_path, points=1)
  sweep.load('c')
  sweep._ask_and_tell()
  sweep._start(Player(1, 0))
  run = tmp_path / 'members' / '000-X=0.0'
  run.mkdir(parents=True)
  (run / 'status.json').write_text(
    json.dumps({'step': 30, 'total_steps': 90, 'steps_per_s': 2.0})
  )
  (run / 'metrics.jsonl').write_text('{"step": 30, "eval/x": 0.5}\n')
  assert watching.rows(sweep, tmp_path) == [
    {
      'member': '000-X=0.0',
      'state': 'running',
      'step': '30/90',
      'eval/x': 0.5,
      'minutes left': 0.5,
    }
  ]


def test_a_damaged_file_is_named(tmp_path):
  drive(listed(tmp_path), Player(2, order=0))
  path = tmp_path / 'sweep.json'
  path.write_text(path.read_text()[:-9])
  with pytest.raises(ValueError, match=r'sweep\.json is damaged'):
    listed(tmp_path).load('c')
