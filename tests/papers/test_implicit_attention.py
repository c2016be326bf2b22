"""The rows of implicit attention: what is measured and judged, at tiny sizes."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from papers import rows
from papers.implicit_attention import (
  clusters,
  control,
  costs,
  estimators,
  ranks,
  regression,
  runs,
  sampling,
)
from rl.envs import distractions, dodge
from rl.implicit_attention import fronts, patches, votes
from tests import seeds
from tests.papers import planted

SYSTEM = rows.find()['implicit_attention']


def verdict(name, records, count=3):
  row = SYSTEM.rows[name]
  found = planted.results(row.at_scale('tiny'), records, count)
  return planted.verdict(row, found)


# Costs.


@pytest.mark.parametrize(
  ('power', 'implicit', 'verdict_'),
  [(1.0, 1e-6, 'holds'), (1.5, 1e-6, 'fails'), (1.0, 1e-4, 'fails')],
)
def test_costs_are_judged(power, implicit, verdict_):
  """Exact attention takes l^2 times 1e-8 seconds."""
  row = SYSTEM.rows['cost-against-patches']
  records = {}
  for side in row.study.at:
    n = side**2
    seconds, records['both', side] = implicit * n**power, []
    for factor in planted.noisy(1, 0.01, seed=side, seeds=3):
      record = {'implicit, seconds': factor * seconds}
      record |= {'implicit, bytes': 100 * n}
      if side <= 64:
        record |= {'exact, seconds': factor * 1e-8 * n**2, 'exact, bytes': n**2}
      records['both', side].append(record)
  assert verdict('cost-against-patches', records) == verdict_


@pytest.mark.slow
def test_both_forms_of_a_frame_are_timed():
  setting = costs.Setting(features=4, longest_exact=64, turns=1)
  found = costs.run(setting, seed=0, at=8)
  assert set(found) == {
    f'{form}, {metric}'
    for form in costs.FORMS
    for metric in ('seconds', 'bytes')
  }
  assert min(found.values()) > 0


# Hybrid estimators.


def by_hand(length, radians, n):
  """Errors of hyp, trig and the angular hybrid with m = 1, float64."""
  dot, both = length**2 * np.cos(radians), 2 * length**2
  squares = {'hyp': both + 2 * dot, 'trig': both - 2 * dot}
  errors = {
    name: 0.5 * np.exp(z) * (1 - np.exp(-z)) ** 2 for name, z in squares.items()
  }
  share = radians / np.pi
  second = share**2 + share * (1 - share) / n
  errors['angular'] = (
    second * errors['hyp'] + (1 - 2 * share + second) * errors['trig']
  )
  return errors


def test_closed_forms_are_those_of_the_table():
  degrees = np.array([30.0, 90.0, 150.0])
  for length in (0.5, 1.0, 2.0):
    for name, expected in by_hand(length, np.deg2rad(degrees), 4).items():
      found = estimators.closed_forms(name, length, degrees, 4)
      np.testing.assert_allclose(found, expected, rtol=1e-4)
  # Absolute errors at length 1 and 30 degrees.
  square = np.exp(2 * np.cos(np.pi / 6))
  for name, expected in (
    ('trig', 0.2041),
    ('hyp', 112.447),
    ('angular', 18.911),
  ):
    (found,) = estimators.closed_forms(name, 1.0, degrees[:1])
    assert found * square == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize(
  ('n', 'length', 'expected'),
  [(1, 0.5, 0.485), (8, 1.0, 0.243), (64, 2.0, 0.102), (4, 3.0, 0.119)],
)
def test_the_worst_case_is_that_of_the_table(n, length, expected):
  found = estimators.worst(estimators.Worst(n), at=length)
  assert found['projections'] == pytest.approx(expected, abs=6e-4)
  fine = np.linspace(1e-6, np.pi - 1e-6, 2001)
  errors = by_hand(length, fine, n)
  ratio = np.sqrt(errors['angular'].max() / errors['trig'].max())
  assert found['features'] == pytest.approx(2 * n**0.5 * ratio, rel=1e-3)


@pytest.mark.slow
def test_hybrids_are_sampled():
  setting = estimators.Setting('angular', 2, 4, rows=16, draws=2**11)
  found = jax.device_get(estimators.run(setting, seed=0))
  lengths = np.array(estimators.LENGTHS)[:, None]
  radians = np.deg2rad(estimators.ANGLES)
  expected = by_hand(lengths, radians, 2)['angular']
  inner = (2 * lengths**2 * (1 + np.cos(radians)) <= 1) & (radians > 0)
  inner &= radians < 3
  np.testing.assert_allclose(found['closed'][inner], expected[inner], rtol=1e-4)
  np.testing.assert_allclose(found['error'][inner], expected[inner], rtol=0.25)
  assert found['error'][:, [0, -1]].max() < 1e-5


@pytest.mark.parametrize(
  ('factor', 'zero', 'verdict_'),
  [(1.0, 0.0, 'holds'), (1.2, 0.0, 'fails'), (1.0, 1e-3, 'fails')],
)
def test_errors_of_hybrids_are_judged(factor, zero, verdict_):
  row = SYSTEM.rows['hybrid-errors']
  radians = np.deg2rad(estimators.ANGLES)
  records = {}
  for i, (arm, setting) in enumerate(row.study.arms.items()):
    lengths = np.array(estimators.LENGTHS)[:, None]
    closed = by_hand(lengths, radians, setting.mix_rows)['angular']
    records[arm] = [
      {'error': factor * x * closed + zero * (closed < 1e-6), 'closed': closed}
      for x in planted.noisy(1, 0.01, i, seeds=40)
    ]
  assert verdict('hybrid-errors', records, 40) == verdict_


# Clusters.


def test_clusters_are_those_of_the_recipe():
  q, k = clusters.Data(variance=1e-6, unaligned=12, points=5).draw(3)
  for x, norm in ((q, 0.1), (k, 1.0)):
    assert x.shape == (2, 5, 50)
    np.testing.assert_allclose(np.linalg.norm(x, axis=-1), norm)
  assert (np.sign(q) == np.sign(q[0, 0])).mean() > 0.99
  opposite = np.sign(q[0, 0]) == -np.sign(k[:, 0])
  assert opposite[:, 12:].mean() > 0.97
  assert 0.2 < opposite[:, :12].mean() < 0.8


def estimate(arm, x, y, w, a):
  """Estimates of exp(x . y), [n, n], float64."""
  half = lambda z: 0.5 * (z**2).sum(axis=1, keepdims=True)
  if arm == clusters.TRIG:
    phi = lambda z: np.concatenate([np.cos(z @ w.T), np.sin(z @ w.T)], 1)
    return np.exp(half(x)) * phi(x) @ (np.exp(half(y)) * phi(y)).T / len(w)
  if arm in (clusters.HYBRID, clusters.BALANCED):
    x, y = x * a, y / a
  phi = lambda z: np.exp(z @ w.T - half(z))
  return phi(x) @ phi(y).T / len(w)


@pytest.mark.parametrize('arm', clusters.ARMS)
def test_errors_of_clusters_are_means_over_all_pairs(arm):
  data, m = clusters.Data(1.0, 12, points=3), 4
  q, k = data.draw(0)
  scaled = [jnp.float32(50**0.25 * x) for x in (q, k)]
  sizes = [np.sqrt((x**2).mean(axis=1)) for x in (q, k)]
  points = scaled
  if arm != clusters.BALANCED:
    sizes = [np.abs(x.mean(axis=1)) for x in (q, k)]
    points = [x.mean(axis=1, keepdims=True) for x in scaled]
  expected = np.sqrt(sizes[1] / sizes[0][:, None])
  found = clusters._transforms(*points)
  np.testing.assert_allclose(found, expected, rtol=1e-3)
  w = seeds.rng(1).normal(size=(m, 50))
  favor = clusters.Setting(arm, data).favor(m)
  error = clusters._error(favor, *scaled, jnp.float32(w), found)
  squares = [
    (estimate(arm, q[i], k[j], w, expected[i, j]) - np.exp(q[i] @ k[j].T)) ** 2
    for i in range(2)
    for j in range(2)
  ]
  assert float(error) == pytest.approx(np.mean(squares), rel=1e-3)


@pytest.mark.parametrize(
  ('hybrid', 'power', 'verdict_'),
  [(0.1, 1.0, 'holds'), (3.0, 1.0, 'fails'), (0.1, 0.5, 'fails')],
)
def test_clusters_are_judged(hybrid, power, verdict_):
  row = SYSTEM.rows['cluster-errors']
  levels = {clusters.HYBRID: hybrid, clusters.TRIG: 1, clusters.FAVOR: 2}
  levels[clusters.BALANCED] = 0.1
  records = {
    arm: [
      {'error': x * levels[s.arm] * np.power(s.sizes, -power), 's': 0.05}
      for x in planted.noisy(1, 0.05, i, seeds=60)
    ]
    for i, (arm, s) in enumerate(row.study.arms.items())
  }
  assert verdict('cluster-errors', records, 60) == verdict_


# Ranks.


SMALL_RANKS = ranks.Setting('trig', norm=0.3, side=8, pictures=2, count=3)


@pytest.mark.slow
def test_many_features_find_the_exact_patches():
  found = ranks.run(SMALL_RANKS, seed=0, at=2**12)
  assert found['overlap'] == 1
  assert found['error'] < 0.05
  assert found['moved'] == 0


def test_few_features_miss_some_patches():
  setting = dataclasses.replace(SMALL_RANKS, norm=2.0)
  assert 0 <= ranks.run(setting, seed=0, at=2)['overlap'] < 1


@pytest.mark.parametrize(
  ('trig', 'half', 'verdict_'),
  [(0.6, 0.5, 'holds'), (0.2, 0.5, 'fails'), (0.6, 0.1, 'fails')],
)
def test_overlaps_are_judged(trig, half, verdict_):
  row = SYSTEM.rows['rank-overlap']
  last = {'trig': trig, 'angular': 0.6, 'pos, half norm': half}
  records = {
    (arm, m): [
      {'overlap': x, 'error': 0.3}
      for x in planted.noisy(last.get(arm, 0.3) - 0.02 * i, 0.002, m, seeds=5)
    ]
    for arm in row.study.arms
    for i, m in enumerate(row.study.at[::-1])
  }
  assert verdict('rank-overlap', records, 5) == verdict_


# A softmax over words.


@pytest.mark.slow
@pytest.mark.parametrize('arm', [sampling.HYBRID, sampling.TRIG])
def test_many_features_find_the_softmax_of_words(arm):
  model = sampling.Model(words=30, width=4, steps=30, tau=1.0, judged=8)
  found = sampling.trained(model, 0)
  assert found.states.shape == (8, 4)
  assert found.embeddings.shape == (31, 4)
  norms = np.linalg.norm(found.embeddings, axis=1)
  np.testing.assert_allclose(norms, 1, rtol=1e-5)
  assert 0 < found.loss < np.log(31) + 1
  setting = sampling.Setting(arm, model, sizes=(16, 2**14), draws=2)
  few, many = sampling.run(setting, seed=0)['distance']
  assert many < 0.01 < few


@pytest.mark.parametrize(
  ('hybrid', 'verdict_'), [(0.01, 'holds'), (0.1, 'fails'), (0.045, 'fails')]
)
def test_softmaxes_of_words_are_judged(hybrid, verdict_):
  row = SYSTEM.rows['softmax-sampling']
  level = {'hyperbolic, tau=1': 0.04, 'angular hybrid, tau=1': hybrid}
  records = {
    arm: [
      {
        'distance': x / np.array([1, 2, 3, 4]),
        'negative': [0, 0, 0, 0],
        **{'loss': 5.0, 'chance': 6.0, 'square': 1.0},
      }
      for x in planted.noisy(level.get(arm, 0.08), 0.001, seeds=5)
    ]
    for arm in row.study.arms
  }
  assert verdict('softmax-sampling', records, 5) == verdict_


# Regression.


@pytest.mark.slow
def test_a_front_that_sees_nothing_says_the_centre():
  setting = regression.Setting(
    fronts.Blind(), side=8, steps=40, records=2, batch=8, judged=512
  )
  found = regression.run(setting, seed=0)
  np.testing.assert_array_equal(found['steps'], [20, 40])
  assert found['error'][-1] == pytest.approx(0.6, abs=0.05)
  assert found['parameters'] == 2 * 32 + 33 * 2


@pytest.mark.parametrize(
  ('trans', 'rank', 'verdict_'),
  [(0.1, 0.4, 'holds'), (0.4, 0.5, 'fails'), (0.2, 0.1, 'fails')],
)
def test_regressions_are_judged(trans, rank, verdict_):
  row = SYSTEM.rows['where-is-the-target']
  last = {regression.TRANS: trans, regression.RANK: rank}
  records = {
    arm: [
      {'steps': [1, 2], 'error': [0.6, x], 'parameters': 9}
      for x in planted.noisy(last.get(arm, 0.1), 0.005, seeds=3)
    ]
    for arm in row.study.arms
  }
  assert verdict('where-is-the-target', records) == verdict_


# Policies.


def trained(row, change):
  """Records of runs whose returns are 100 but for what is changed."""
  records = {'random actions': {'final': 40.0}}
  for i, arm in enumerate(row.study.arms):
    names = ('final', *control.DISTRACTIONS, 'noise')
    values = {
      name: planted.noisy(change(arm, name), 0.5, 10 * i + j, seeds=3)
      for j, name in enumerate(names)
    }
    records[arm] = [
      {'returns': [50.0, 90.0 + s]} | {k: v[s] for k, v in values.items()}
      for s in range(3)
    ]
  return records


CASES = [
  ('parity-dodge', {'blind': 50}, 'holds'),
  ('parity-dodge', {'blind': 50, 'implicit': 80}, 'fails'),
  ('parity-lane', {'blind': 99}, 'fails'),
  ('parity-lane', {'blind': 30}, 'holds'),
  ('patch-sizes', {}, 'holds'),
  ('patch-sizes', {'p=1, color': 70}, 'fails'),
  ('patch-sizes', {'p=1, final': 70}, 'fails'),
  ('generalisation-dodge', {'convolutions, color': 95}, 'fails'),
  (
    'generalisation-lane',
    {'convolutions': 120, 'means of pixels': 140},
    'fails',
  ),
  (
    'generalisation-dodge',
    {
      f'{arm}, {test}': 50
      for arm in ('convolutions', 'means of pixels')
      for test in control.DISTRACTIONS
    },
    'holds',
  ),
  ('noise-background', {'K=5': 50, 'K=10': 70}, 'fails'),
  (
    'noise-background',
    {'K=5': 50, 'K=10': 70, 'trained without noise, noise': 40},
    'holds',
  ),
]


@pytest.mark.parametrize(('name', 'changed', 'verdict_'), CASES)
def test_policies_are_judged(name, changed, verdict_):
  def change(arm, test):
    value = changed.get(arm, 100 if test == 'final' else 90)
    return changed.get(f'{arm}, {test}', value)

  assert verdict(name, trained(SYSTEM.rows[name], change)) == verdict_


@pytest.mark.slow
def test_a_policy_is_trained_and_judged_elsewhere():
  env = dodge.Dodge(size=16, max_steps=30)
  front = fronts.Rank(votes.Exact(), patches.Patches(3, 3), count=2)
  setting = runs.Setting(
    env,
    front,
    {
      'same': distractions.Distracted(env),
      'short': dodge.Dodge(size=16, max_steps=4),
    },
    (0, 1, 2),
    generations=2,
    pairs=2,
    episodes=4,
  )
  found = runs.run(setting, seed=0)
  assert found['returns'].shape == (2,)
  assert found['same'] == found['final']  # The same episodes.
  assert found['short'] <= 4 < found['final']
  assert 4 < runs.random_return(setting)['final'] <= 30
