"""Codes of places: against counting, and the same with caches as without."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from hpo.optformer import learner, places, presets, tokens, vocabulary
from tests import seeds
from tests.hpo.optformer import optformer_cases as cases

MAKER = tokens.Tokenizer(
  vocabulary.Compact(), encoder_length=140, decoder_length=60
)
LEGAL = np.array([[1000, 7, 1, 0], [3, 0, 0, 0]], np.int32)


def counted(start, legal, length):
  """Slots, legal tokens there, and number of the trial, token by token."""
  found = [('before', 0, -1)] * start
  counts = [count for count in legal if count]
  for trial in range(length):
    found += [(slot, count, trial) for slot, count in enumerate(counts)]
    found += [(name, 0, trial) for name in ('star', 'objective', 'bar')]
  return found[: length + 1]


@functools.cache
def placed(start):
  """Tables, and embeddings of twenty tokens, alone and with places."""
  module = places.Places(8, start)
  positions = np.arange(20)[None]
  x = np.float32(seeds.rng(1).normal(size=(2, 20, 8)))
  variables = nn.unbox(
    jax.jit(module.init)(jax.random.key(1), x, positions, LEGAL)
  )
  apply = jax.jit(functools.partial(module.apply, variables))
  whole = np.asarray(apply(x, positions, LEGAL)[0])
  return jax.device_get(variables['params']), apply, x, whole


@pytest.mark.parametrize('start', [1, 2])
def test_embeddings_are_those_of_counting(start):
  tables, _, x, found = placed(start)
  rows = {'star': 32, 'objective': 33, 'bar': 34, 'before': 35}
  for i in range(2):
    expected = counted(start, LEGAL[i].tolist(), 20)
    total = np.zeros(8)
    for place in range(20):
      slot, own, trial = expected[place]
      following = expected[place + 1][1]
      if expected[place + 1][0] == 'before':
        continue
      angle = trial / 1e4 ** (np.arange(4) / 4)
      waves = np.stack([np.sin(angle), np.cos(angle)], axis=-1).ravel()
      code = (
        tables['slots'][rows.get(slot, slot)]
        + tables['own'][own.bit_length()]
        + tables['following'][following.bit_length()]
        + waves
      )
      signed = x[i, place] * tables['signs'][rows.get(slot, slot)]
      if slot == 0:
        total = np.zeros(8)
      total = total + signed * (slot not in rows)
      np.testing.assert_allclose(
        found[i, place], x[i, place] + total + code, atol=1e-5
      )


def test_signs_tell_parameters_apart():
  signs = placed(1)[0]['signs']
  np.testing.assert_array_equal(np.abs(signs), 1)
  assert len(np.unique(signs, axis=0)) > 16


@pytest.mark.parametrize('cut', [1, 7, 19])
def test_a_sequence_may_be_cut_anywhere(cut):
  _, run, x, whole = placed(2)
  apply = lambda part, *opened: run(
    x[:, part], np.arange(20)[None, part], LEGAL, *opened
  )
  first, sums = apply(slice(cut))
  second, _ = apply(slice(cut, None), np.asarray(sums)[:, -1])
  found = np.concatenate([first, second], axis=1)
  np.testing.assert_allclose(found, whole, atol=1e-5)


def test_legal_counts_of_examples_are_those_of_their_spaces():
  rng = seeds.rng(0)
  study = cases.study(rng, count=5)
  example = MAKER.example(study, rng, tokens.Augmentation(permute=False))
  blank = {name: np.zeros_like(x) for name, x in example.items()}
  batch = {name: np.stack([example[name], blank[name]]) for name in example}
  found = np.asarray(places.legal_codes(batch, 1))
  np.testing.assert_array_equal(
    found[0, :8], [1000, 1000, 1000, 1000, 1000, 3, 3, 0]
  )
  assert not found[0, 8:].any()
  assert not found[1].any()


@pytest.mark.slow
def test_caches_know_places():
  model = presets.make(vocabulary.Compact(), 'tiny', places=True)
  rng = seeds.rng(0)
  metadata = np.int32(rng.integers(1, 400, (2, 12)))
  ids = np.int32(rng.integers(0, 1008, (2, 24)))
  variables = cases.drawn(model, metadata, ids, legal=LEGAL)
  full = jax.jit(model.apply)(variables, metadata, ids, legal=LEGAL)
  lengths = np.array([14, 9])
  found = cases.cached_logits(
    model, variables, metadata, ids, LEGAL, lengths, steps=3
  )
  places = lengths[:, None] + 2 + np.arange(4)
  expected = np.asarray(full)[np.arange(2)[:, None], places, 8:]
  np.testing.assert_allclose(found, expected, atol=1e-4)


def test_places_need_legal_codes():
  model = presets.make(vocabulary.Compact(), 'tiny', places=True)
  ids = np.ones((1, 2), np.int32)
  with pytest.raises(ValueError, match='needs `legal`'):
    cases.drawn(model, ids, ids)


def test_likelihoods_among_legal_tokens():
  rng = seeds.rng(3)
  logits = rng.normal(size=(2, 6, 1008))
  batch = {
    'targets': jnp.array([[9, 2, 20, 3, 8, 0], [8, 1007, 2, 500, 0, 0]]),
    'weights': jnp.array([[1.0, 0, 1, 0, 1, 0], [1, 1, 0, 1, 0, 0]]),
    'slots': jnp.array([[1, 2, 3, 4, 1, 0], [1, 1, 2, 3, 0, 0]]),
    # The last one: two whole numbers, on the first bin and the last.
    'legal': jnp.array([[4, 0, 1000, 0, 4, 0], [4, 1002, 0, 1000, 0, 0]]),
  }
  loss = learner.Loss(z_loss=0.0, legal_only=True)
  found, metrics = jax.jit(functools.partial(loss, bins=(8, 1000)))(
    jnp.float32(logits), batch
  )
  total = []
  for i, j in zip(*np.nonzero(np.asarray(batch['weights'])), strict=True):
    row = logits[i, j]
    if batch['slots'][i, j] == tokens.PARAMETER:
      legal, target = int(batch['legal'][i, j]), int(batch['targets'][i, j])
      row, target = row[8 : 8 + legal], target - 8
      if legal == 1002:
        row, target = row[[0, 999]], [0, 999].index(target)
    else:
      target = int(batch['targets'][i, j])
    total.append(np.log(np.exp(row).sum()) - row[target])
  np.testing.assert_allclose(found, np.mean(total), rtol=1e-5)
  np.testing.assert_allclose(metrics['loss'].compute(), found, rtol=1e-5)
