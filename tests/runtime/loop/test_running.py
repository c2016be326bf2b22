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
from tests import experiments, marks, trees


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


@pytest.fixture
def run(regression, tmp_path):
  """Trains up to a step: a new experiment in `tmp_path`, if no other is given."""

  def call(
    steps,
    experiment=None,
    *,
    workdir=tmp_path,
    seed=0,
    launched=context.RunContext(),
    **options,
  ):
    return loop.run(
      experiment or regression(),
      config(steps, **options),
      workdir=workdir,
      seed=seed,
      context=launched,
    )

  return call


@pytest.fixture
def check_continues(run, unbroken, tmp_path):
  """The same command ends the run in `tmp_path` as if nothing had happened."""

  def check(**options):
    result = run(23, **options)
    assert result.finished
    trees.check_same(result.state, unbroken[1].state)
    assert experiments.rows(tmp_path) == experiments.rows(unbroken[0])

  return check


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
  step, regression, run, check_continues
):
  stopped = run(23, stop_at(regression(), step))
  assert not stopped.finished
  assert stopped.step == step + 1
  check_continues()


@pytest.mark.parametrize('at', [10, 23])
def test_sigterm_breaks_off_an_evaluation_that_is_made_up_for(
  at, regression, run, check_continues, capsys
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
  stopped = run(23, experiment)
  assert not stopped.finished
  assert stopped.step == at
  assert f'SIGTERM: saved step {at} of 23' in capsys.readouterr().err
  check_continues()


def test_crash_between_checkpoints_is_bit_exact(
  regression, run, check_continues, tmp_path
):
  class CrashError(RuntimeError):
    pass

  def crash(at):
    if at == 18:
      raise CrashError

  with pytest.raises(CrashError):
    run(23, before_batches(regression(), crash))
  # Past the checkpoint of step 15.
  assert experiments.rows(tmp_path)[-1]['step'] == 16
  check_continues()


@pytest.mark.parametrize('step', [7, *marks.slow(8, 9)])
def test_refresh_keeps_its_schedule_over_a_stop(
  step, regression, run, tmp_path
):
  def refreshed():
    return dataclasses.replace(
      regression(),
      refresh_every=4,
      refresh=lambda s: s.replace(params={'w': s.params['w'] * 0.5 + s.step}),
    )

  whole = run(13, refreshed(), workdir=tmp_path / 'a')
  run(13, stop_at(refreshed(), step))
  resumed = run(13, refreshed())
  trees.check_same(whole.state, resumed.state)
  never = run(13, workdir=tmp_path / 'b')
  assert differ(whole.state, never.state)


def test_iterator_that_forgets_its_position_is_caught(
  unbroken, regression, run
):
  # The power of the tests above: they fail if the position is not restored.
  run(23, stop_at(regression(), 11))
  again = regression()
  again.batches.set_state = lambda state: None
  assert differ(run(23, again).state, unbroken[1].state)


@pytest.mark.parametrize(
  'part', ['loop/metadata', 'state/manifest.ocdbt', 'metrics/metrics']
)
def test_damaged_newest_checkpoint_falls_back(
  part, regression, run, check_continues, tmp_path, caplog
):
  kept = checkpoints.CheckpointConfig(keep=2, best_metric='eval/sum/w')
  run(23, stop_at(regression(), 16), checkpoints=kept)
  file = tmp_path / 'checkpoints' / '17' / part
  file.write_bytes(file.read_bytes()[:4])
  with caplog.at_level('WARNING', logger='absl'):
    check_continues(checkpoints=kept)
  assert 'checkpoint 17' in caplog.text
  assert (tmp_path / 'checkpoints_damaged' / '17').is_dir()


@pytest.mark.parametrize('name', ['a*?', '#{}:|', "';%20 ü"])
def test_odd_paths_keep_their_checkpoints(name, run, tmp_path):
  run(5, workdir=tmp_path / name)
  assert run(5, workdir=tmp_path / name).step == 5


def test_no_readable_checkpoint_is_an_error(run, tmp_path):
  run(5)
  for file in (tmp_path / 'checkpoints').glob('*/loop/metadata'):
    file.write_text('{')
  with pytest.raises(
    checkpoints.CheckpointError, match=r'no checkpoint in .* newest, 5, says: '
  ):
    run(9)


def test_non_finite_loss_names_the_step_and_keeps_the_last_good(
  regression, run, tmp_path
):
  with pytest.raises(metrics.NonFiniteError, match=r'step 14 .*loss'):
    run(23, regression(poison=14))
  kept = checkpoints.Checkpoints(tmp_path, checkpoints.CheckpointConfig())
  assert kept.steps() == [5, 10]
  kept.close()
  assert workdirs.read_status(tmp_path)['state'] == 'failed'


def launched(text, **options):
  """As the launcher starts a run of this configuration."""
  return context.RunContext(operative_config=lambda: text, **options)


def test_changed_config_is_refused_with_the_difference(run, tmp_path):
  run(5, launched=launched('a.rate = 1\n'))
  changed = launched('a.rate = 2\n')
  with pytest.raises(ValueError, match=r'(?s)-a\.rate = 1.*\+a\.rate = 2'):
    run(5, launched=changed)
  run(5, launched=launched('a.rate = 2\n', allow_config_change=True))
  assert 'a.rate = 2' in (tmp_path / 'config.gin').read_text()
  with pytest.raises(ValueError, match='seed = 1'):
    run(5, seed=1)
  (tmp_path / 'config.gin').unlink()
  with pytest.raises(ValueError, match=r'config\.gin is missing'):
    run(5, launched=changed)


@pytest.mark.parametrize(('mode', 'best'), [('min', 8), ('max', 12)])
def test_checkpoints_without_evaluation_rank_last_and_warn_of_nothing(
  mode, best, regression, run, tmp_path, caplog
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
    run(18, experiment, checkpoints=kept, **intervals)
  assert 'did not provide metrics' not in caplog.text
  manager = checkpoints.Checkpoints(tmp_path, kept)
  assert manager.steps() == [best, 16, 18]
  assert manager.best_step() == best
  manager.close()


def test_an_evaluation_may_lack_a_score_that_its_evaluator_declares(
  regression, run
):
  experiment = dataclasses.replace(
    regression(),
    evaluators={'test': lambda state: {}},
    scores={'test': ('score',)},
  )
  kept = checkpoints.CheckpointConfig(best_metric='eval/test/score')
  assert run(4, experiment, checkpoints=kept).finished
  with pytest.raises(errors.ConfigError, match=r"\['eval/test/score'\], got"):
    experiment.check_metric('eval/test/scores')


def test_hooks_of_the_launcher_are_called_in_time(regression, run):
  calls = []
  experiment = before_batches(regression(), lambda at: calls.append('batch'))
  hooks = context.RunContext(
    check_config=lambda: calls.append('check'),
    on_start=lambda: calls.append('start'),
  )
  run(1, experiment, launched=hooks)
  assert calls[:3] == ['check', 'start', 'batch']


def test_dry_run_describes_and_trains_nothing(run, tmp_path, capsys):
  dry = launched('a.rate = 1', dry_run=True)
  result = run(5, workdir=tmp_path / 'none', launched=dry)
  text = capsys.readouterr().out
  assert 'a.rate = 1' in text
  assert 'parameters: 4 ' in text
  assert 'mesh data=8' in text
  assert not result.finished
  assert not (tmp_path / 'none').exists()


@pytest.mark.parametrize('dry_run', [False, True])
def test_what_no_device_can_hold_is_refused(regression, run, tmp_path, dry_run):
  experiment = dataclasses.replace(regression(), population_bytes=2**60)
  options = {'launched': context.RunContext(dry_run=dry_run)}
  with pytest.raises(MemoryError, match=r'need 131,072 TiB on each device'):
    run(5, experiment, workdir=tmp_path / 'none', **options)
  assert not (tmp_path / 'none').exists()


def test_profile_is_written(run, tmp_path):
  run(10, launched=context.RunContext(profile_steps=2))
  assert list((tmp_path / 'profile').rglob('*.xplane.pb'))


def test_finished_run_is_not_trained_again(run, tmp_path):
  run(8)
  before = (tmp_path / writers.METRICS_FILE).read_bytes()
  result = run(8)
  assert result.finished
  assert result.step == 8
  assert (tmp_path / writers.METRICS_FILE).read_bytes() == before


def test_step_is_traced_once(regression, run):
  experiment, traces = regression(), []
  inner = experiment.step

  def counted(state, batch):
    traces.append(1)
    return inner(state, batch)

  object.__setattr__(experiment, 'step', counted)
  run(12, experiment)
  assert len(traces) == 1


@pytest.mark.parametrize(
  'name', ['log_every', 'eval_every', 'checkpoint_every']
)
def test_interval_below_a_step_is_refused(name, run):
  none = 0 if name == 'log_every' else durations.Duration(steps=0)
  with pytest.raises(ValueError, match=name):
    run(5, **{name: none})


def test_manifest_names_versions_and_devices(unbroken):
  manifest = json.loads((unbroken[0] / 'manifest.json').read_text())
  assert manifest['packages']['jax'] == jax.__version__
  assert len(manifest['devices']) == 8
  assert pathlib.Path(unbroken[0] / 'config_as_given.gin').exists()


def test_a_stop_before_the_first_checkpoint_binds_nobody(
  regression, run, tmp_path
):
  """Provenance without a checkpoint is no run that could be continued."""
  crashing = regression()
  crashing.batches.poison = 1
  options = {'log_every': 1, 'checkpoint_every': None}
  with pytest.raises(FloatingPointError):
    run(6, crashing, launched=launched('a = 1\n'), **options)
  assert 'a = 1' in (tmp_path / 'config.gin').read_text()
  assert run(6, launched=launched('a = 2\n')).finished
  assert 'a = 2' in (tmp_path / 'config.gin').read_text()


@pytest.mark.parametrize(
  ('change', 'error', 'message'),
  [
    ({'width': 6}, checkpoints.MisfitError, r'params\.w: \(4,\) there, \(6,\)'),
    ({}, ValueError, '20 steps, more than the 12 that are asked for'),
  ],
)
def test_a_refused_continuation_changes_nothing(
  change, error, message, regression, run, tmp_path
):
  contents = lambda: {
    p: p.read_bytes() for p in tmp_path.rglob('*') if p.is_file()
  }
  run(20)
  before = contents()
  changed = launched('WIDTH = 6\n', allow_config_change=True)
  with pytest.raises(error, match=message):
    run(30 if change else 12, regression(**change), launched=changed)
  skip = {tmp_path / name for name in ('.lock', 'status.json')}
  after = contents()
  assert before.keys() - skip == after.keys() - skip
  assert all(before[p] == after[p] for p in before.keys() - skip)


def test_a_metric_that_no_evaluation_gives_is_refused(run, tmp_path):
  def ranked(metric):
    best = checkpoints.CheckpointConfig(best_metric=metric)
    run(10, workdir=tmp_path / 'new', checkpoints=best)

  with pytest.raises(ValueError, match=r"one of \['eval/sum/\.\.\.'\], got"):
    ranked('eval/sums/w')
  # A start that is refused leaves no folder.
  assert not any(tmp_path.iterdir())
  with pytest.raises(ValueError, match=r"'eval/sum/w'.*got 'eval/sum/v'"):
    ranked('eval/sum/v')


def test_a_failing_evaluation_costs_no_steps(
  regression, run, check_continues, tmp_path
):
  def fail(state):
    raise OSError('the simulator died')

  broken = dataclasses.replace(regression(), evaluators={'sum': fail})
  with pytest.raises(OSError, match='simulator died'):
    run(23, broken, checkpoint_every=None)
  assert (tmp_path / 'checkpoints' / '10').is_dir()
  check_continues()


def test_a_repeated_evaluation_ranks_its_checkpoint(regression, run, tmp_path):
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
  result = run(5, first, **options)
  assert result.step == 5
  assert not result.finished
  run(5, **options)
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


def test_a_checkpoint_that_cannot_be_written_is_one_message(run, monkeypatch):
  def full(*args, **kwargs):
    raise ValueError('RESOURCE_EXHAUSTED: No space left\n' + 'at x\n' * 500)

  run(5)
  monkeypatch.setattr(ocp.CheckpointManager, 'save', full)
  with pytest.raises(checkpoints.CheckpointError) as caught:
    run(20)
  text = str(caught.value)
  assert 'step 10 cannot be written' in text
  assert 'No space left' in text
  assert 'step 5 is the last that is safe' in text
  assert len(text.splitlines()) == 1


def test_metrics_that_cannot_be_written_are_one_message(run, tmp_path):
  never = {'eval_every': None, 'checkpoint_every': None}
  limits = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
  try:
    with pytest.raises(workdirs.UnwritableError, match='File too large; the'):
      run(60, log_every=1, **never)
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
def test_too_little_memory_is_one_message(regression, run, text, kind):
  def evaluate(state):
    raise jax.errors.JaxRuntimeError(text)

  experiment = dataclasses.replace(regression(), evaluators={'x': evaluate})
  with pytest.raises(kind) as caught:
    run(8, experiment)
  told = str(caught.value)
  assert ('\n' in told) == (kind is not memory.OutOfMemoryError)
  assert text.partition('\n')[0] in told


def test_a_new_run_may_start_from_parameters_of_another(unbroken, run):
  workdir, result = unbroken
  start = context.RunContext(init_from=str(workdir))
  fresh = run(0, launched=start).state
  np.testing.assert_array_equal(fresh.params['w'], result.state.params['w'])
  assert int(fresh.step) == 0
  assert not np.asarray(fresh.opt_state[0].mu['w']).any()
  # What is there already goes before.
  first = run(3, launched=start).state
  trees.check_same(first, run(3, launched=start).state)


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
  unbroken, regression, run, tmp_path
):
  new = tmp_path / 'new'
  start = context.RunContext(init_from=str(unbroken[0]))
  with pytest.raises(ValueError, match=r'params\.w: \(4,\) there, \(6,\) here'):
    run(2, regression(width=6), workdir=new, launched=start)
  nowhere = context.RunContext(init_from=str(tmp_path))
  with pytest.raises(ValueError, match='has no checkpoint'):
    run(2, workdir=new, launched=nowhere)
