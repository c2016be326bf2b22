"""Training over eight devices gives what training on one device gives."""

import functools
import shutil

import jax
import optax
import pytest

from performer import attention, training
from performer.data import proteins
from runtime import loop
from runtime.devices import mesh as mesh_lib
from runtime.loop import durations
from tests import experiments, seeds
from tests.performer import run_cases
from tests.performer.data import data_cases
from tests.performer.models import model_cases

LENGTH = 16
STEPS = 5
FAVOR = attention.Favor(features=8, redraw_every=2)
QUICK = attention.Favor(kernel='elu1', features=8, redraw_every=2)
MESHES = {
  'data4_fsdp2': mesh_lib.MeshConfig(data=4, fsdp=2),
  'data2_fsdp2_tensor2': mesh_lib.MeshConfig(data=2, fsdp=2, tensor=2),
  'data4_tensor2': mesh_lib.MeshConfig(data=4, tensor=2),
  'data2_sequence4': mesh_lib.MeshConfig(data=2, sequence=4),
}
# Every mesh, both tasks, both mechanisms, few programs to compile.
CASES = {
  'data4_fsdp2': ('causal', attention.Exact()),
  'data2_fsdp2_tensor2': ('mlm', QUICK),  # It compiles fastest.
  'data4_tensor2': ('mlm', FAVOR),
  'data2_sequence4': ('causal', FAVOR),
}


@pytest.fixture(scope='module')
def files(tmp_path_factory):
  folder = tmp_path_factory.mktemp('fasta')
  sizes = {'train': 30 * [14], 'valid': 11 * [14]}
  paths = data_cases.random_proteins(folder, seeds.rng(3), sizes)
  return paths, str(folder / 'cache')


def build(files, task, mechanism, mesh=None):
  """The experiment on a mesh of all devices, or on one device."""
  paths, cache = files
  model = model_cases.small(mechanism, causal=task == 'causal', dropout=0.1)
  data = proteins.Proteins(
    task=task, max_length=LENGTH, files=paths, cache_dir=cache, num_threads=0
  )
  trainer = training.LanguageModelTrainer(
    model, data, optax.adam(1e-2), batch_size=8, eval_splits=()
  )
  return experiments.of(
    trainer,
    seed=4,
    mesh=mesh or mesh_lib.MeshConfig(),
    devices=jax.devices() if mesh else jax.devices()[:1],
  )


def train(experiment, workdir, steps=STEPS):
  """Trains to `steps`, tracing once; returns the last state."""
  traces = []
  inner = experiment.step

  def counted(state, batch):
    traces.append(1)
    return inner(state, batch)

  object.__setattr__(experiment, 'step', counted)
  config = loop.LoopConfig(durations.Duration(steps=steps), log_every=1)
  result = loop.run(experiment, config, workdir=workdir, seed=4)
  assert len(traces) == 1
  return result.state


@pytest.fixture(scope='module')
def one_device(files, tmp_path_factory):
  """(task, mechanism) -> workdir of training on one device."""

  @functools.cache
  def run(task, mechanism):
    workdir = tmp_path_factory.mktemp('one')
    train(build(files, task, mechanism), workdir)
    return workdir

  return run


@pytest.fixture(scope='module')
def eight_devices(files, tmp_path_factory):
  """Name of a case -> (workdir, last state) of training on its mesh."""

  @functools.cache
  def run(name):
    workdir = tmp_path_factory.mktemp(name)
    state = train(build(files, *CASES[name], MESHES[name]), workdir)
    return workdir, state

  return run


@pytest.mark.slow
@pytest.mark.parametrize('name', CASES)
def test_eight_devices_give_the_losses_of_one(name, one_device, eight_devices):
  expected = experiments.rows(one_device(*CASES[name]))
  assert len(expected) == STEPS
  run_cases.check_close_rows(experiments.rows(eight_devices(name)[0]), expected)


@pytest.mark.slow
def test_tolerance_tells_one_step_from_the_next(one_device):
  workdir = one_device(*CASES['data2_fsdp2_tensor2'])
  first, second = experiments.rows(workdir)[:2]
  with pytest.raises(AssertionError, match='Not equal to tolerance'):
    run_cases.check_close_rows([first | {'step': 2}], [second])


@pytest.mark.slow
def test_checkpoint_continues_on_another_mesh(
  files, one_device, eight_devices, tmp_path
):
  case = CASES['data2_fsdp2_tensor2']
  stayed = shutil.copytree(one_device(*case), tmp_path / 'stayed')
  train(build(files, *case), stayed, STEPS + 2)
  moved = eight_devices('data2_fsdp2_tensor2')[0]
  moved = shutil.copytree(moved, tmp_path / 'moved')
  state = train(build(files, *case, MESHES['data4_tensor2']), moved, STEPS + 2)
  run_cases.check_close_rows(experiments.rows(moved), experiments.rows(stayed))
  assert experiments.rows(moved)[-1]['step'] == STEPS + 2
  kernel = leaf(state.params, ('blocks', 'mlp_in', 'kernel'))
  assert kernel.addressable_shards[0].data.shape == (2, 16, 16)


def leaf(tree, path):
  for name in path:
    tree = tree[name]
  return tree


# Axes: layers, then 'embed' over fsdp, 'heads' and 'mlp' over tensor.
SHARDS = {
  'data4_fsdp2': {
    ('attention', 'query', 'kernel'): (2, 8, 2, 8),
    ('mlp_in', 'kernel'): (2, 8, 32),
    ('mlp_in', 'bias'): (2, 32),
    ('mlp_out', 'bias'): (2, 8),
  },
  'data2_fsdp2_tensor2': {
    ('attention', 'query', 'kernel'): (2, 8, 1, 8),
    ('mlp_in', 'kernel'): (2, 8, 16),
    ('mlp_in', 'bias'): (2, 16),
    ('mlp_out', 'bias'): (2, 8),
  },
  'data4_tensor2': {
    ('attention', 'query', 'kernel'): (2, 16, 1, 8),
    ('mlp_in', 'kernel'): (2, 16, 16),
    ('mlp_in', 'bias'): (2, 16),
    ('mlp_out', 'bias'): (2, 16),
  },
  'data2_sequence4': {('mlp_in', 'kernel'): (2, 16, 32)},
}


def test_parameters_and_moments_begin_in_shards(files):
  name = 'data2_fsdp2_tensor2'
  experiment = build(files, *CASES[name], MESHES[name])
  init = jax.jit(experiment.init, out_shardings=experiment.shardings)
  check_shards(name, init())


@pytest.mark.slow
@pytest.mark.parametrize('name', CASES)
def test_parameters_and_moments_stay_in_shards(name, eight_devices):
  check_shards(name, eight_devices(name)[1])


def check_shards(name, state):
  moments = state.opt_state[0].mu
  for path, shape in SHARDS[name].items():
    for tree in (state.params, moments):
      array = leaf(tree['blocks'], path)
      assert {s.data.shape for s in array.addressable_shards} == {shape}, path
      assert len(array.sharding.device_set) == 8
  share = sum(
    x.addressable_shards[0].data.nbytes for x in jax.tree.leaves(state.params)
  )
  total = sum(x.nbytes for x in jax.tree.leaves(state.params))
  parts = MESHES[name].fsdp * MESHES[name].tensor
  # Outside are only the few that no axis splits, such as the output's bias.
  assert total / parts <= share < 1.3 * total / parts
