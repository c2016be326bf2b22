"""Classifiers and models of grids: what they read, and what they learn."""

import dataclasses

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


def run(model, tokens, mask, params=None):
  w = model.draw_projections(seeds.key(0), 0)
  options = {'mask': mask, 'projections': w}
  if params is None:
    params = jax.jit(model.init)(seeds.key(1), tokens, **options)
  return jax.jit(model.apply)(params, tokens, **options), params


@pytest.mark.parametrize('pool', ['first', 'mean'])
def test_padding_and_pooling(pool):
  model = make(pool=pool)
  tokens = jnp.array([[1, 5, 6, 7, 0, 0]])
  mask = jnp.array([[True] * 4 + [False] * 2])
  logits, params = run(model, tokens, mask)
  assert (logits.shape, logits.dtype) == ((1, 1, 3), jnp.float32)
  other, _ = run(model, tokens.at[:, 4:].set(9), mask, params)
  np.testing.assert_array_equal(logits, other)
  # With attention that adds nothing, only a mean sees later tokens.
  zero = jax.tree.map(lambda x: x, params)
  zero['params']['blocks']['attention']['out'] = jax.tree.map(
    jnp.zeros_like, zero['params']['blocks']['attention']['out']
  )
  alone, _ = run(model, tokens, mask, zero)
  changed, _ = run(model, tokens.at[0, 2].set(9), mask, zero)
  assert bool((alone == changed).all()) == (pool == 'first')


def test_width_of_the_heads():
  model = make(qkv_dim=4)
  assert model.head_dim == 2
  shapes = jax.eval_shape(
    lambda key: run(
      model, jnp.zeros((1, 6), jnp.int32), jnp.ones((1, 6), bool)
    ),
    seeds.key(0),
  )[1]
  query = shapes['params']['blocks']['attention']['query']['kernel']
  assert query.value.shape == (1, 8, 2, 2)


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
  tokens = jnp.zeros((1, 12), jnp.int32)
  _, params = run(model, tokens, tokens == 0)
  tables = [params['params'][f'positions_{i}'].value for i in range(3)]
  assert [t.shape for t in tables] == [(2, 8), (3, 8), (2, 8)]
  codes = grid.outer_sum(tables)
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
