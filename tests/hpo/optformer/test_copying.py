"""Copies of earlier trials: against counting, and the same with caches as without."""

import functools

import jax
import numpy as np
import pytest

from hpo.optformer import copying, presets, vocabulary
from tests import marks, seeds
from tests.hpo.optformer import optformer_cases as cases

LEGAL = np.array([[1000, 7, 5, 0], [3, 1000, 0, 0]], np.int32)
COUNTS = (3, 2)
BINS = (8, 1000)
LENGTH = 43


@functools.cache
def sequences():
  """Two sequences of trials whose values often repeat, and some unknown gains."""
  rng = seeds.rng(0)
  ids = rng.integers(0, 8, (2, LENGTH))
  for i, count in enumerate(COUNTS):
    slot = np.arange(LENGTH) % (count + 3)
    drawn = rng.integers(8, 11, LENGTH)
    gains = rng.choice([3, 9, 200, 201, 1007], LENGTH)
    ids[i] = np.where(slot < count, drawn, ids[i])
    ids[i] = np.where(slot == count + 1, gains, ids[i])
  return ids.astype(np.int32)


PLACES = np.tile(np.arange(LENGTH), (2, 1))


@functools.cache
def found():
  """Changes, and earlier trials, at all places, in NumPy."""

  @jax.jit
  def run(ids, legal, at):
    read = copying.sheet(ids, legal, BINS)
    changed = copying.changes(read, ids, at)
    return read, changed, copying.look_back(read, at, changed)

  return jax.device_get(run(sequences(), LEGAL, PLACES))


def trials(i):
  """Parameters and gains of the trials of a sequence, as far as there are."""
  width = COUNTS[i] + 3
  row = sequences()[i]
  parts = [row[at : at + width] for at in range(0, LENGTH, width)]
  gain = lambda part: part[-2] - 8 if part[-2] >= 8 else -1
  return [
    (part[: width - 3], gain(part) if len(part) == width else None)
    for part in parts
  ]


@pytest.mark.parametrize('i', [0, 1])
def test_earlier_trials_are_those_of_counting(i):
  _, _, past = found()
  facts = past.facts[i]
  rows = trials(i)
  for at in range(LENGTH - 1):
    trial, slot = divmod(at + 1, COUNTS[i] + 3)
    assert past.usable[i, at].sum() == (trial if slot < COUNTS[i] else 0)
    if slot >= COUNTS[i]:
      continue
    begun = rows[trial][0][:slot]
    for t in range(trial):
      values, gain = rows[t]
      assert past.ids[i, at, t] == values[slot]
      changes = (values[:slot] != begun).sum()
      expected = [changes == 0, changes == 1, changes > 1, gain >= 0]
      numbers = [trial - 1 - t]
      for window in (trial, 8, 16, 24, 32):
        latest = range(max(trial - window, 0), trial)
        numbers += [sum((rows[u][1], -u) > (gain, -t) for u in latest)]
      for number in numbers:
        expected += [number / 16, np.log1p(number), number == 0]
      np.testing.assert_allclose(facts[at, t], expected, rtol=1e-6)


@pytest.mark.parametrize('cut', [1, 20, *marks.slow(8)])
def test_changes_go_on_where_they_were_cut(cut):
  read, whole, _ = found()

  @jax.jit
  def run(read, at):
    part = functools.partial(copying.changes, read)
    first = part(read.ids[:, :cut], at[:, :cut])
    return first, part(read.ids[:, cut:], at[:, cut:], first[:, -1])

  np.testing.assert_array_equal(np.hstack(run(read, PLACES)), whole)


def test_likelihoods_are_sums_of_words_and_copies():
  rng = seeds.rng(1)
  logits = rng.normal(size=(2, 3, 6)) * 4
  scores = rng.normal(size=(2, 3, 5)) * 4
  columns = rng.integers(0, 6, (2, 3, 5))
  usable = rng.uniform(size=(2, 3, 5)) < 0.6
  usable[0, 0] = False
  where = columns, usable
  scores[~usable] = 1e4  # Whatever it is, it counts nothing.
  mass = np.exp(logits)
  for place in zip(*np.nonzero(usable), strict=True):
    mass[*place[:2], columns[place]] += np.exp(scores[place])
  inputs = np.float32(logits), np.float32(scores)
  add = jax.jit(copying.add)
  shift = 700.0  # Far beyond what float32 exponentials hold.
  for move in (0.0, shift, -shift):
    moved = add(*(x + np.float32(move) for x in inputs), *where)
    np.testing.assert_allclose(moved - move, np.log(mass), atol=1e-4)

  def loss(logits, scores):
    return add(logits, scores, *where)[..., 2].sum()

  by_logits, by_scores = jax.jit(jax.grad(loss, (0, 1)))(*inputs)
  share = np.where(usable & (columns == 2), np.exp(scores), 0) / mass[..., 2:3]
  np.testing.assert_allclose(by_scores, share, atol=1e-5)
  expected = np.exp(logits[..., 2]) / mass[..., 2]
  np.testing.assert_allclose(by_logits[..., 2], expected, rtol=1e-4)


def test_caches_know_copies():
  model = presets.make(vocabulary.Compact(), 'tiny', places=True, copies=True)
  metadata = np.int32(seeds.rng(2).integers(1, 400, (2, 12)))
  ids = np.hstack([np.full((2, 1), 7, np.int32), sequences()])
  variables = cases.drawn(model, metadata, ids, legal=LEGAL)
  run = jax.jit(model.apply)

  def logits(rare):
    variables['params']['copy_scores']['rare'] = np.float32([rare])
    return np.asarray(run(variables, metadata, ids, legal=LEGAL))[..., 8:]

  plain, full = logits(-1e4), logits(4.0)
  assert np.abs(full - plain)[:, 20:].max() > 1
  # What is read first ends within trials; then comes the rest of these.
  lengths = np.array([10, 13])
  found = cases.cached_logits(
    model, variables, metadata, ids, LEGAL, lengths, steps=4
  )
  places = lengths[:, None] + 2 + np.arange(5)
  expected = full[np.arange(2)[:, None], places]
  np.testing.assert_allclose(found, expected, atol=1e-4)
