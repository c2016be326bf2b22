"""Runs of real processes: killed, stopped, damaged, split over two, refused.

Each must end with the numbers of a run that nothing happened to.
"""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from performer import train_lib
from runtime import context
from runtime.config import files as files_lib
from runtime.config import sessions
from tests import experiments, seeds
from tests.performer import run_cases
from tests.performer.data import data_cases

STEPS = 120
STEPS_OF_TWO = 48  # They meet in every step and save, which takes time.
EIGHT_DEVICES = '--xla_force_host_platform_device_count=8'
CONFIG = f"""
from __gin__ import dynamic_registration
from performer import attention
from performer.data import proteins
from runtime import optimizers

include 'configs/performer/proteins.gin'

TASK = 'mlm'
CAUSAL = False
NUM_HEADS = 2
NUM_LAYERS = 1
D_FF = 32
D_MODEL = 16
MAX_LENGTH = 32
DROPOUT = 0.2
BATCH_SIZE = 4
STEPS = {STEPS}
LOG_EVERY = 3
EVAL_EVERY = 40
CHECKPOINT_EVERY = 8

attention.Favor.features = 8
attention.Favor.redraw_every = 7
optimizers.adamw.warmup_steps = 10
optimizers.adamw.decay_steps = 120
proteins.Proteins:
  files = {{'train': '{{folder}}/train.fasta', 'valid': '{{folder}}/valid.fasta'}}
  cache_dir = '{{folder}}/cache'
"""


class Site:
  """A folder with data, a configuration and the processes started in it."""

  def __init__(self, folder):
    rng = seeds.rng(20)
    sizes = {
      split: (rng.integers(5, 60) for _ in range(count))
      for split, count in (('train', 41), ('valid', 9))
    }
    data_cases.random_proteins(folder, rng, sizes)
    self.folder = folder
    self.gin = folder / 'tiny.gin'
    self.gin.write_text(CONFIG.replace('{folder}', str(folder)))
    self.started = []

  def start(self, workdir, *args, before=()):
    """Starts the trainer on one device of its own; stderr goes to a file.

    `before` are words of a command that gets that of the trainer, and chooses
    the workdir if it is None.
    """
    # Most of the time would go to optimising code that runs for a second.
    flags = os.environ['XLA_FLAGS'].replace(EIGHT_DEVICES, '')
    environment = dict(os.environ, XLA_FLAGS=flags, JAX_PLATFORMS='cpu')
    log = self.folder / f'log_{len(self.started)}'
    command = [*before, sys.executable, '-m', 'performer.train']
    command += [f'--gin_file={self.gin}', *args]
    command += [] if workdir is None else [f'--workdir={workdir}']
    with open(log, 'w') as stderr:
      process = subprocess.Popen(
        command,
        cwd=files_lib.PROJECT_ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=stderr,
        text=True,
      )
    process.log = log
    self.started.append(process)
    return process

  def finish(self, process):
    """Waits; returns (exit code, stdout, stderr)."""
    out, _ = process.communicate(timeout=240)
    return process.returncode, out, process.log.read_text()

  def complete(self, workdir, *args):
    """Runs the trainer to the end; returns stderr."""
    [(_, err)] = self.complete_all([self.start(workdir, *args)])
    return err

  def complete_all(self, processes):
    """Waits for all; returns (stdout, stderr) of each."""
    ends = [self.finish(process) for process in processes]
    assert not any(code for code, _, _ in ends), ends
    return [(out, err) for _, out, err in ends]

  def close(self):
    for process in self.started:
      with contextlib.suppress(ProcessLookupError):
        process.kill()
      process.communicate()


@pytest.fixture(scope='module')
def site(tmp_path_factory):
  made = Site(tmp_path_factory.mktemp('site'))
  yield made
  made.close()


@pytest.fixture(scope='module')
def reference(site):
  """The workdir of a run that nothing happened to."""
  workdir = site.folder / 'reference'
  site.complete(workdir)
  return workdir


@pytest.fixture(scope='module')
def stopped(site):
  """(workdir, stderr) of a run that SIGTERM stopped at a random moment."""
  workdir = site.folder / 'stopped'
  process = site.start(workdir)
  wait_for(process, lambda: len(steps(workdir)) >= 2)
  time.sleep(seeds.rng(0).uniform(0, 0.5))
  process.send_signal(signal.SIGTERM)
  [(_, err)] = site.complete_all([process])
  return workdir, err


def wait_for(process, happened):
  """Waits until something happened in a running process."""
  limit = time.monotonic() + 120
  while not happened():
    assert process.poll() is None, process.log.read_text()
    assert time.monotonic() < limit, process.log.read_text()
    time.sleep(0.01)


def steps(workdir):
  """Steps of finished checkpoints, oldest first."""
  folder = workdir / 'checkpoints'
  names = os.listdir(folder) if folder.exists() else []
  return sorted(int(name) for name in names if name.isdigit())


def state(workdir, step=STEPS):
  """Name -> array of everything that a checkpoint holds of the state."""
  path = workdir / 'checkpoints' / str(step) / 'state'
  with ocp.StandardCheckpointer() as checkpointer:
    tree = checkpointer.restore(path)
  found = {}
  for name, leaf in jax.tree_util.tree_leaves_with_path(tree):
    if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
      leaf = jax.random.key_data(leaf)
    found[jax.tree_util.keystr(name)] = np.asarray(leaf)
  return found


def differing(a, b):
  """Names of the leaves that are not equal bit for bit."""
  assert a.keys() == b.keys()
  return [name for name in a if a[name].tobytes() != b[name].tobytes()]


def check_same_end(workdir, reference):
  assert not differing(state(workdir), state(reference))
  assert experiments.rows(workdir) == experiments.rows(reference)
  saved = f'checkpoints/{STEPS}/loop/metadata'
  one, two = (
    json.loads((w / saved).read_text())['batches'] for w in (workdir, reference)
  )
  assert one == two


@pytest.mark.slow
def test_comparison_sees_every_part_of_the_state(reference):
  before, after = steps(reference)[-2:]
  changed = differing(state(reference, before), state(reference, after))
  unchanged = state(reference).keys() - set(changed)
  # The random matrices were drawn anew; only the key of the run stays.
  assert [name for name in unchanged if 'key' not in name] == []
  assert any('projections' in name for name in changed)
  assert len(unchanged) == 1


@pytest.mark.slow
def test_sigkill_at_random_moments_is_bit_exact(site, reference):
  workdir = site.folder / 'killed'
  # Checkpoints come every 8 steps: somewhere in the first two thirds.
  for target in seeds.rng(0).integers(1, 40, 2).cumsum():
    process = site.start(workdir)
    wait_for(process, lambda t=target: steps(workdir)[-1:] >= [t])
    time.sleep(seeds.rng(0).uniform(0, 0.05))
    process.kill()
    code, _, err = site.finish(process)
    assert code == -signal.SIGKILL, f'too short to be killed: {target=} {err}'
  site.complete(workdir)
  check_same_end(workdir, reference)


@pytest.mark.slow
def test_a_kill_before_the_first_checkpoint_binds_nobody(site, reference):
  """Provenance is there, a checkpoint is not: any configuration may start."""
  workdir = site.folder / 'early'
  process = site.start(workdir, '--gin_param=D_MODEL = 24')
  wait_for(process, (workdir / 'manifest.json').exists)
  process.kill()
  site.finish(process)
  assert not steps(workdir)
  assert (workdir / 'config.gin').exists()
  site.complete(workdir)
  check_same_end(workdir, reference)


@pytest.mark.slow
def test_a_second_process_is_refused_and_disturbs_nothing(site, reference):
  workdir = site.folder / 'shared'
  first = site.start(workdir)
  wait_for(first, lambda: steps(workdir))
  began = time.monotonic()
  code, out, err = site.finish(site.start(workdir))
  assert code == 2, (out, err)
  assert f'in use by process {first.pid} on ' in err
  assert time.monotonic() - began < 60
  site.complete_all([first])
  check_same_end(workdir, reference)


@pytest.mark.slow
def test_sigterm_saves_and_the_same_command_is_bit_exact(
  site, stopped, reference, tmp_path
):
  workdir, err = stopped
  last = steps(workdir)[-1]
  assert f'SIGTERM: saved step {last} of {STEPS}' in err
  assert 'the same command continues the run' in err
  assert last < STEPS
  again = shutil.copytree(workdir, tmp_path / 'again')
  assert f'continuing after step {last} ' in site.complete(again)
  check_same_end(again, reference)


@pytest.mark.slow
def test_truncated_newest_checkpoint_is_survived(
  site, stopped, reference, tmp_path
):
  workdir = shutil.copytree(stopped[0], tmp_path / 'damaged')
  before, newest = steps(workdir)[-2:]
  # All files, as not every one of them is needed to read a small state.
  for path in (workdir / 'checkpoints' / str(newest)).rglob('*'):
    if path.is_file():
      os.truncate(path, path.stat().st_size // 2)
  err = site.complete(workdir)
  assert f'checkpoint {newest} in' in err
  assert 'cannot be read' in err
  assert f'continuing after step {before} ' in err
  assert (workdir / 'checkpoints_damaged' / str(newest)).is_dir()
  check_same_end(workdir, reference)


def free_port():
  with socket.socket() as probe:
    probe.bind(('localhost', 0))
    return probe.getsockname()[1]


def start_two(site, workdir, *args):
  hosts = [
    f'--coordinator_address=localhost:{free_port()}',
    '--num_processes=2',
    f'--gin_param=STEPS = {STEPS_OF_TWO}',
  ]
  return [
    site.start(workdir, *hosts, f'--process_id={index}', *args)
    for index in range(2)
  ]


def check_two_are_one(site, name, *args):
  """Trains in one process and in two; returns the rows and all stderr."""
  one, two = site.folder / f'{name}_one', site.folder / f'{name}_two'
  ends = site.complete_all([site.start(one, *args)])
  ends += site.complete_all(start_two(site, two, *args))
  rows = experiments.rows(two)
  run_cases.check_close_rows(rows, experiments.rows(one))
  return rows, [err for _, err in ends]


@pytest.mark.slow
def test_two_processes_train_stop_and_resume_as_one(site, reference):
  workdir = site.folder / 'two'
  both = start_two(site, workdir)
  wait_for(both[0], lambda: len(steps(workdir)) >= 2)
  # The hosts agree on a step, whichever of them was told to stop.
  both[1].send_signal(signal.SIGTERM)
  (_, err), _ = site.complete_all(both)
  last = steps(workdir)[-1]
  assert f'SIGTERM: saved step {last} of {STEPS_OF_TWO}' in err
  assert last < STEPS_OF_TWO
  ends = site.complete_all(start_two(site, workdir))
  # One writer: no row twice, one file of events, written anew, and one table.
  assert len(list(workdir.glob('events.*'))) == 1
  assert ['perpl.' in out for out, _ in ends] == [True, False]
  *ours, final = experiments.rows(workdir)
  assert final.keys() > {'eval/valid/loss'}
  theirs = [
    row for row in experiments.rows(reference) if row['step'] <= STEPS_OF_TWO
  ]
  run_cases.check_close_rows(ours, theirs)


@pytest.mark.slow
def test_two_processes_train_by_chunks_as_one(site):
  statements = (
    *("TASK = 'causal'", 'CAUSAL = True', "attention.Favor.kernel = 'relu'"),
    *("STRATEGY = 'checkpoint'", 'CHUNK = 8', 'STEPS = 12', 'DROPOUT = 0.0'),
  )
  ours, errors = check_two_are_one(
    site,
    'chunks',
    '--gin_file=configs/performer/slim.gin',
    *(f'--gin_param={statement}' for statement in statements),
  )
  assert len(ours) > 4
  assert 'gradients by chunks' in errors[1]


@pytest.mark.slow
def test_two_processes_start_from_the_parameters_of_another_run(
  site, reference
):
  extra = [f'--init_from={reference}', '--gin_param=STEPS = 12']
  ours, errors = check_two_are_one(site, 'tuned', *extra)
  for err in errors[:2]:  # The second process is silent.
    assert f'starts from the parameters of step {STEPS} of {reference}' in err
  fresh = experiments.rows(reference)
  # New parameters have another loss.
  assert abs(ours[0]['train/loss'] / fresh[0]['train/loss'] - 1) > 1e-2


# In a mount namespace of its own a process may mount without being root.
IN_NAMESPACE = ['unshare', '--user', '--map-root-user', '--mount']
FILL_AND_GO_ON = """
set -u
small=$1 end=$2
shift 2
mount -t tmpfs -o size=%dk tmpfs "$small"
"$@" --workdir="$small/run"
echo "exit code $?" >&2
ls "$small/run/checkpoints" > "$end/saved"
mount -o remount,size=200m "$small"
"$@" --workdir="$small/run"
code=$?
cp -r "$small/run" "$end"
exit $code
"""


@pytest.mark.slow
@pytest.mark.skipif(
  subprocess.run([*IN_NAMESPACE, 'true'], capture_output=True).returncode != 0,
  reason='mounting a small file system is not permitted here',
)
def test_a_full_disk_is_one_message_and_loses_nothing(site, reference):
  """The file system holds a few checkpoints, then no more; then it grows."""
  size = sum(p.stat().st_size for p in reference.rglob('*') if p.is_file())
  small, end = site.folder / 'small', site.folder / 'grown'
  small.mkdir()
  end.mkdir()
  script = FILL_AND_GO_ON % (size // 2 // 1024)
  process = site.start(
    None, before=[*IN_NAMESPACE, 'bash', '-c', script, 'bash', small, end]
  )
  [(_, err)] = site.complete_all([process])
  first, second = err.split('exit code 1\n')
  # TensorStore's threads print that they end; Orbax prints nothing.
  assert 'site-packages' not in first
  (told,) = [x for x in first.splitlines() if x.startswith('error: ')]
  assert 'No space left on device' in told
  last = max(map(int, filter(str.isdigit, (end / 'saved').read_text().split())))
  assert f'continuing after step {last} ' in second
  check_same_end(end / 'run', reference)


@pytest.mark.slow
def test_mistakes_get_one_message_and_exit_code_2(site, reference, tmp_path):
  broken = tmp_path / 'broken.fasta'
  broken.write_text('>a\nACDEF\n>b\nAC7EF\n')
  before = (reference / 'metrics.jsonl').read_bytes()
  files = f"proteins.Proteins.files = {{'train': '{broken}', 'valid': ''}}"
  changed = (
    'holds a run of another configuration',
    '-LEARNING_RATE = 0.001\n+LEARNING_RATE = 0.5',
    '--allow_config_change',
  )
  cases = (
    (reference, 'LEARNING_RATE = 0.5', changed),
    (tmp_path / 'fasta', files, (f'{broken}:4', "'7'")),
  )
  running = [
    site.start(workdir, f'--gin_param={statement}')
    for workdir, statement, _ in cases
  ]
  for process, (_, statement, told) in zip(running, cases, strict=True):
    code, _, err = site.finish(process)
    assert 'Traceback' not in err
    assert code == 2, f'{statement}: {err}'
    assert err.count('error: ') == 1
    assert [text for text in told if text not in err] == [], err
  assert not (tmp_path / 'fasta').exists()
  assert (reference / 'metrics.jsonl').read_bytes() == before


@pytest.mark.parametrize(
  ('params', 'message'),
  [
    (['BATCH_SIZE = 6'], r'batch_size=6 and data=8 x fsdp=1'),
    (['FSDP = 3'], r'fsdp=3.* for 8 devices'),
    (['NUM_HEADS = 3'], r'num_heads=3 .*=16'),
    (['TENSOR_PARALLEL = 8'], r'2 is not divisible by mesh axis tensor=8'),
    (
      ["attention.Favor.kernel = 'relu'", 'attention.Favor.projection = False'],
      r'features',
    ),
    (
      ["proteins.Proteins.long_sequences = 'error'"],
      r'train.fasta.*at most 32 residues, got (3[3-9]|[45]\d) ',
    ),
    (
      ["proteins.Proteins.files = {'train': '/no/such.fasta', 'valid': 'x'}"],
      r'/no/such\.fasta: no such file',
    ),
    (["CAUSAL = 'yes'"], r"'yes'"),
    (["attention.Favor.kernel = 'sofmax'"], r"'sofmax'.*'softmax_pos'"),
  ],
)
def test_mistakes_are_found_before_compilation(params, message, site):
  """On the eight devices of this process; what the launcher would print."""
  params = ['BATCH_SIZE = 8', *params]
  with (
    pytest.raises((ValueError, FileNotFoundError), match=message),
    sessions.session(train_lib.train, [site.gin], params) as parsed,
  ):
    parsed.build(
      workdir='unused', seed=0, context=context.RunContext(dry_run=True)
    )
