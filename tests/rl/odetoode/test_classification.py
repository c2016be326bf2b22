"""Classifiers in the training loop, and what they leave behind."""

import os
import pathlib
import signal
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rl import train_lib
from rl.odetoode import (
  bodies,
  certificates,
  class_results,
  classification,
  flows,
  heads,
  manifolds,
  retractions,
  trivialization,
)
from rl.odetoode.images import corrupted
from runtime import loop
from runtime.config import sessions
from runtime.data import images as images_lib
from runtime.devices import mesh as mesh_lib
from runtime.loop import durations
from runtime.record import pictures as pictures_lib
from tests import experiments, seeds, trees

ROOT = pathlib.Path(__file__).parents[3]
# Few instructions, so that little is compiled.
BODY = bodies.ODEtoODE(
  5, n_steps=4, retraction=retractions.Taylor(3), remat=False
)
HARMS = corrupted.Remade(('brightness', 'stripe'))


def draw(rng, count):
  """Pictures whose class is the row with ink."""
  labels = rng.integers(0, 3, count).astype(np.int32)
  images = 0.3 * rng.random((count, 3, 4), np.float32)
  images[np.arange(count), labels] += 0.6
  return images_lib.ImageSet(images=images, labels=labels)


@pytest.fixture(scope='module')
def pictures():
  rng = seeds.rng(0)
  return images_lib.Images(
    train=draw(rng, 90), test=draw(rng, 25), num_classes=3
  )


def make(pictures, **kwargs):
  settings = {'batch_size': 8, 'corrupted': HARMS, 'eval_batch_size': 20}
  return classification.ClassifierTrainer(
    data=pictures,
    body=BODY,
    optimizer=trivialization.trivialize(
      optax.adam(0.03), retraction=retractions.Taylor(3)
    ),
    **(settings | kwargs),
  )


def config(steps):
  return loop.LoopConfig(
    durations.Duration(steps=steps),
    log_every=5,
    eval_every=durations.Duration(steps=20),
    checkpoint_every=durations.Duration(steps=10),
  )


@pytest.fixture(scope='module')
def finished(pictures, tmp_path_factory):
  """Two models, trained at once without a stop: trainer, state, workdir."""
  trainer = make(pictures, num_models=2, dropout=0.1)
  workdir = tmp_path_factory.mktemp('whole')
  with pytest.MonkeyPatch.context() as patch:
    # Curves of all metrics take half of the time; `runtime` has their tests.
    patch.setattr(pictures_lib, 'curves', lambda *_, **__: None)
    result = train_lib.train(
      workdir=str(workdir), trainer=trainer, loop=config(60), seed=0
    )
  return trainer, result.state, workdir


def test_models_learn_and_stay_on_the_group(finished, pictures):
  trainer, state, workdir = finished
  scores = trainer.scores(state, pictures.test)
  assert scores['accuracy'].min() > 0.8
  w0 = state.params['body']['w0']
  assert manifolds.orthogonality_defect(w0).max() < 1e-5
  assert jnp.abs(w0[0] - w0[1]).max() > 0.1
  last = experiments.rows(workdir)[-2]
  certified = ('orthogonality_defect', 'generator_norm', 'step_norm')
  for name in (*certified, 'lyapunov', 'lyapunov_gain', 'grad_norm', 'loss'):
    assert np.isfinite(last[f'train/{name}'])
  judged = experiments.rows(workdir)[-1]
  experiments.check_declared(trainer, judged)
  for name in ('corrupted/brightness', 'corrupted/accuracy', 'test/loss'):
    assert f'eval/{name}' in judged
  low, high = flows.gradient_band(4)
  assert judged['eval/depth/gradient_least'] > low
  assert judged['eval/depth/gradient_greatest'] < high


def test_scores_are_those_of_the_logits(finished, pictures):
  """25 pictures by 20: the rest of the second batch must not count."""
  trainer, state, _ = finished
  found = trainer.scores(state, pictures.test)
  for index in range(2):
    params = jax.tree.map(lambda x, i=index: x[i], state.params)
    images, labels = pictures.test.images, pictures.test.labels
    applied = jax.jit(trainer.model.apply)({'params': params}, images)
    logits = np.asarray(applied[0], np.float64)
    hits = logits.argmax(1) == labels
    np.testing.assert_allclose(found['accuracy'][index], hits.mean())
    shifted = np.exp(logits - logits.max(1, keepdims=True))
    right = shifted[np.arange(25), labels] / shifted.sum(1)
    loss = -np.log(right).mean()
    np.testing.assert_allclose(found['loss'][index], loss, rtol=1e-4, atol=1e-6)


def test_a_run_that_was_stopped_is_the_whole_run(finished, pictures, tmp_path):
  _, whole, workdir = finished

  def run(steps):
    # A new trainer, as in a new process; without a report.
    trainer = make(pictures, num_models=2, dropout=0.1)
    mesh = mesh_lib.MeshConfig().make()
    with trainer.experiment(seed=0, mesh=mesh) as experiment:
      return loop.run(experiment, config(steps), workdir=tmp_path, seed=0).state

  run(20)
  parts = run(60)
  trees.check_same(whole, parts)
  assert experiments.rows(tmp_path, 20) == experiments.rows(workdir, 20)


@pytest.mark.slow
def test_models_of_one_run_are_runs_of_their_seeds(
  finished, pictures, tmp_path
):
  """Model 1 of 2 with seed 0 is the only one of seed 1, until it rounds."""
  trainer, _, _ = finished
  alone = make(pictures, dropout=0.1)
  states = []
  for one, seed in ((trainer, 0), (alone, 1)):
    experiment = experiments.of(one, seed=seed)
    states.append(loop.drive(experiment, 3, records=()).state)
  both, single = states
  for one, two in zip(
    jax.tree.leaves(both.params), jax.tree.leaves(single.params), strict=True
  ):
    np.testing.assert_allclose(one[1], two[0], rtol=1e-3, atol=1e-5)
    assert jnp.abs(one[0] - two[0]).max() > 1e-3


def test_gradients_along_the_depth(pictures):
  """Ends against the readout's formula and the gradient of the input's bias."""
  model = heads.Classifier(BODY, 3)
  one = slice(0, 1)
  images = jnp.asarray(pictures.test.images[one])
  labels = jnp.asarray(pictures.test.labels[one])

  @jax.jit
  def run(key):
    variables = model.init(key, images)

    def loss(params):
      logits, _ = model.apply({'params': params}, images)
      entropy = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
      return entropy[0], logits[0]

    params = variables['params']
    slopes, logits = jax.grad(loss, has_aux=True)(params)
    norms = certificates.gradient_norms(model, variables, images, labels)
    slope = jax.nn.softmax(logits) - jax.nn.one_hot(labels[0], 3)
    return norms, slopes['input']['bias'], params['readout']['kernel'] @ slope

  norms, first, last = run(seeds.key(3))
  assert norms.shape == (5, 1)
  first, last = np.linalg.norm(first), np.linalg.norm(last)
  np.testing.assert_allclose(norms[0, 0], first, rtol=1e-5)
  np.testing.assert_allclose(norms[-1, 0], last, rtol=1e-5)
  relative = certificates.relative_norms(jnp.array([[2.0, 1.0], [4.0, 0.0]]))
  np.testing.assert_array_equal(relative, [[0.5, np.nan], [1.0, np.nan]])


def test_the_final_table():
  found = {
    'test': {'accuracy': np.array([0.5, 0.7]), 'loss': np.array([1.0, 2.0])},
    'fog': {'accuracy': np.array([0.1, 0.3]), 'loss': np.array([3.0, 3.0])},
    'stripe': {'accuracy': np.array([0.3, 0.3]), 'loss': np.array([5.0, 5.0])},
  }
  table = {r['pictures']: r for r in class_results.score_rows(found)}
  assert table['test']['accuracy %'] == pytest.approx(60)
  assert table['test']['error'] == pytest.approx(10)
  mean = table[class_results.MEAN]
  assert (mean['accuracy %'], mean['loss']) == (pytest.approx(25), 4.0)
  assert mean['error'] == pytest.approx(5)
  del found['fog'], found['stripe']
  assert len(class_results.score_rows(found)) == 1


def test_a_run_leaves_a_report(finished):
  folder = finished[2] / 'report'
  text = (folder / 'accuracy.md').read_text()
  assert 'stripe' in text
  assert class_results.MEAN in text
  for name in ('corruptions', 'gradients'):
    assert (folder / f'{name}.png').stat().st_size > 5_000


def test_bad_settings_are_named(pictures):
  with pytest.raises(ValueError, match='dropout'):
    make(pictures, dropout=1.0)
  with pytest.raises(ValueError, match='num_models'):
    make(pictures, num_models=0)


def command(workdir, *params):
  return [
    *(sys.executable, '-m', 'rl.odetoode.main', f'--workdir={workdir}'),
    '--gin_file=configs/rl/odetoode_digits_tiny.gin',
    *(f'--gin_param={p}' for p in ('NUM_MODELS = 2', *params)),
  ]


@pytest.mark.slow
def test_a_killed_process_goes_on_bit_by_bit(tmp_path):
  params = ['STEPS = 40', 'LOG_EVERY = 5', 'EVAL_EVERY = 20']
  params.append('CHECKPOINT_EVERY = 10')
  environment = {**os.environ, 'JAX_PLATFORMS': 'cpu'}
  options = {'cwd': ROOT, 'env': environment}
  whole, parts = tmp_path / 'whole', tmp_path / 'parts'
  subprocess.run(command(whole, *params), check=True, **options)
  process = subprocess.Popen(command(parts, *params), **options)
  deadline = time.monotonic() + 600
  while not (parts / 'checkpoints' / '10').exists():
    assert time.monotonic() < deadline
    time.sleep(0.02)
  process.send_signal(signal.SIGKILL)
  process.wait()
  subprocess.run(command(parts, *params), check=True, **options)
  assert experiments.rows(parts) == experiments.rows(whole)
  same = lambda folder: (folder / 'report' / 'accuracy.csv').read_text()
  assert same(parts) == same(whole)


def test_launch_errors_are_short():
  files = ['configs/rl/odetoode_digits_tiny.gin']
  params = ["corrupted.Remade.names = ('rain',)"]
  with sessions.session(train_lib.train, files, params) as parsed:
    with pytest.raises(ValueError, match='names') as error:
      parsed.build(workdir='unused', seed=0)
    text = sessions.tell(error.value, root='train')
  assert "got ['rain']" in text
  assert len(text.splitlines()) == 1
