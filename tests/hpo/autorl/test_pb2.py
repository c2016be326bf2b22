"""PB2: the process, its bonus, its observations, and categories."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from hpo.autorl.population import categories, drifting, pb2, running
from hpo.optformer.behaviours import gaussian_process as gp
from tests import seeds
from tests.hpo.autorl.populations_cases import LINE, MIXED, Climb

KEY = jax.random.key(0)
kernel = jax.jit(drifting.kernel)
loss = jax.jit(drifting.loss)
window = jax.jit(drifting.window, static_argnums=4)


def inputs(count, seed=0):
  rng = seeds.rng(seed)
  return drifting.Inputs(
    jnp.float32(rng.uniform(size=(count, 2))),
    jnp.float32(rng.integers(0, 9, size=count)),
  )


def hyper(length=0.4, scale=1.3, noise=0.2, forgetting=0.2):
  logit = math.log(2 * forgetting / (1 - 2 * forgetting))
  logs = map(math.log, (length, scale, noise))
  return drifting.Hyper(*(jnp.float32(x) for x in (*logs, logit)))


def reference(found, first, second):
  """The kernel as a loop over pairs, in float64."""
  length, scale = (math.exp(float(x)) for x in (found.length, found.scale))
  rate = 1 / (1 + math.exp(-float(found.drift))) / 2
  return np.array(
    [
      [
        scale**2
        * math.exp(-float(((x - y) ** 2).sum()) / (2 * length**2))
        * (1 - rate) ** (abs(float(t) - float(u)) / 2)
        for y, u in zip(np.float64(second.places), second.times, strict=True)
      ]
      for x, t in zip(np.float64(first.places), first.times, strict=True)
    ]
  )


def test_kernel_is_the_product_of_space_and_time():
  found, first, second = hyper(), inputs(6), inputs(4, 1)
  np.testing.assert_allclose(
    kernel(found, first, second), reference(found, first, second), rtol=1e-5
  )
  # The published example: (1 - 0.2)^(2 / 2).
  same = drifting.Inputs(jnp.zeros((1, 2)), jnp.float32([3.0]))
  both = drifting.Inputs(jnp.zeros((2, 2)), jnp.float32([3.0, 5.0]))
  [[now, later]] = np.asarray(kernel(found, same, both))
  np.testing.assert_allclose(later / now, 0.8, rtol=1e-6)


def test_the_fit_descends_the_loss_by_its_gradient():
  some, known = inputs(12), jnp.arange(12) < 9
  values = jnp.float32(np.where(known, seeds.rng(2).normal(size=12), 0))
  at = lambda hyper: loss(hyper, some, values, known)
  fit = jax.device_get(jax.jit(drifting.start)())
  slope = jax.jit(drifting._gradient)(fit.hyper, some, values, known)
  for name in ('length', 'scale', 'noise', 'drift'):
    shifted = lambda by, name=name: fit.hyper.replace(
      **{name: getattr(fit.hyper, name) + by}
    )
    numeric = np.subtract(at(shifted(0.02)), at(shifted(-0.02))) / 0.04
    np.testing.assert_allclose(
      getattr(slope, name), numeric, rtol=2e-2, atol=5e-3
    )
  descend = jax.jit(drifting.fit, static_argnames='steps')
  after = descend(fit, some, values, known, steps=30)
  assert float(at(after.hyper)) < float(at(fit.hyper))


@pytest.mark.slow
def test_unknown_rows_change_nothing():
  some, known = inputs(8), jnp.arange(8) < 5
  values = jnp.where(known, jnp.float32(seeds.rng(3).normal(size=8)), 0)
  at = inputs(3, 5)

  def forecast(count):
    part = jax.tree.map(lambda x: x[:count], some)
    cross = jnp.where(known[:count], drifting.kernel(hyper(), at, part), 0)
    found = drifting.factor(hyper(), part, values[:count], known[:count])
    return gp.posterior(found, cross, jnp.float32(1.69))

  for one, two in zip(forecast(8), forecast(5), strict=True):
    np.testing.assert_allclose(one, two, atol=1e-6)


def newest(some, known, count):
  """Rows of the newest known observations; equal times in their order."""
  rows = np.flatnonzero(known)
  return rows[np.argsort(-np.asarray(some.times)[rows], kind='stable')][:count]


@pytest.mark.parametrize('flips', [False, True])
def test_the_window_is_the_most_likely_one(flips):
  """Against normal densities in float64, one for each number of observations."""
  rng, found = seeds.rng(4), hyper(noise=0.3, forgetting=0.02)
  some, known = inputs(30, 6), np.arange(30) % 5 > 0
  places, times = np.asarray(some.places), np.asarray(some.times)
  values = np.sin(5 * places[:, 0]) + 0.1 * rng.normal(size=30)
  values *= np.where(flips & (times < 4), -1, 1) * known
  kept = window(found, some, jnp.float32(values), jnp.asarray(known), 6)
  covariance = np.float64(
    jax.jit(drifting.covariance)(found, some, np.ones(30, bool))
  )
  means = []
  for count in range(6, known.sum() + 1):
    rows = newest(some, known, count)
    density = stats.multivariate_normal(cov=covariance[np.ix_(rows, rows)])
    means.append(density.logpdf(values[rows]) / count)
  best = 6 + int(np.argmax(means))
  np.testing.assert_array_equal(
    np.flatnonzero(kept), np.sort(newest(some, known, best))
  )
  # Most of what changed is left out, and most of what did not stays.
  old = times < 4
  share = (old & np.asarray(kept)).sum() / (old & known).sum()
  assert share < 0.3 if flips else share > 0.7
  few = window(found, some, jnp.float32(values), jnp.asarray(known), 24)
  np.testing.assert_array_equal(few, known)


def test_exploration_needs_more_than_two_observations():
  assert [float(pb2.beta(n)) for n in (0, 1, 2)] == [0, 0, 0]
  np.testing.assert_allclose(pb2.beta(50), 0.2 * math.log(20), rtol=1e-6)


@functools.cache
def played():
  """Six rounds of four members, of which the newest four are remembered."""
  run = functools.partial(
    running.run, Climb(), pb2.PB2(LINE, window=16, memory=16), size=4, rounds=6
  )
  return jax.jit(run)(KEY)


@functools.cache
def small():
  """A state, and the step from it."""
  method = pb2.PB2(LINE, window=8, memory=8, candidates=32, rounds=1)
  init = jax.jit(functools.partial(method.init, size=4, rounds=4))
  return init(KEY), jax.jit(method.step)


@pytest.mark.parametrize('broken', [math.inf, -math.inf, math.nan])
def test_a_score_that_is_not_finite_is_a_failure(broken):
  """Its member copies another one, and its gains are not learned from."""
  state, step = small()
  for scores in ([1.0, 2.0, 3.0, broken], [2.0, 3.0, broken, 4.0]):
    found = step(state, jnp.array(scores), KEY)
    state = found.state
    failed = scores.index(broken)
    assert failed not in np.asarray(found.parents)
  known = np.asarray(state.seen.known)[4:]
  assert known.tolist() == [True, True, False, True]
  assert np.isfinite(state.codes).all()


def test_gains_of_any_size_are_standardised():
  gains, known = np.float32([1.0, -2.0, 3.0, 9.0]), np.arange(4) < 3
  standardised = jax.jit(pb2._standardised)
  plain = standardised(gains, known)
  large = gains * np.float32(2.0**100)
  np.testing.assert_array_equal(standardised(large, known), plain)
  scaled = np.array([1.0, -2.0, 3.0])
  scaled = (scaled - scaled.mean()) / scaled.std()
  np.testing.assert_allclose(np.asarray(plain)[:3], scaled, rtol=1e-6)


def test_a_copy_starts_from_its_parents_score():
  """Otherwise the jump to the parent's score would count as an improvement."""
  population, rows = played()
  # No observation before the second round, four before the third.
  assert np.isfinite(rows.codes).all()
  assert np.isfinite(population.method.codes).all()
  seen = population.method.seen
  scores, parents = np.asarray(rows.scores), np.asarray(rows.parents)
  assert (parents[1:5] != np.arange(4)).any()
  before = np.take_along_axis(scores[:-1], parents[:-1], axis=1)
  gains = np.asarray(seen.gains).reshape(4, 4)
  times = np.asarray(seen.times).reshape(4, 4)[:, 0].astype(int)
  # The newest rounds, in a ring.
  np.testing.assert_array_equal(times, [4, 5, 2, 3])
  for row, time in zip(gains, times, strict=True):
    np.testing.assert_allclose(row, scores[time] - before[time - 1], atol=1e-6)
  # No improvement is larger than that of one update of the inner loop.
  assert gains.max() <= 1 + 1e-6
  assert np.asarray(seen.known).all()


def test_the_first_round_improves_on_nothing():
  method = pb2.PB2(LINE)
  noted = jax.jit(lambda x: method._noted(method.init(KEY, 4, 6), x))
  seen = noted(jnp.arange(4.0))
  assert not np.asarray(seen.known).any()


def test_members_that_run_lower_the_deviation_only_nearby():
  method = pb2.PB2(LINE, window=16, memory=16)
  population, _ = played()
  places = jnp.array([[0.2], [0.5], [0.8], [0.9]])
  tried = jnp.array([[0.2], [0.95]])

  @jax.jit
  def deviation(state, known):
    found = pb2._Forecast.of(method, state)
    at = found._at(tried, found.before[0])
    factor, rows, mask = found.deviation(places, known)
    cross = jnp.where(mask, drifting.kernel(found.fit.hyper, at, rows), 0)
    scale = jnp.exp(2 * found.fit.hyper.scale)
    return gp.posterior(factor, cross, scale)[1]

  none, one = (
    np.asarray(deviation(population.method, np.array(known)))
    for known in ([False] * 4, [True] + [False] * 3)
  )
  assert one[0] < 0.98 * none[0]
  assert one[1] > 0.98 * none[1]


@pytest.mark.slow
def test_pb2_finds_the_place_with_the_largest_gain():
  run = functools.partial(
    running.run, Climb(noise=0.05), pb2.PB2(LINE), size=4, rounds=16
  )
  _, rows = jax.jit(jax.vmap(run))(jax.random.split(KEY, 4))
  late = np.asarray(rows.codes)[:, -1, :, 0]
  best = np.asarray(rows.scores)[:, -1].argmax(axis=1)
  assert (np.abs(late[np.arange(4), best] - 0.7) < 0.15).all()


def test_categories_are_those_of_a_loop():
  logits = np.log([0.2, 0.5, 0.3])
  plays, rewards = [0, 2, 2, 1], [0.9, 0.1, 0.7, 0.4]
  mixing, sharing = 0.3, 0.05
  weights = np.exp(logits)
  p = (1 - mixing) * weights / weights.sum() + mixing / 3
  grown = weights.copy()
  for j in range(3):
    x = sum(
      r / (4 * p[j]) for i, r in zip(plays, rewards, strict=True) if i == j
    )
    grown[j] = weights[j] * math.exp(mixing * x / 3)
    grown[j] += math.e * sharing / 3 * weights.sum()
  update = functools.partial(categories.updated, mixing=mixing, sharing=sharing)
  found = jax.jit(update)(
    jnp.float32(logits),
    jnp.array(plays),
    jnp.float32(rewards),
    np.ones(4, bool),
  )
  np.testing.assert_allclose(found, np.log(grown / grown.max()), rtol=1e-4)
  np.testing.assert_allclose(
    categories.chances(jnp.float32(logits), mixing), p, rtol=1e-5
  )


@pytest.mark.slow
def test_categories_follow_what_pays():
  run = functools.partial(
    running.run,
    Climb(kind=1),
    pb2.PB2(MIXED, share=0.5, mixing=0.3),
    size=8,
    rounds=25,
  )
  _, rows = jax.jit(jax.vmap(run))(jax.random.split(KEY, 4))
  late = np.asarray(rows.codes)[:, -5:, :, 4]
  assert (late == 1).mean() > 0.5
