"""Population-based training: who copies whom, what is copied, what changes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hpo import spaces
from hpo.autorl import asking, traced
from hpo.autorl.population import (
  apart,
  exploit,
  pb2,
  pbt,
  results,
  rounds,
  running,
)
from tests import marks, refusals, seeds
from tests.hpo.autorl.populations_cases import LINE, MIXED, Climb

KEY = jax.random.key(0)
truncation = jax.jit(exploit.truncation, static_argnums=2)


def test_traced_points_are_those_of_spaces():
  codes = MIXED.sample(seeds.rng(0), 200)
  unit = MIXED.to_unit(codes)
  to_unit, from_unit, zeta = (
    jax.jit(f, static_argnums=0)
    for f in (traced.to_unit, traced.from_unit, traced.zeta)
  )
  np.testing.assert_allclose(
    to_unit(MIXED, jnp.float32(codes)), unit, atol=2e-6
  )
  # Away from the borders of cells, which float32 cannot tell.
  places = np.float32(0.01 + 0.98 * seeds.rng(1).uniform(size=(200, 5)))
  np.testing.assert_allclose(
    from_unit(MIXED, jnp.asarray(places)),
    MIXED.from_unit(np.float64(places)),
    rtol=2e-5,
  )
  point = MIXED.point(codes[0])
  zeta = zeta(MIXED, jnp.float32(codes[0]))
  for name in ('x', 'lr', 'layers', 'rate'):
    np.testing.assert_allclose(zeta[name], point[name], rtol=1e-6)
  assert MIXED.parameters[4].values[int(zeta['kind'])] == point['kind']


def test_the_worst_copy_the_best():
  scores = jnp.array([3.0, 9.0, 1.0, jnp.nan, 7.0, 5.0, 8.0, 6.0, 2.0, 4.0])
  found = [
    np.asarray(truncation(jax.random.key(i), scores, 0.2)) for i in range(40)
  ]
  for parents in found:
    assert set(parents[[2, 3]]) <= {1, 6}  # The worst, and the failed one.
    kept = np.delete(np.arange(10), [2, 3])
    np.testing.assert_array_equal(parents[kept], kept)
  assert {int(p[2]) for p in found} == {1, 6}


def test_a_share_counts_whole_members():
  """0.28 * 25 is 7.000000000000001."""
  found = np.asarray(truncation(KEY, jnp.arange(25.0), 0.28))
  assert (found != np.arange(25)).sum() == 7


def test_an_infinite_score_is_a_failure():
  scores = jnp.array([1.0, jnp.inf, 2.0, 3.0])
  np.testing.assert_array_equal(truncation(KEY, scores, 0.25), [0, 3, 2, 3])
  tournament = jax.jit(exploit.tournament, static_argnums=2)
  assert np.asarray(tournament(KEY, scores, 4))[0] == 3


@pytest.mark.parametrize(
  'scores', np.float32([[0, 0, 0, 0], [np.nan] * 4, [np.nan, 1, np.nan, 1]])
)
def test_nobody_copies_an_equal(scores):
  parents = np.asarray(truncation(KEY, scores, 0.25))
  is_sound = np.isfinite(scores)
  copies = parents != np.arange(4)
  np.testing.assert_array_equal(copies, ~is_sound & is_sound.any())
  assert is_sound[parents[copies]].all()


def test_perturbed_settings_are_scaled_and_stay_in_bounds():
  method = pbt.PBT(MIXED, resample=0.0)
  codes = jnp.float32(MIXED.sample(seeds.rng(0), 400))
  moved = np.asarray(jax.jit(method.explore)(KEY, codes), np.float64)
  before = np.asarray(codes, np.float64)
  for i, p in enumerate(MIXED.parameters[:2]):
    options = np.clip(before[:, i : i + 1] * [0.8, 1.2], p.low, p.high)
    gap = np.abs(moved[:, i : i + 1] - options).min(axis=1)
    assert gap.max() < 1e-6
    inside = (before[:, i] * 1.2 <= p.high) & (before[:, i] * 0.8 >= p.low)
    up = (moved[:, i] > before[:, i])[inside]
    assert abs(up.mean() - 0.5) < 4 * 0.5 / np.sqrt(len(up))
  assert set(moved[:, 2]) <= set(range(1, 9))
  assert (moved[:, 2] != before[:, 2])[before[:, 2] == 2].all()
  assert (np.abs(moved[:, 3] - before[:, 3]) <= 1).all()
  np.testing.assert_array_equal(moved[:, 4], before[:, 4])
  anew = np.asarray(jax.jit(pbt.PBT(MIXED, resample=1.0).explore)(KEY, codes))
  assert abs(np.corrcoef(anew[:, 0], before[:, 0])[0, 1]) < 0.2


play_apart = jax.jit(
  functools.partial(running.play, Climb(), apart.Apart(LINE), updates=2)
)


@pytest.mark.parametrize('make', [pbt.PBT, *marks.slow(pb2.PB2)])
def test_copies_are_exact_and_the_best_stay(make):
  inner, method = Climb(), make(LINE)
  start = functools.partial(running.start, inner, method, size=5, rounds=3)
  play = jax.jit(functools.partial(running.play, inner, method, updates=2))
  population = jax.jit(start)(KEY)
  for _ in range(3):
    before = population
    population, row = play(population)
    parents = np.asarray(row.parents)
    # What each member would be if nobody had copied, from the same keys.
    alone, _ = play_apart(before.replace(method=pbt.PBTState(row.codes)))
    for name in ('total', 'moments'):
      np.testing.assert_array_equal(
        population.members[name], np.asarray(alone.members[name])[parents]
      )
    top = int(np.argmax(row.scores))
    assert parents[top] == top
    codes = np.asarray(population.method.codes)
    kept = parents == np.arange(5)
    np.testing.assert_array_equal(codes[kept], np.asarray(row.codes)[kept])
    assert (codes >= 0).all()
    assert (codes <= 1).all()


@pytest.mark.parametrize('make', [pbt.PBT, *marks.slow(pb2.PB2)])
def test_a_run_is_a_function_of_its_key_whether_mapped_or_not(make):
  inner, method = Climb(noise=0.1), make(LINE)
  run = functools.partial(running.run, inner, method, size=4, rounds=5)
  keys = jax.random.split(KEY, 3)
  _, mapped = jax.jit(jax.vmap(run))(keys)
  alone = jax.jit(run)
  for i, key in enumerate(keys):
    _, one = alone(key)
    for name in ('codes', 'scores'):
      np.testing.assert_allclose(
        getattr(mapped, name)[i], getattr(one, name), atol=1e-5
      )
    np.testing.assert_array_equal(mapped.parents[i], one.parents)


def test_pbt_beats_runs_that_stay_apart():
  final = {}
  for make in (pbt.PBT, apart.Apart):
    run = functools.partial(
      running.run, Climb(noise=0.1), make(LINE), size=4, rounds=20
    )
    _, played = jax.jit(jax.vmap(run))(jax.random.split(KEY, 16))
    final[make] = np.asarray(played.scores)[:, -1].max(axis=-1)
  gap = final[pbt.PBT] - final[apart.Apart]
  assert gap.mean() > 3 * gap.std(ddof=1) / 4


def test_lineage_follows_parents_back():
  parents = np.array([[0, 0, 2], [2, 1, 1], [0, 1, 2]])
  np.testing.assert_array_equal(
    results.lineage(parents), [[2, 0, 0], [2, 1, 1], [0, 1, 2]]
  )


def test_jobs_of_rounds_are_the_population_of_one_program():
  """Ask and tell gives the settings and parents that the methods give."""
  tuner = asking.Tuner(
    rounds.Rounds(pbt.PBT, size=4, rounds=3, interval=10), LINE, seed=5
  )
  method = pbt.PBT(LINE)
  key = jax.random.key(5)
  init = jax.jit(method.init, static_argnums=(1, 2))
  step = jax.jit(method.step)
  state = init(jax.random.fold_in(key, 0), 4, 3)
  parents = None
  for number in range(3):
    jobs = tuner.ask(10)
    assert [job.budget for job in jobs] == [10 * (number + 1)] * 4
    np.testing.assert_allclose(
      [job.params['x'] for job in jobs],
      np.asarray(state.codes)[:, 0],
      rtol=1e-6,
    )
    if number:
      expected = (number - 1) * 4 + np.asarray(parents)
      assert [job.parent for job in jobs] == expected.tolist()
    assert tuner.ask() == []  # All results first.
    scores = seeds.rng(number).normal(size=4).astype(np.float32)
    for job, score in zip(jobs, scores, strict=True):
      tuner.tell(job.id, float(score))
    state, parents = step(
      state, jnp.asarray(scores), jax.random.fold_in(key, number + 1)
    )
  assert tuner.ask() == []


test_what_is_refused = refusals.table(
  (lambda: pbt.PBT(LINE, share=0.6), 'share'),
  (lambda: pbt.PBT(LINE, factors=(1.1, 1.2)), 'factor'),
  (lambda: pb2.PB2(LINE, offspring=5), 'offspring'),
  (lambda: pbt.PBT(spaces.Space((spaces.Float('x', 1.0, 0.0),))), 'low'),
)
