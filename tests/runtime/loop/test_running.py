import dataclasses
import json
import os
import pathlib
import resource
import shutil
import signal
import time

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from runtime import context, loop
from runtime.config import errors
from runtime.devices import memory
from runtime.loop import checkpoints, durations
from runtime.record import metrics, workdirs, writers
from tests import experiments, trees


def config(steps, **kwargs):
  kwargs = {
    'log_every': 4,
    'eval_every': durations.Duration(steps=10),
    'checkpoint_every': durations.Duration(steps=5),
    'checkpoints': checkpoints.CheckpointConfig(keep=2),
  } | kwargs
  return loop.LoopConfig(durations.Duration(steps=steps), **kwargs)


def differ(a, b):
  pairs = zip(trees.bits(a), trees.bits(b), strict=True)
  return any((x != y).any() for x, y in pairs)


@pytest.fixture(scope='module')
def unbroken(regression, tmp_path_factory):
  workdir = tmp_path_factory.mktemp('unbroken')
  result = loop.run(regression(), config(23), workdir=workdir, seed=0)
  return workdir, result


def before_batches(experiment, act):
  """The experiment, which calls `act` with the position of each batch."""
  draw = type(experiment.batches).__next__

  class Acting(type(experiment.batches)):
    def __next__(self):
      act(self.position)
      return draw(self)

  experiment.batches.__class__ = Acting
  return experiment


def stop_at(experiment, step):
  """Sends this process SIGTERM while batch `step` is drawn."""
  act = lambda at: at == step and os.kill(os.getpid(), signal.SIGTERM)
  return before_batches(experiment, act)


def test_trains_and_leaves_what_it_promises(unbroken):
  workdir, result = unbroken
  assert result.finished
  assert result.step == 23
  assert result.seconds > 0
  losses = [
    r['train/loss'] for r in experiments.rows(workdir) if 'train/loss' in r
  ]
  assert losses[-1] < 0.5 * losses[0]
  assert [r['step'] for r in experiments.rows(workdir)] == [
    4, 8, 10, 12, 16, 20, 20, 23, 23,
  ]  # fmt: skip
  assert {'config.gin', 'manifest.json', 'checkpoints'} <= {
    path.name for path in workdir.iterdir()
  }
  steps = sorted(int(p.name) for p in (workdir / 'checkpoints').iterdir())
  assert steps == [20, 23]


def test_rows_average_over_the_steps_since_the_last(unbroken, regression):
  experiment = regression()
  step, state, losses = jax.jit(experiment.step), experiment.init(), []
  for _ in range(8):
    state, collection = step(state, next(experiment.batches))
    losses.append(float(collection.compute()['loss']))
  first, second = experiments.rows(unbroken[0])[:2]
  np.testing.assert_allclose(first['train/loss'], np.mean(losses[:4]), 1e-6)
  np.testing.assert_allclose(second['train/loss'], np.mean(losses[4:]), 1e-6)


@pytest.mark.parametrize('step', [1, 5, 11, 19])
def test_sigterm_then_same_command_is_bit_exact(
  step, unbroken, regression, tmp_path
):
  experiment = stop_at(regression(), step)
  stopped = loop.run(experiment, config(23), workdir=tmp_path, seed=0)
  assert not stopped.finished
  assert stopped.step == step + 1
  result = loop.run(regression(), config(23), workdir=tmp_path, seed=0)
  assert result.finished
  trees.check_same(result.state, unbroken[1].state)
  assert experiments.rows(tmp_path) == experiments.rows(unbroken[0])


@pytest.mark.parametrize('at', [10, 23])
def test_sigterm_breaks_off_an_evaluation_that_is_made_up_for(
  at, unbroken, regression, tmp_path, capsys
):
  """In the middle of the run, and in the last evaluation."""
  experiment = regression()
  (name,) = experiment.evaluators
  evaluate = experiment.evaluators[name]

  def slow(state):
    if int(state.step) == at:
      os.kill(os.getpid(), signal.SIGTERM)
      for _ in range(100):  # Handlers run between bytecodes.
        time.sleep(0.01)
      raise AssertionError('the evaluation went on')
    return evaluate(state)

  object.__setattr__(experiment, 'evaluators', {name: slow})
  stopped = loop.run(experiment, config(23), workdir=tmp_path, seed=0)
  assert not stopped.finished
  assert stopped.step == at
  assert f'SIGTERM: saved step {at} of 23' in capsys.readouterr().err
  result = loop.run(regression(), config(23), workdir=tmp_path, seed=0)
  assert result.finished
  trees.check_same(result.state, unbroken[1].state)
  assert experiments.rows(tmp_path) == experiments.rows(unbroken[0])


def test_crash_between_checkpoints_is_bit_exact(unbroken, regression, tmp_path):
  class CrashError(RuntimeError):
    pass

  def crash(at):
    if at == 18:
      raise CrashError

  experiment = before_batches(regression(), crash)
  with pytest.raises(CrashError):
    loop.run(experiment, config(23), workdir=tmp_path, seed=0)
  assert (
    experiments.rows(tmp_path)[-1]['step'] == 16
  )  # Past the checkpoint of step 15.
  result = loop.run(regression(), config(23), workdir=tmp_path, seed=0)
  trees.check_same(result.state, unbroken[1].state)
  assert experiments.rows(tmp_path) == experiments.rows(unbroken[0])


@pytest.mark.parametrize(
  'step', [7, *(pytest.param(s, marks=pytest.mark.slow) for s in (8, 9))]
)
def test_refresh_keeps_its_schedule_over_a_stop(step, regression, tmp_path):
  def refreshed():
    experiment = regression()
    object.__setattr__(experiment, 'refresh_every', 4)
    object.__setattr__(
      experiment,
      'refresh',
      lambda s: s.replace(params={'w': s.params['w'] * 0.5 + s.step}),
    )
    return experiment

  whole = loop.run(refreshed(), config(13), workdir=tmp_path / 'a', seed=0)
  loop.run(stop_at(refreshed(), step), config(13), workdir=tmp_path, seed=0)
  resumed = loop.run(refreshed(), config(13), workdir=tmp_path, seed=0)
  trees.check_same(whole.state, resumed.state)
  never = loop.run(regression(), config(13), workdir=tmp_path / 'b', seed=0)
  assert differ(whole.state, never.state)


def test_iterator_that_forgets_its_position_is_caught(
  unbroken, regression, tmp_path
):
  # The power of the tests above: they fail if the position is not restored.
  experiment = stop_at(regression(), 11)
  loop.run(experiment, config(23), workdir=tmp_path, seed=0)
  again = regression()
  again.batches.set_state = lambda state: None
  result = loop.run(again, config(23), workdir=tmp_path, seed=0)
  assert differ(result.state, unbroken[1].state)


@pytest.mark.parametrize(
  'part', ['loop/metadata', 'state/manifest.ocdbt', 'metrics/metrics']
)
def test_damaged_newest_checkpoint_falls_back(
  part, unbroken, regression, tmp_path, caplog
):
  kept = checkpoints.CheckpointConfig(keep=2, best_metric='eval/sum/w')
  ranked = config(23, checkpoints=kept)
  loop.run(stop_at(regression(), 16), ranked, workdir=tmp_path, seed=0)
  file = tmp_path / 'checkpoints' / '17' / part
  file.write_bytes(file.read_bytes()[:4])
  with caplog.at_level('WARNING', logger='absl'):
    result = loop.run(regression(), ranked, workdir=tmp_path, seed=0)
  assert 'checkpoint 17' in caplog.text
  assert (tmp_path / 'checkpoints_damaged' / '17').is_dir()
  trees.check_same(result.state, unbroken[1].state)
  assert experiments.rows(tmp_path) == experiments.rows(unbroken[0])


@pytest.mark.parametrize('name', ['a*?', '#{}:|', "';%20 ü"])
def test_odd_paths_keep_their_checkpoints(name, regression, tmp_path):
  loop.run(regression(), config(5), workdir=tmp_path / name, seed=0)
  result = loop.run(regression(), config(5), workdir=tmp_path / name, seed=0)
  assert result.step == 5


def test_no_readable_checkpoint_is_an_error(regression, tmp_path):
  loop.run(regression(), config(5), workdir=tmp_path, seed=0)
  for file in (tmp_path / 'checkpoints').glob('*/loop/metadata'):
    file.write_text('{')
  with pytest.raises(
    checkpoints.CheckpointError, match=r'no checkpoint in .* newest, 5, says: '
  ):
    loop.run(regression(), config(9), workdir=tmp_path, seed=0)


def test_non_finite_loss_names_the_step_and_keeps_the_last_good(
  regression, tmp_path
):
  with pytest.raises(metrics.NonFiniteError, match=r'step 14 .*loss'):
    loop.run(regression(poison=14), config(23), workdir=tmp_path, seed=0)
  kept = checkpoints.Checkpoints(tmp_path, checkpoints.CheckpointConfig())
  assert kept.steps() == [5, 10]
  kept.close()
  assert workdirs.read_status(tmp_path)['state'] == 'failed'


def test_changed_config_is_refused_with_the_difference(regression, tmp_path):
  def run(text, **kwargs):
    launched = context.RunContext(operative_config=lambda: text, **kwargs)
    return loop.run(
      regression(), config(5), workdir=tmp_path, seed=0, context=launched
    )

  run('a.rate = 1\n')
  with pytest.raises(ValueError, match=r'(?s)-a\.rate = 1.*\+a\.rate = 2'):
    run('a.rate = 2\n')
  run('a.rate = 2\n', allow_config_change=True)
  assert 'a.rate = 2' in (tmp_path / 'config.gin').read_text()
  with pytest.raises(ValueError, match='seed = 1'):
    loop.run(regression(), config(5), workdir=tmp_path, seed=1)
  (tmp_path / 'config.gin').unlink()
  with pytest.raises(ValueError, match=r'config\.gin is missing'):
    run('a.rate = 2\n')


@pytest.mark.parametrize(('mode', 'best'), [('min', 8), ('max', 12)])
def test_checkpoints_without_evaluation_rank_last_and_warn_of_nothing(
  mode, best, regression, tmp_path, caplog
):
  values = iter([3.0, 1.0, 4.0, float('nan'), 2.0])
  experiment = regression()
  experiment.evaluators['sum'] = lambda state: {'w': next(values)}
  kept = checkpoints.CheckpointConfig(2, 'eval/sum/w', mode)
  intervals = {
    'eval_every': durations.Duration(steps=4),
    'checkpoint_every': durations.Duration(steps=2),
  }
  with caplog.at_level('WARNING', logger='absl'):
    loop.run(
      experiment,
      config(18, checkpoints=kept, **intervals),
      workdir=tmp_path,
      seed=0,
    )
  assert 'did not provide metrics' not in caplog.text
  manager = checkpoints.Checkpoints(tmp_path, kept)
  assert manager.steps() == [best, 16, 18]
  assert manager.best_step() == best
  manager.close()


def test_an_evaluation_may_lack_a_score_that_its_evaluator_declares(
  regression, tmp_path
):
  experiment = dataclasses.replace(
    regression(),
    evaluators={'test': lambda state: {}},
    scores={'test': ('score',)},
  )
  kept = checkpoints.CheckpointConfig(best_metric='eval/test/score')
  result = loop.run(
    experiment, config(4, checkpoints=kept), workdir=tmp_path, seed=0
  )
  assert result.finished
  with pytest.raises(errors.ConfigError, match=r"\['eval/test/score'\], got"):
    experiment.check_metric('eval/test/scores')


def test_hooks_of_the_launcher_are_called_in_time(regression, tmp_path):
  calls = []
  experiment = before_batches(regression(), lambda at: calls.append('batch'))
  launched = context.RunContext(
    check_config=lambda: calls.append('check'),
    on_start=lambda: calls.append('start'),
  )
  loop.run(experiment, config(1), workdir=tmp_path, seed=0, context=launched)
  assert calls[:3] == ['check', 'start', 'batch']


def test_dry_run_describes_and_trains_nothing(regression, tmp_path, capsys):
  launched = context.RunContext(
    operative_config=lambda: 'a.rate = 1', dry_run=True
  )
  result = loop.run(
    regression(), config(5), workdir=tmp_path / 'none', seed=0, context=launched
  )
  text = capsys.readouterr().out
  assert 'a.rate = 1' in text
  assert 'parameters: 4 ' in text
  assert 'mesh data=8' in text
  assert not result.finished
  assert not (tmp_path / 'none').exists()


@pytest.mark.parametrize('dry_run', [False, True])
def test_what_no_device_can_hold_is_refused(regression, tmp_path, dry_run):
  experiment = dataclasses.replace(regression(), population_bytes=2**60)
  with pytest.raises(MemoryError, match=r'need 131,072 TiB on each device'):
    loop.run(
      experiment,
      config(5),
      workdir=tmp_path / 'none',
      seed=0,
      context=context.RunContext(dry_run=dry_run),
    )
  assert not (tmp_path / 'none').exists()


def test_profile_is_written(regression, tmp_path):
  launched = context.RunContext(profile_steps=2)
  loop.run(regression(), config(10), workdir=tmp_path, seed=0, context=launched)
  assert list((tmp_path / 'profile').rglob('*.xplane.pb'))


def test_finished_run_is_not_trained_again(unbroken, regression, tmp_path):
  loop.run(regression(), config(8), workdir=tmp_path, seed=0)
  before = (tmp_path / writers.METRICS_FILE).read_bytes()
  result = loop.run(regression(), config(8), workdir=tmp_path, seed=0)
  assert result.finished
  assert result.step == 8
  assert (tmp_path / writers.METRICS_FILE).read_bytes() == before


def test_step_is_traced_once(regression, tmp_path):
  experiment, traces = regression(), []
  inner = experiment.step

  def counted(state, batch):
    traces.append(1)
    return inner(state, batch)

  object.__setattr__(experiment, 'step', counted)
  loop.run(experiment, config(12), workdir=tmp_path, seed=0)
  assert len(traces) == 1


@pytest.mark.parametrize(
  ('given', 'message'),
  [
    ({'log_every': 0}, 'log_every'),
    ({'eval_every': durations.Duration(steps=0)}, 'eval_every'),
    ({'checkpoint_every': durations.Duration(steps=0)}, 'checkpoint_every'),
  ],
)
def test_interval_below_a_step_is_refused(given, message, regression, tmp_path):
  with pytest.raises(ValueError, match=message):
    loop.run(regression(), config(5, **given), workdir=tmp_path, seed=0)


def test_manifest_names_versions_and_devices(unbroken):
  manifest = json.loads((unbroken[0] / 'manifest.json').read_text())
  assert manifest['packages']['jax'] == jax.__version__
  assert len(manifest['devices']) == 8
  assert pathlib.Path(unbroken[0] / 'config_as_given.gin').exists()


def test_a_stop_before_the_first_checkpoint_binds_nobody(regression, tmp_path):
  """Provenance without a checkpoint is no run that could be continued."""
  crashing = regression()
  crashing.batches.poison = 1
  with pytest.raises(FloatingPointError):
    loop.run(
      crashing,
      config(6, log_every=1, checkpoint_every=None),
      workdir=tmp_path,
      seed=0,
      context=context.RunContext(operative_config=lambda: 'a = 1\n'),
    )
  assert 'a = 1' in (tmp_path / 'config.gin').read_text()
  result = loop.run(
    regression(),
    config(6),
    workdir=tmp_path,
    seed=0,
    context=context.RunContext(operative_config=lambda: 'a = 2\n'),
  )
  assert result.finished
  assert 'a = 2' in (tmp_path / 'config.gin').read_text()


@pytest.mark.parametrize(
  ('change', 'error', 'message'),
  [
    ({'width': 6}, checkpoints.MisfitError, r'params\.w: \(4,\) there, \(6,\)'),
    ({}, ValueError, '20 steps, more than the 12 that are asked for'),
  ],
)
def test_a_refused_continuation_changes_nothing(
  change, error, message, unbroken, regression, tmp_path
):
  workdir = tmp_path / 'run'
  loop.run(regression(), config(20), workdir=workdir, seed=0)
  before = {p: p.read_bytes() for p in workdir.rglob('*') if p.is_file()}
  changed = context.RunContext(
    operative_config=lambda: 'WIDTH = 6\n', allow_config_change=True
  )
  with pytest.raises(error, match=message):
    loop.run(
      regression(**change),
      config(12 if not change else 30),
      workdir=workdir,
      seed=0,
      context=changed,
    )
  skip = {workdir / name for name in ('.lock', 'status.json')}
  after = {p: p.read_bytes() for p in workdir.rglob('*') if p.is_file()}
  assert before.keys() - skip == after.keys() - skip
  assert all(before[p] == after[p] for p in before.keys() - skip)


def test_a_metric_that_no_evaluation_gives_is_refused(regression, tmp_path):
  def run(metric):
    best = checkpoints.CheckpointConfig(best_metric=metric)
    started = config(10, checkpoints=best)
    loop.run(regression(), started, workdir=tmp_path / 'new', seed=0)

  with pytest.raises(ValueError, match=r"one of \['eval/sum/\.\.\.'\], got"):
    run('eval/sums/w')
  # A start that is refused leaves no folder.
  assert not any(tmp_path.iterdir())
  with pytest.raises(ValueError, match=r"'eval/sum/w'.*got 'eval/sum/v'"):
    run('eval/sum/v')


def test_a_failing_evaluation_costs_no_steps(regression, tmp_path, unbroken):
  def fail(state):
    raise OSError('the simulator died')

  broken = dataclasses.replace(regression(), evaluators={'sum': fail})
  with pytest.raises(OSError, match='simulator died'):
    loop.run(
      broken, config(23, checkpoint_every=None), workdir=tmp_path, seed=0
    )
  assert (tmp_path / 'checkpoints' / '10').is_dir()
  result = loop.run(regression(), config(23), workdir=tmp_path, seed=0)
  trees.check_same(result.state, unbroken[1].state)
  assert experiments.rows(tmp_path) == experiments.rows(unbroken[0])


def test_a_repeated_evaluation_ranks_its_checkpoint(regression, tmp_path):
  best = checkpoints.CheckpointConfig(
    keep=2, best_metric='eval/sum/w', best_mode='max'
  )
  interrupted = regression()
  evaluate = interrupted.evaluators['sum']

  def stopped(state):
    os.kill(os.getpid(), signal.SIGTERM)
    return evaluate(state)

  options = {'checkpoints': best, 'eval_every': durations.Duration(steps=5)}
  first = dataclasses.replace(interrupted, evaluators={'sum': stopped})
  result = loop.run(first, config(5, **options), workdir=tmp_path, seed=0)
  assert result.step == 5
  assert not result.finished
  loop.run(regression(), config(5, **options), workdir=tmp_path, seed=0)
  saved = checkpoints.Checkpoints(tmp_path, best)
  assert saved.best_step() == 5
  saved.close()


def test_status_tells_how_a_run_is_doing(unbroken):
  status = workdirs.read_status(unbroken[0])
  assert status['state'] == 'finished'
  assert (status['step'], status['total_steps']) == (23, 23)
  assert status['last_checkpoint'] == 23
  assert status['pid'] == os.getpid()


def test_a_checkpoint_counts_when_it_is_written(unbroken, tmp_path):
  """Orbax renames a folder when all of it is there."""
  saved = checkpoints.Checkpoints(tmp_path, checkpoints.CheckpointConfig())
  saved.save(7, unbroken[1].state, {'step': 7}, None)
  assert saved.steps() == [7]
  while not (found := saved.written()):
    pass
  assert found == [7]
  assert (tmp_path / 'checkpoints' / '7').is_dir()
  saved.close()


def test_a_checkpoint_that_cannot_be_written_is_one_message(
  regression, tmp_path, monkeypatch
):
  def full(*args, **kwargs):
    raise ValueError('RESOURCE_EXHAUSTED: No space left\n' + 'at x\n' * 500)

  experiment = regression()
  loop.run(experiment, config(5), workdir=tmp_path, seed=0)
  monkeypatch.setattr(ocp.CheckpointManager, 'save', full)
  with pytest.raises(checkpoints.CheckpointError) as caught:
    loop.run(regression(), config(20), workdir=tmp_path, seed=0)
  text = str(caught.value)
  assert 'step 10 cannot be written' in text
  assert 'No space left' in text
  assert 'step 5 is the last that is safe' in text
  assert len(text.splitlines()) == 1


def test_metrics_that_cannot_be_written_are_one_message(regression, tmp_path):
  settings = config(60, log_every=1, eval_every=None, checkpoint_every=None)
  limits = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
  try:
    with pytest.raises(workdirs.UnwritableError, match='File too large; the'):
      loop.run(regression(), settings, workdir=tmp_path, seed=0)
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
  assert workdirs.read_status(tmp_path)['state'] == 'failed'
  assert writers.read_metrics(tmp_path)[-1]['step'] < 60


@pytest.mark.parametrize(
  ('text', 'kind'),
  [
    ('RESOURCE_EXHAUSTED: no room for 8 TB\nat x', memory.OutOfMemoryError),
    ('INTERNAL: a bug\nat x', jax.errors.JaxRuntimeError),
  ],
)
def test_too_little_memory_is_one_message(regression, tmp_path, text, kind):
  def evaluate(state):
    raise jax.errors.JaxRuntimeError(text)

  experiment = dataclasses.replace(regression(), evaluators={'x': evaluate})
  with pytest.raises(kind) as caught:
    loop.run(experiment, config(8), workdir=tmp_path, seed=0)
  told = str(caught.value)
  assert ('\n' in told) == (kind is not memory.OutOfMemoryError)
  assert text.partition('\n')[0] in told


def test_a_new_run_may_start_from_parameters_of_another(
  unbroken, regression, tmp_path, caplog
):
  workdir, result = unbroken
  start = context.RunContext(init_from=str(workdir))
  options = {'workdir': tmp_path / 'new', 'seed': 0, 'context': start}
  fresh = loop.run(regression(), config(0), **options).state
  np.testing.assert_array_equal(fresh.params['w'], result.state.params['w'])
  assert int(fresh.step) == 0
  assert not np.asarray(fresh.opt_state[0].mu['w']).any()
  # What is there already goes before.
  first = loop.run(regression(), config(3), **options).state
  again = loop.run(regression(), config(3), **options).state
  trees.check_same(first, again)


def test_a_new_run_starts_from_a_checkpoint_that_can_be_read(
  unbroken, tmp_path, caplog
):
  old = tmp_path / 'old'
  shutil.copytree(unbroken[0], old)
  (old / 'checkpoints' / '23' / 'state' / '_METADATA').write_text('')
  with caplog.at_level('WARNING', logger='absl'):
    assert checkpoints.newest_arrays(old)[0] == 20
  assert 'checkpoint 23 in' in caplog.text
  (old / 'checkpoints' / '20' / 'state' / '_METADATA').write_text('')
  with pytest.raises(checkpoints.CheckpointError, match='no checkpoint in'):
    checkpoints.newest_arrays(old)


def test_parameters_that_do_not_fit_the_new_run_are_listed(
  unbroken, regression, tmp_path
):
  start = context.RunContext(init_from=str(unbroken[0]))
  with pytest.raises(ValueError, match=r'params\.w: \(4,\) there, \(6,\) here'):
    loop.run(
      regression(width=6),
      config(2),
      workdir=tmp_path / 'new',
      seed=0,
      context=start,
    )
  with pytest.raises(ValueError, match='has no checkpoint'):
    loop.run(
      regression(),
      config(2),
      workdir=tmp_path / 'new',
      seed=0,
      context=context.RunContext(init_from=str(tmp_path)),
    )
