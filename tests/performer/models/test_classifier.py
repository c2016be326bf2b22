"""Classifiers and models of grids: what they read, and what they learn."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from performer import attention, training
from performer.data import listops
from performer.models import classifier, grid, transformer
from performer.slim import options as slim_options
from runtime import loop, optimizers
from runtime.loop import durations
from tests import experiments, seeds
from tests.performer.models import model_cases

FAVOR = attention.Favor(kernel='elu1', features=8, chunk=8)
SIZES = {
  'vocab_size': 20,
  'max_length': 6,
  'attention': FAVOR,
  'num_layers': 1,
  'num_heads': 2,
  'd_model': 8,
  'd_ff': 16,
  'dropout': 0.0,
}


def make(**options):
  return classifier.Classifier(
    **SIZES | {'causal': False, 'num_classes': 3} | options
  )


@functools.partial(jax.jit, static_argnums=0)
def run(model, params, tokens, mask):
  w = model.draw_projections(seeds.key(0), 0)
  return model.apply({'params': params}, tokens, mask=mask, projections=w)


@pytest.mark.parametrize('pool', ['first', 'mean'])
def test_padding_and_pooling(pool):
  model = make(pool=pool)
  params, _ = model_cases.init(model)
  mask = np.array([[True] * 4 + [False] * 2])
  read = lambda params, *tokens: run(model, params, np.array([tokens]), mask)
  logits = read(params, 1, 5, 6, 7, 0, 0)
  assert (logits.shape, logits.dtype) == ((1, 1, 3), jnp.float32)
  np.testing.assert_array_equal(logits, read(params, 1, 5, 6, 7, 9, 9))
  # With attention that adds nothing, only a mean sees later tokens.
  zero = jax.tree.map(np.asarray, params)
  out = zero['blocks']['attention']['out']
  zero['blocks']['attention']['out'] = jax.tree.map(np.zeros_like, out)
  alone, changed = read(zero, 1, 5, 6, 7, 0, 0), read(zero, 1, 5, 9, 7, 0, 0)
  assert bool((alone == changed).all()) == (pool == 'first')


def test_width_of_the_heads():
  model = make(qkv_dim=4)
  assert model.head_dim == 2
  params, _ = model_cases.init(model)
  query = params['blocks']['attention']['query']['kernel']
  assert query.shape == (1, 8, 2, 2)


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    ({'causal': True}, 'reads both ways'),
    ({'num_classes': 1}, 'num_classes must be at least 2'),
    ({'pool': 'last'}, r"pool must be one of .*'last'"),
    ({'qkv_dim': 3}, 'num_heads must divide qkv_dim'),
  ],
)
def test_bad_options_are_refused(options, message):
  with pytest.raises(ValueError, match=message):
    make(**options)


def test_grids_add_the_codes_of_their_axes():
  model = grid.GridTransformer(
    **SIZES | {'causal': True, 'max_length': 12}, grid=(2, 3, 2)
  )
  params, _ = model_cases.init(model)
  tables = [params[f'positions_{i}'] for i in range(3)]
  assert [t.shape for t in tables] == [(2, 8), (3, 8), (2, 8)]
  codes, tables = np.asarray(grid.outer_sum(tables)), jax.device_get(tables)
  for i in range(12):
    place = np.unravel_index(i, (2, 3, 2))
    expected = sum(t[j] for t, j in zip(tables, place, strict=True))
    np.testing.assert_allclose(codes[i], expected, rtol=1e-6)
  with pytest.raises(ValueError, match='the axes of the grid must make up'):
    grid.GridTransformer(**SIZES | {'causal': True}, grid=(4, 2))


GRAMMAR = listops.Grammar(max_depth=2, max_args=3, min_length=3, max_length=6)


def make_trainer(**options):
  data = listops.ListOps(
    grammar=GRAMMAR, num_train=64, num_eval=32, num_threads=0
  )
  sizes = {'vocab_size': 17, 'num_classes': 10, 'd_model': 16}
  model = make(**sizes | options)
  return training.LanguageModelTrainer(
    model, data, optimizers.adamw(learning_rate=1e-2), batch_size=16
  )


@pytest.mark.slow
def test_a_classifier_resumes(tmp_path):
  def run(steps, folder):
    experiment = experiments.of(make_trainer(), devices=jax.devices()[:1])
    config = loop.LoopConfig(
      durations.Duration(steps=steps),
      eval_every=durations.Duration(steps=2),
      log_every=1,
    )
    return loop.run(experiment, config, workdir=folder, seed=0).state

  [*_, last] = experiments.check_resumes(run, tmp_path)
  assert 0 < last['eval/valid/accuracy'] < 1


@pytest.mark.slow
@pytest.mark.pictures
def test_the_report_of_a_classifier(tmp_path):
  experiment = experiments.of(make_trainer(), devices=jax.devices()[:1])
  run = loop.Finished(experiment.init(), [], 0.0)
  model, baseline = experiment.tables(run)['scores']
  assert baseline['predictor'] == 'empirical baseline'
  assert 5 < baseline['valid perpl.'] < 20
  assert model['valid perpl.'] > 5
  draw = experiment.pictures(run)['attention.png']
  draw(tmp_path / 'attention.png')
  assert (tmp_path / 'attention.png').stat().st_size > 1000


def test_models_must_fit_the_data():
  trainer = make_trainer()
  parts = trainer.model, trainer.data, trainer.optimizer
  with pytest.raises(ValueError, match=r'got Classifier with 4 .* with 10'):
    make_trainer(num_classes=4)
  plain = transformer.Transformer(**SIZES | {'vocab_size': 17, 'causal': False})
  with pytest.raises(ValueError, match='got Transformer with None classes'):
    training.LanguageModelTrainer(plain, *parts[1:], 4)
  with pytest.raises(ValueError, match='cost_lengths need a language model'):
    dataclasses.replace(trainer, cost_lengths=(8,))
  with pytest.raises(ValueError, match='chunks need a target for each token'):
    dataclasses.replace(trainer, slim=slim_options.Slim())
