"""Decoding: legality with random weights, chain rule, caches, scores."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hpo import spaces
from hpo.optformer import decoding, quantizing, tokens, vocabulary
from tests import seeds
from tests.hpo.optformer import optformer_cases as cases

MAKER = tokens.Tokenizer(
  vocabulary.Compact(), encoder_length=64, decoder_length=140, exact=True
)
IDS = MAKER.ids
NONE = (None, None, None)
SMALL = spaces.Space(
  (
    spaces.Categorical('a', ('0', '1', '2')),
    spaces.Discrete('b', (1.0, 2.0, 3.0, 4.0)),
  )
)
FOUR = spaces.Space((spaces.Int('few', 2, 8), *cases.MIXED.parameters[4:7]))
SEVENTHS = (0, 166, 333, 500, 666, 833, 999)  # Bins of the first parameter.
COUNT, SLOTS = 64, 4


def arrays(seed, space, count):
  """Metadata, history with its last bar, and codes of legal tokens."""
  study = cases.study(seeds.rng(seed), space, count)
  order = space.free
  scale = quantizing.ObjectiveRange.of(study.gains)
  rows = MAKER.rows(
    MAKER.parameters(study, order), MAKER.objectives(study, scale)
  )
  history = np.concatenate([IDS.start, rows.ravel()]).astype(np.int32)
  legal = MAKER.legal(tuple(space.parameters[i] for i in order))
  metadata = MAKER.metadata(study.problem, order, minimal=True)
  return metadata, history, legal


@pytest.fixture(scope='module')
def batch(model, variables):
  """Two studies with 4 and 2 parameters, of different lengths, read at once."""
  studies = [arrays(0, FOUR, 3), arrays(1, SMALL, 6)]
  lengths = [history.size for _, history, _ in studies]
  ids = np.zeros((2, 96), np.int32)
  legal = np.zeros((2, SLOTS), np.int32)
  for i, (_, history, counts) in enumerate(studies):
    ids[i, : history.size] = history
    legal[i, : counts.size] = counts
  prefix = decoding.read(
    model,
    variables,
    jnp.asarray(np.stack([m for m, _, _ in studies])),
    jnp.asarray(ids),
    jnp.asarray(lengths, jnp.int32),
    jnp.asarray(legal),
    capacity=96,
    projections=NONE,
  )
  return studies, prefix, legal


def propose(model, variables, batch, *, seed=0, given=None, temperature=1.0):
  _, prefix, legal = batch
  return decoding.propose(
    model,
    variables,
    prefix,
    jnp.asarray(legal),
    given,
    jax.random.split(jax.random.key(seed), 2),
    star=IDS.star,
    count=COUNT,
    projections=NONE,
    temperature=jnp.float32(temperature),
  )


@pytest.mark.parametrize('temperature', [1e-45, 0.05, 1.0, 50.0, 1e38])
def test_all_candidates_are_legal(model, variables, batch, temperature):
  found = propose(model, variables, batch, temperature=temperature)
  legal = batch[2]
  for i, width in enumerate((4, 2)):
    drawn = np.asarray(found.tokens[i, :, :width])
    assert (found.tokens[i, :, width:] == 0).all()
    rows = MAKER.rows(drawn, np.full(COUNT, IDS.first_bin, np.int32))
    sequence = np.concatenate([IDS.start, rows.ravel()]).astype(np.int32)
    MAKER.parse(sequence, legal[i, :width])
  if temperature >= 50.0:
    assert set(np.asarray(found.tokens[1, :, 0])) == {0, 1, 2}
    assert set(np.asarray(found.tokens[0, :, 0])) == set(SEVENTHS)


def test_huge_illegal_logits_do_not_leak(model, variables, batch):
  head = variables['params']['head']
  first = IDS.first_bin
  # The 990 bins above the listed ones: huge or not, they must not matter.
  kernel = head.at[:, first + 4 : first + 1000].set(1e9)
  changed = {'params': {**variables['params'], 'head': kernel}}
  plain = propose(model, variables, batch)
  found = propose(model, changed, batch)
  np.testing.assert_array_equal(found.tokens[1], plain.tokens[1])
  np.testing.assert_allclose(found.log_probs[1], plain.log_probs[1], rtol=1e-5)


def test_probabilities_of_all_points_sum_to_one(model, variables, batch):
  points = np.array(list(itertools.product(range(3), range(4))), np.int32)
  given = np.zeros((2, COUNT, SLOTS), np.int32)
  given[1, :12, :2] = points
  found = propose(model, variables, batch, given=jnp.asarray(given))
  expected = np.exp(np.asarray(found.log_probs[1, :12]))
  np.testing.assert_allclose(expected.sum(), 1, atol=1e-5)
  np.testing.assert_array_equal(found.tokens[1, :12, :2], points)
  # Draws have these frequencies: chi-square with 6 degrees of freedom.
  counts = np.zeros((3, 4))
  for seed in range(16):
    drawn = np.asarray(propose(model, variables, batch, seed=seed).tokens)[1]
    np.add.at(counts, (drawn[:, 0], drawn[:, 1]), 1)
  rare, *_ = np.split(np.argsort(expected), [6])
  pooled = lambda x: np.append(np.delete(x, rare), x[rare].sum())

  def chi2(chances):
    wanted = pooled(counts.sum() * chances / chances.sum())
    return ((pooled(counts.ravel()) - wanted) ** 2 / wanted).sum()

  assert chi2(expected) < 26  # P < 0.0003
  assert chi2(expected**0.7) > 26


def test_scores_equal_full_forwards(model, variables, batch):
  found = propose(model, variables, batch)
  forward = jax.jit(model.apply)
  for i, width in enumerate((4, 2)):
    metadata, history, legal = batch[0][i]
    drawn = np.asarray(found.tokens[i, :, :width])
    for n in (0, 7):
      ids = [*history, *(drawn[n] + IDS.first_bin), IDS.star]
      sequence = np.zeros(60, np.int32)
      sequence[: len(ids)] = ids
      logits = forward(
        variables, jnp.asarray(metadata[None]), jnp.asarray(sequence[None])
      )
      logits = np.float64(logits[0, :, IDS.first_bin :])
      objective = logits[len(ids) - 1]
      np.testing.assert_allclose(found.objective[i, n], objective, atol=1e-4)
      log_prob = 0.0
      for slot in range(width):
        allowed = range(legal[slot]) if legal[slot] <= 1000 else SEVENTHS
        row = logits[history.size - 1 + slot]
        among = np.log(np.exp(row[list(allowed)]).sum())
        log_prob += row[drawn[n, slot]] - among
      np.testing.assert_allclose(found.log_probs[i, n], log_prob, rtol=1e-4)


def test_a_study_does_not_depend_on_its_batch(model, variables, batch):
  _, prefix, legal = batch
  both = propose(model, variables, batch)
  prefix = jax.device_get(prefix)
  flipped = jax.tree.map(
    lambda x: x[:, ::-1] if x.ndim > 2 else x[::-1], prefix
  )
  flipped = flipped._replace(last=prefix.last[::-1])
  other = decoding.propose(
    model,
    variables,
    flipped,
    jnp.asarray(legal[::-1].copy()),
    None,
    jax.random.split(jax.random.key(0), 2)[::-1],
    star=IDS.star,
    count=COUNT,
    projections=NONE,
    temperature=jnp.float32(1.0),
  )
  np.testing.assert_array_equal(other.tokens[::-1], both.tokens)


def test_histories_are_read_on_or_anew(model, variables, monkeypatch):
  reads, real = [], decoding.read
  monkeypatch.setattr(
    decoding, 'read', lambda *a, **k: reads.append(1) or real(*a, **k)
  )
  metadata, history, legal = arrays(2, FOUR, 8)

  def advance(size, before, metadata=metadata, history=history, legal=legal):
    return decoding.advance(
      model,
      variables,
      metadata[None],
      history[None, :size],
      legal[None],
      projections=NONE,
      history=before,
    )

  whole = advance(history.size, None)
  part = advance(1 + 7 * 3, None)
  assert len(reads) == 2
  grown = advance(history.size, advance(1 + 7 * 4, part))
  assert len(reads) == 2
  assert grown.prefix.lengths == history.size
  np.testing.assert_allclose(grown.prefix.last, whole.prefix.last, atol=1e-4)
  edited = history.copy()
  edited[3] += 1
  again = advance(history.size, part, history=edited)
  assert len(reads) == 3
  assert (again.prefix.last != whole.prefix.last).any()
  advance(history.size, part, metadata=metadata[::-1].copy())
  assert len(reads) == 4
  advance(history.size, part, legal=legal + 1)
  assert len(reads) == 5
  full = np.resize(history, 127)
  full = advance(127, None, history=full[:127])
  assert full.capacity == 256
  advance(127, part, history=full.tokens[0])
  assert len(reads) == 7


def test_buckets():
  sizes = [decoding.bucket(n) for n in (1, 2, 3, 4, 5, 6, 7, 9, 13, 17, 100)]
  assert sizes == [1, 2, 3, 4, 6, 6, 8, 12, 16, 24, 128]
