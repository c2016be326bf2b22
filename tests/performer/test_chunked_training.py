"""The trainer by chunks: what it learns is what it learns at once."""

import functools
import json
import logging as python_logging

import jax
import numpy as np
import optax
import pytest

from performer import attention, training
from performer import learner as learner_lib
from performer.data import copying
from performer.slim import model as slim_model
from performer.slim import options
from runtime import loop
from runtime.devices import mesh as mesh_lib
from runtime.loop import durations
from tests import experiments, marks, seeds
from tests.performer.models import model_cases

LENGTH = 15
SQUARE = attention.Favor(kernel='square', projection=False, features=None)
HYPERBOLIC = attention.Favor(features=8, redraw_every=3)
DATA = copying.Copying(
  max_length=LENGTH, vocab_size=12, num_eval=8, num_threads=0
)


def make_model():
  return slim_model.SlimTransformer(12, SQUARE, 2, 2, 16, 32)


make_transformer = functools.partial(
  model_cases.small, vocab_size=12, max_length=LENGTH
)


def make_trainer(slim, model=None):
  return training.LanguageModelTrainer(
    model or make_model(),
    DATA,
    optax.adam(1e-2),
    batch_size=8,
    eval_splits=(),
    slim=slim,
  )


def build(slim, *, model=None, devices=1, mesh=mesh_lib.MeshConfig()):
  """The learner of a trainer by chunks, and its experiment."""
  trainer, devices = make_trainer(slim, model), jax.devices()[:devices]
  learner = trainer.learner(seed=0, mesh=mesh.make(devices))
  return learner, experiments.of(trainer, mesh=mesh, devices=devices)


def batch():
  return next(DATA.train_iterator(batch_size=8, seed=5))


def first_gradients(slim, *, model=None, devices=1, mesh=mesh_lib.MeshConfig()):
  mesh = mesh.make(jax.devices()[:devices])
  learner = make_trainer(slim, model).learner(seed=0, mesh=mesh)

  @jax.jit
  def gradients(params, projections, batch):
    return learner.gradients(params, projections, batch, seeds.key(3))

  params, projections = model_cases.init(learner.model, 0.2)
  params = jax.device_put(params, learner.shardings(mesh).params)
  placed = mesh_lib.place_batch(mesh, batch())
  grads, metrics = gradients(params, projections, placed)
  values = {name: float(m.compute()) for name, m in metrics.items()}
  return jax.tree.map(np.asarray, grads), values


def close(one, two, tolerance=1e-5):
  for x, y in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True):
    assert np.abs(x - y).max() < tolerance * max(np.abs(y).max(), 1e-3)


@pytest.mark.parametrize(
  'slim',
  [
    options.Slim('subtract', 4),
    *marks.slow(options.Slim('checkpoint2', 5)),
  ],
  ids=lambda slim: slim.strategy,
)
def test_gradients_are_those_of_the_sequence_at_once(slim):
  grads, metrics = first_gradients(None)
  ours, found = first_gradients(slim)
  close(ours, grads)
  assert found['loss'] == pytest.approx(metrics['loss'], rel=1e-6)
  assert found['accuracy'] == pytest.approx(metrics['accuracy'])
  drifts = [n for n in found if n.startswith(learner_lib.DRIFT)]
  if slim.strategy == 'subtract':
    assert drifts == ['drift_layer0', 'drift_layer1']
    assert max(found[n] for n in drifts) < 1e-5
  else:
    assert not drifts


@pytest.mark.slow
def test_devices_share_sequences():
  mesh = mesh_lib.MeshConfig(data=2, fsdp=2)
  one, metrics = first_gradients(options.Slim('subtract', 4))
  four, found = first_gradients(
    options.Slim('subtract', 4), devices=4, mesh=mesh
  )
  close(four, one)
  for name in ('loss', 'accuracy'):
    assert found[name] == pytest.approx(metrics[name], rel=1e-5)


@pytest.mark.slow
def test_dropout_does_not_depend_on_the_cut():
  model = make_transformer(SQUARE, dropout=0.3)
  full, loss = first_gradients(options.Slim('full'), model=model)
  cut, same = first_gradients(options.Slim('checkpoint', 4), model=model)
  close(cut, full, 2e-5)
  whole = model.clone(dropout=0.0)
  _, still = first_gradients(options.Slim('full'), model=whole)
  assert same['loss'] == pytest.approx(loss['loss'], rel=1e-6)
  assert abs(loss['loss'] - still['loss']) > 1e-3


@pytest.fixture(scope='module')
def curves(tmp_path_factory):
  """Losses of runs that switch, or are stopped, after four of eight steps."""

  def losses(plans):
    folder = tmp_path_factory.mktemp('run')
    for steps, slim in plans:
      loop.run(
        build(slim)[1],
        loop.LoopConfig(durations.Duration(steps=steps), log_every=1),
        workdir=folder,
        seed=0,
      )
    rows = (folder / 'metrics.jsonl').read_text().splitlines()
    values = [json.loads(row) for row in rows]
    return [row['train/loss'] for row in values if 'train/loss' in row]

  full, cut = options.Slim('full'), options.Slim('subtract', 4)
  return {
    'full': losses([(8, full)]),
    'stopped': losses([(4, full), (8, full)]),
    'switched': losses([(4, full), (8, cut)]),
  }


@pytest.mark.slow
def test_a_stopped_run_is_the_run(curves):
  assert len(curves['full']) == 8
  assert curves['stopped'] == curves['full']


@pytest.mark.slow
def test_switching_goes_on_as_if_nothing_had_happened(curves):
  np.testing.assert_allclose(curves['switched'], curves['full'], rtol=1e-6)
  assert curves['switched'][:4] == curves['full'][:4]


def test_drift_is_said_once(caplog):
  watch = training._drift_watch(1e-3)
  with caplog.at_level(python_logging.WARNING):
    watch({'loss': 1.0})
    watch({'drift_layer0': 1e-7, 'drift_layer1': 1e-5})
    assert not caplog.records
    for _ in range(2):
      watch({'drift_layer0': 1e-7, 'drift_layer10': 0.5, 'drift_layer2': 0.0})
  assert len(caplog.records) == 1
  # Layers in the order of their numbers: 0, 2, 10.
  assert 'layer 2' in caplog.text


@pytest.mark.parametrize(
  ('slim', 'kwargs', 'message'),
  [
    (options.Slim(), {'devices': 2, 'mesh': mesh_lib.MeshConfig(tensor=2)},
     'mesh axis tensor must be 1, got 2'),
    (options.Slim('subtract'), {'model': make_transformer(HYPERBOLIC)},
     "plain sums.*'softmax_hyp'"),
    (options.Slim(), {'model': make_transformer(attention.Exact())},
     'an attention.Favor, got.*Exact'),
    *marks.slow(
      (options.Slim(memory_budget_gb=1e-6), {}, 'no plan fits memory_budget')
    ),
  ],
)  # fmt: skip
def test_what_does_not_fit(slim, kwargs, message):
  with pytest.raises(ValueError, match=message):
    build(slim, **kwargs)


def test_the_plan_keeps_to_its_budget():
  learner, experiment = build(options.Slim(memory_budget_gb=1.0))
  assert learner.chunked.plan.strategy == 'full'
  assert experiment.activation_bytes() == learner.chunked.plan.temporary_bytes
