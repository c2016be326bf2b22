"""Sweeps of real runs: checks, reports, kills."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from runtime import commands, sweep
from runtime.sweeping import members as members_lib
from runtime.sweeping import plans
from tests import experiments

ROOT = pathlib.Path(__file__).resolve().parents[2]
TOY = 'configs/hpo/ufom_toy_tiny.gin'


def options(folder, *words):
  return [f'--gin_file={TOY}', f'--workdir={folder}', *words]


@pytest.mark.parametrize(
  ('words', 'message'),
  [
    (['--tuner=random'], 'needs a space'),
    (['--tuner=random', '--grid=Q=[1]'], 'drop --grid or --tuner'),
    (
      ['--trials=3', '--budget=STEPS'],
      'only a --tuner reads --trials, --budget',
    ),
    (['--metric=eval/x'], 'a metric has a goal'),
    (['--grid=Q'], r'NAME=\[VALUE'),
  ],
)
def test_mistakes_in_options(words, message, tmp_path):
  with pytest.raises(ValueError, match=message):
    sweep.main(options(tmp_path / 'x', *words))
  assert not (tmp_path / 'x').exists()


def member(*params):
  return members_lib.Member('one', 'unused', (TOY,), params)


def test_members_are_built_before_anything_runs():
  good, bad = member('STEPS = 2'), member('STEPS = 2', 'Q = 7.0')
  text, mistake = members_lib.check([good], 'eval/true/slope')
  assert 'STEPS = 2' in text
  assert mistake == ''
  text, mistake = members_lib.check([good, bad], '')
  assert 'STEPS = 2' in text
  assert mistake.startswith('one: ')
  assert '7.0' in mistake
  _, mistake = members_lib.check([good], 'eval/tru/slope')
  assert '--metric must be one of' in mistake
  assert 'eval/true/' in mistake


def test_a_budget_is_built_like_any_other_setting():
  """Its name may be misspelt, and not every tuner gives budgets."""
  plan = lambda tuner: plans.Plan(
    (TOY,),
    space=({'type': 'FLOAT', 'name': 'Q', 'low': 0.0, 'high': 1.0},),
    tuner=tuner,
    metric='eval/true/slope',
    goal='MINIMIZE',
    budget='STPS',
  )
  *_, last = sweep._probes(plan('asha(max_budget=9, unit=3)'), 0)
  assert last.params[-1] == 'STPS = 3'
  _, mistake = members_lib.check([last], '')
  assert 'STPS is defined, but nothing refers to it' in mistake
  with pytest.raises(ValueError, match='no budgets: drop --budget=STPS'):
    sweep._probes(plan('random'), 0)


def test_scores_are_last_values_and_must_be_finite(tmp_path):
  rows = [{'step': 1, 'eval/x': 3.0, 'eval/y': 1}, {'step': 2, 'eval/y': None}]
  text = ''.join(f'{json.dumps(row)}\n' for row in rows)
  (tmp_path / 'metrics.jsonl').write_text(text)
  score = lambda metric: members_lib._scored(tmp_path, metric, 2)
  assert score('eval/x') == ('finished', 3.0, 2, '')
  assert score('') == ('finished', None, 2, '')
  assert score('eval/y')[0] == 'infeasible'
  refused = score('eval/z')
  assert refused.status == 'refused'
  assert "no metric 'eval/z', but eval/x, eval/y, step" in refused.message


def command(folder, *words):
  env = os.environ | {'PYTHONPATH': str(ROOT)}
  env.pop('XLA_FLAGS')  # Members train on one device.
  return subprocess.Popen(
    [sys.executable, '-m', 'runtime.sweep', *options(folder, *words)],
    cwd=ROOT,
    env=env,
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
  )


def finished(process):
  text, _ = process.communicate(timeout=600)
  assert process.returncode == 0, text
  return text


@pytest.mark.slow
def test_a_member_that_cannot_be_built_stops_all(tmp_path):
  process = command(tmp_path / 'x', '--grid=Q=[0.0, 7.0]')
  text, _ = process.communicate(timeout=300)
  assert process.returncode == 2
  assert 'error: Q=7.0: ' in text
  assert not (tmp_path / 'x').exists()
  text = finished(command(tmp_path / 'x', '--grid=Q=[0.0, 1.0]', '--dry_run'))
  assert '| 1.0' in text
  assert not (tmp_path / 'x').exists()


STEPS = 20_000
EIGHT = (
  '--grid=Q=[0.0, 0.25, 0.5, 1.0]',
  '--seeds=2',
  '--workers=2',
  '--metric=eval/true/slope',
  '--goal=MINIMIZE',
  f'--gin_param=STEPS = {STEPS}',
  '--gin_param=LOG_EVERY = 500',
  '--gin_param=EVAL_EVERY = 5000',
)


def wait_for(process, condition):
  until = time.monotonic() + 400
  while not (found := condition()):
    assert process.poll() is None, process.communicate()
    assert time.monotonic() < until
    time.sleep(0.02)
  return found


def statuses(folder):
  return {
    path.parent: json.loads(path.read_text())
    for path in (folder / 'members').glob('*/status.json')
  }


def running(folder, earlier=()):
  """Statuses of members in the middle of their training, by folder.

  Args:
    folder: of the sweep.
    earlier: processes that do not count. One that was killed, or that outlives
      its driver for a moment, leaves a status behind.
  """
  return {
    path: status
    for path, status in statuses(folder).items()
    if status['pid'] not in earlier
    and status['state'] == 'running'
    and status.get('last_checkpoint')
    and status['step'] < STEPS / 2
  }


def results(folder):
  """What a sweep found, and the rows of its members, without times."""
  trials = json.loads((folder / 'sweep.json').read_text())['trials']
  values = [
    (trial['job'], [(r['name'], r['value'], r['step']) for r in trial['runs']])
    for trial in trials
  ]
  rows = {
    path.name: experiments.rows(path) for path in (folder / 'members').iterdir()
  }
  return values, rows


@pytest.fixture(scope='module')
def undisturbed(tmp_path_factory):
  folder = tmp_path_factory.mktemp('sweeps') / 'whole'
  text = finished(command(folder, *EIGHT))
  assert text.count('finished') >= 8
  report = {path.name for path in (folder / 'report').iterdir()}
  assert report >= {'trials.md', 'scores.csv', 'curves.png'}
  return results(folder)


@pytest.mark.slow
@pytest.mark.parametrize('where', [(), ('--ray_address=local',)])
def test_killed_workers_and_drivers_change_nothing(
  where, undisturbed, tmp_path
):
  folder = tmp_path / 'parts'
  driver = command(folder, *EIGHT, *where)
  victims = wait_for(driver, lambda: running(folder))
  killed, status = next(iter(victims.items()))
  os.kill(status['pid'], signal.SIGKILL)
  # It is started again, and then the driver dies.
  wait_for(driver, lambda: statuses(folder)[killed]['pid'] != status['pid'])
  wait_for(driver, lambda: running(folder, {status['pid']}))
  driver.send_signal(signal.SIGKILL)
  driver.communicate()
  earlier = {status['pid'] for status in statuses(folder).values()}
  # A polite end, too.
  driver = command(folder, *EIGHT, *where)
  wait_for(driver, lambda: running(folder, earlier))
  driver.send_signal(signal.SIGTERM)
  assert 'the same command continues the sweep' in finished(driver)
  finished(command(folder, *EIGHT, *where))
  values, rows = results(folder)
  assert values == undisturbed[0]
  assert rows == undisturbed[1]
  log = (folder / 'logs' / f'{killed.name}.txt').read_text()
  assert 'continuing after step' in log


@pytest.mark.slow
def test_runs_that_diverge_are_infeasible(tmp_path):
  words = (
    *('--grid=optax.sgd.learning_rate=[0.01, 1e38]', '--gin_param=STEPS = 100'),
    *('--metric=eval/true/slope', '--goal=MINIMIZE', '--gin_param=Q = 1.0'),
  )
  finished(command(tmp_path / 'x', *words))
  saved = json.loads((tmp_path / 'x' / 'sweep.json').read_text())['trials']
  assert [trial['runs'][0]['status'] for trial in saved] == [
    *('finished', 'infeasible')
  ]
  assert saved[1]['runs'][0]['failures'] == 0


@pytest.mark.parametrize(
  ('word', 'message'),
  [
    ('--gpus=-1', '--gpus: must not be negative, got -1'),
    ('--retries=-1', '--retries: must not be negative'),
    ('--resources=3', '--resources: must be positive numbers by name'),
    ('--resources={"TPU": true}', '--resources: must be positive numbers'),
  ],
)
def test_numbers_out_of_range(word, message, tmp_path, capsys):
  with pytest.raises(SystemExit):
    sweep.main(options(tmp_path / 'x', word))
  assert message in capsys.readouterr().err


def test_the_command_ends_with_one_message(monkeypatch, capsys):
  monkeypatch.setattr(sys, 'argv', ['sweep', '--gin_file=nowhere.gin'])
  with pytest.raises(SystemExit) as stopped:
    commands.run(sweep.main)
  assert stopped.value.code == 2
  assert 'no such gin file' in capsys.readouterr().err
