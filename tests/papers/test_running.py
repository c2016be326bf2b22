"""Studies: what is kept, what goes on, what trials choose."""

import dataclasses
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from papers import running
from papers import study as study_lib
from tests.papers import toy_study as toy

ROOT = pathlib.Path(__file__).resolve().parents[2]
ARMS = {'slow': toy.Setting(0.5), 'fast': toy.Setting(2.0)}
STUDY = study_lib.Study(toy.run, ARMS)


@pytest.fixture
def options(tmp_path):
  toy.CALLS.clear()
  return running.Options(folder=tmp_path / 'runs', log=lambda text: None)


def test_results_by_arm_position_and_seed(options):
  study = dataclasses.replace(STUDY, at=(1.0, 3.0))
  found = running.run(study, (0, 1), options)
  assert found('fast', 'curve', at=3.0).shape == (2, 3)
  expected = 6 + 0.1 * np.random.default_rng(1).standard_normal(3)
  np.testing.assert_allclose(found('fast', 'curve', at=3.0)[1], expected)
  np.testing.assert_allclose(found.last('fast', 'curve', 3.0)[1], expected[-1])
  assert found.arms == ('slow', 'fast')
  assert found.settings == ARMS
  with pytest.raises(KeyError, match=r"no 'loss' of 'slow', only \['curve'"):
    found('slow', 'loss', at=1.0)


def test_finished_runs_are_kept_and_shared(options):
  first = running.run(STUDY, range(2), options)
  assert len(toy.CALLS) == 4
  again = running.run(STUDY, range(3), options)
  assert len(toy.CALLS) == 6  # Only the new seed ran.
  np.testing.assert_array_equal(
    again('fast', 'curve')[:2], first('fast', 'curve')
  )
  other = study_lib.Study(toy.run, {'another name': ARMS['slow']})
  running.run(other, range(3), options)
  assert len(toy.CALLS) == 6
  running.run(STUDY, range(2), dataclasses.replace(options, fresh=True))
  assert len(toy.CALLS) == 10
  saved = json.loads(next(options.folder.glob('*.json')).read_text())
  assert set(saved) == {
    *('configuration', 'record', 'commit', 'time', 'minutes')
  }
  assert saved['configuration']['run'].endswith('toy_study.run')
  assert saved['commit'] in again.commits


def test_any_change_of_settings_runs_anew(options):
  running.run(STUDY, (0,), options)
  for change in ({'rate': 3.0}, {'noise': 0.2}, {'broken_from': 999}):
    toy.CALLS.clear()
    arms = ARMS | {'fast': dataclasses.replace(ARMS['fast'], **change)}
    running.run(study_lib.Study(toy.run, arms), (0,), options)
    assert [setting for setting, *_ in toy.CALLS] == [arms['fast']]


def test_an_interrupted_study_goes_on(options):
  broken = study_lib.Study(toy.run, {'a': toy.Setting(broken_from=2)})
  with pytest.raises(RuntimeError, match='seed 2 is killed') as caught:
    running.run(broken, range(4), options)
  assert caught.value.__notes__ == ['in the run a, seed 2']
  assert len(list(options.folder.iterdir())) == 2
  toy.CALLS.clear()
  with pytest.raises(RuntimeError, match='seed 2'):
    running.run(broken, range(4), options)
  assert [seed for _, seed, _ in toy.CALLS] == [2]


def test_a_damaged_run_is_named(options):
  running.run(STUDY, (0,), options)
  path = next(options.folder.iterdir())
  path.write_text(path.read_text()[:9])
  with pytest.raises(ValueError, match=f'{path.name} is damaged'):
    running.run(STUDY, (0,), options)


CHILD = """
import pathlib, time
from papers import running, study
from tests.papers import toy_study as toy
def slow(path, *, seed):
  time.sleep(0.2)
  return toy.touch(path, seed=seed)
slow.__module__ = 'toy'
running.run(study.Study(slow, {'a': PATH}), range(50),
            running.Options(folder=pathlib.Path(FOLDER)))
"""


def test_a_killed_process_leaves_whole_runs(options, tmp_path):
  seen = tmp_path / 'seen'
  seen.mkdir()
  code = CHILD.replace('PATH', repr(str(seen)))
  code = code.replace('FOLDER', repr(str(options.folder)))
  child = subprocess.Popen([sys.executable, '-c', code], cwd=ROOT)
  while len(list(seen.iterdir())) < 3:
    assert child.poll() is None
    time.sleep(0.05)
  os.kill(child.pid, signal.SIGKILL)
  child.wait()
  kept = [json.loads(p.read_text()) for p in options.folder.glob('*.json')]
  assert {s['record']['value'] for s in kept} >= {0.0, 1.0}
  assert len(kept) < 50


def test_workers_give_the_same_records(options, tmp_path):
  study = study_lib.Study(toy.run, {'a': toy.Setting()})
  alone = running.run(study, range(2), options)
  spread = dataclasses.replace(options, folder=tmp_path / 'other', workers=2)
  many = running.run(study, range(2), spread)
  np.testing.assert_array_equal(many('a', 'curve'), alone('a', 'curve'))
  assert len({*many('a', 'process'), os.getpid()}) == 3  # One for each run.
  with pytest.raises(ValueError, match='workers must be positive, got 0'):
    running.run(STUDY, range(3), dataclasses.replace(options, workers=0))


def test_processes_do_several_of_many_runs(options, monkeypatch):
  monkeypatch.setattr(running, '_TURNS', 1)
  study = study_lib.Study(toy.run, {'a': toy.Setting(), 'b': toy.Setting(2.0)})
  told = []
  spread = dataclasses.replace(options, workers=2, log=told.append)
  found = running.run(study, range(3), spread)
  for arm in 'ab':
    assert len({*found(arm, 'process')}) == 1
  assert {*found('a', 'process')} != {*found('b', 'process')}
  assert len(told) == len(list(options.folder.glob('*.json'))) == 6
  monkeypatch.setattr(running, '_MOST_RUNS', 1)
  again = dataclasses.replace(spread, fresh=True)
  one = study_lib.Study(toy.run, {'a': toy.Setting()})
  each = running.run(one, range(4), again)
  assert len({*each('a', 'process')}) == 4
  toy.CALLS.clear()
  alone = running.run(study, range(3), dataclasses.replace(options, fresh=True))
  for arm in 'ab':
    np.testing.assert_array_equal(found(arm, 'curve'), alone(arm, 'curve'))


@pytest.mark.slow
def test_a_ray_cluster_gives_the_same_records(options, tmp_path):
  study = study_lib.Study(toy.run, {'a': toy.Setting()})
  alone = running.run(study, range(2), options)
  spread = dataclasses.replace(
    options, folder=tmp_path / 'other', ray_address='local'
  )
  many = running.run(study, range(2), spread)
  np.testing.assert_array_equal(many('a', 'curve'), alone('a', 'curve'))
  assert os.getpid() not in many('a', 'process')


def test_trials_choose_by_seeds_of_their_own(options):
  trials = study_lib.Trials(
    'rate',
    (0.1, 0.3, 0.2),
    lambda setting: dataclasses.replace(setting, noise=0.0),
    lambda record: -abs(record['value'] - 0.3),
    seeds=(1000, 1001),
  )
  study = study_lib.Study(toy.run, {'a': toy.Setting()}, trials=trials)
  study = dataclasses.replace(study, arms={'a': toy.Setting(broken_from=2000)})
  found = running.run(study, (0, 1), options)
  assert found.settings['a'] == toy.Setting(rate=0.3, broken_from=2000)
  assert found.tried['a'] == pytest.approx({0.1: -0.2, 0.3: 0.0, 0.2: -0.1})
  tried, reported = toy.CALLS[:6], toy.CALLS[6:]
  assert {seed for _, seed, _ in tried} == {1000, 1001}
  assert {setting.noise for setting, *_ in tried} == {0.0}
  assert [(s.rate, seed) for s, seed, _ in reported] == [(0.3, 0), (0.3, 1)]
  one = dataclasses.replace(trials, values=(1.0,))
  toy.CALLS.clear()
  running.run(dataclasses.replace(study, trials=one), (0,), options)
  assert len(toy.CALLS) == 1  # Nothing to choose.


def test_seeds_side_by_side(options):
  study = study_lib.Study(toy.run_all, ARMS, together=True)
  found = running.run(study, range(3), options)
  assert [(ARMS['slow'], (0, 1, 2)), (ARMS['fast'], (0, 1, 2))] == toy.CALLS
  assert found('fast', 'value').tolist() == [2.0, 3.0, 4.0]
  running.run(study, range(5), options)
  assert toy.CALLS[2:] == [(ARMS['slow'], (3, 4)), (ARMS['fast'], (3, 4))]


def test_measurements_without_a_seed(options):
  import functools

  exact = study_lib.Study(toy.measure, {'square': 2}, seeds=None, at=(2, 4))
  found = running.run(exact, None, options)
  assert found('square', 'value', at=4).tolist() == [16.0]
  with_fixed = dataclasses.replace(
    STUDY, fixed={'chance': functools.partial(toy.baseline, 0.25)}
  )
  found = running.run(with_fixed, (0, 1), options)
  assert found('chance', 'value').tolist() == [0.25]
  assert found.arms == ('slow', 'fast')
  with pytest.raises(ValueError, match='seeds do not fit'):
    running.run(exact, (0, 1), options)


def test_studies_are_checked():
  for options, message in (
    ({'arms': {}}, 'needs arms'),
    ({'arms': ARMS, 'seeds': None, 'together': True}, 'need seeds'),
    (
      {
        'arms': ARMS,
        'at': (1,),
        'trials': study_lib.Trials('rate', (1, 2), None, None),
      },
      'one position',
    ),
  ):
    with pytest.raises(ValueError, match=message):
      study_lib.Study(toy.run, **options)
