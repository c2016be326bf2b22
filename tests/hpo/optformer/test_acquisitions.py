"""Acquisitions: one-hot forecasts, monotone in y* and a, brute force."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hpo.optformer import acquisitions
from tests import seeds

KEY = jax.random.key(0)
ALL = [
  acquisitions.EI(),
  acquisitions.PI(),
  acquisitions.UCB(),
  acquisitions.Thompson(),
  acquisitions.Mean(),
  acquisitions.Prior(),
]


@pytest.fixture(scope='module')
def logits():
  return jnp.asarray(seeds.rng(0).normal(size=(5, 40)) * 2)


def test_brute_force(logits):
  p = np.exp(np.float64(logits))
  p /= p.sum(-1, keepdims=True)
  best = 17
  expected = {
    'EI': sum(p[:, b] * max(b - best, 0) for b in range(40)),
    'PI': sum(p[:, b] for b in range(best + 1, 40)),
    'UCB': [
      next(b for b in range(40) if row[: b + 1].sum() >= 0.9) for row in p
    ],
    'Mean': sum(p[:, b] * b for b in range(40)),
    'Prior': np.zeros(5),
  }
  for score in ALL:
    name = type(score).__name__
    if name in expected:
      found = score(logits, jnp.array(best), KEY)
      np.testing.assert_allclose(found, expected[name], rtol=1e-5)


def test_certain_forecasts():
  certain = jnp.full((40, 40), -1e9).at[jnp.diag_indices(40)].set(0.0)
  bins = np.arange(40)
  for best in (0, 20, 39):
    run = lambda score, best=best: score(certain, jnp.array(best), KEY)
    np.testing.assert_allclose(
      run(acquisitions.EI()), np.maximum(bins - best, 0), atol=1e-5
    )
    np.testing.assert_allclose(run(acquisitions.PI()), bins > best, atol=1e-6)
    for score in (
      acquisitions.UCB(),
      acquisitions.Thompson(),
      acquisitions.Mean(),
    ):
      np.testing.assert_allclose(run(score), bins, atol=1e-4)


def test_monotone(logits):
  for score in (acquisitions.EI(), acquisitions.PI()):
    found = np.array([score(logits, jnp.array(b), KEY) for b in range(40)])
    assert (np.diff(found, axis=0) <= 0).all()
  mean = acquisitions.Mean()(logits, jnp.array(0), KEY)
  ei = acquisitions.EI()(logits, jnp.array(0), KEY)
  np.testing.assert_allclose(ei, mean, rtol=1e-6)
  quantiles = (0.1, 0.5, 0.9, 0.999999)
  found = [acquisitions.UCB(a)(logits, jnp.array(0), KEY) for a in quantiles]
  assert (np.diff(np.array(found), axis=0) >= 0).all()
  assert np.max(found) <= 39


@pytest.mark.parametrize('score', ALL, ids=lambda s: type(s).__name__)
def test_a_constant_changes_nothing(score, logits):
  best = jnp.array(11)
  shifted = score(logits + 3.0, best, KEY)
  np.testing.assert_allclose(shifted, score(logits, best, KEY), rtol=1e-4)


def test_draws_follow_the_distribution(logits):
  many = jnp.broadcast_to(logits[0], (20_000, 40))
  found = np.asarray(acquisitions.Thompson()(many, jnp.array(0), KEY))
  expected = np.asarray(jax.nn.softmax(logits[0])) * 20_000
  counts = np.bincount(found.astype(int), minlength=40)
  z = (counts - expected) / np.sqrt(expected)
  assert np.abs(z).max() < 4.5
  other = acquisitions.Thompson()(many, jnp.array(0), jax.random.key(1))
  assert (found != other).any()


def test_quantiles_out_of_range_are_refused():
  with pytest.raises(ValueError, match='quantile'):
    acquisitions.UCB(1.0)
