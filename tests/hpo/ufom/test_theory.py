"""q*, costs, bounds, the adaptive rule and the problems in one dimension."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hpo import ufom
from hpo.ufom import estimator, synthetic
from tests import seeds

P = (0.5, 1.0, 2.0)


@pytest.mark.parametrize('p', P)
def test_best_q_beats_every_other(p):
  rng = seeds.rng(0)
  grid = np.linspace(1e-3, 1, 4000)
  with jax.enable_x64(True):
    for _ in range(40):
      V2, ratio, r = rng.uniform(0.1, 9), 10 ** rng.uniform(-3, 0.2), 20
      price = ufom.cost(int(rng.integers(1, r)), mode='recompute')
      args = (V2 * ratio, V2, price.det, price.rnd, p)
      costs = (price.det + grid * price.rnd) * (
        V2 + (1 / grid - 1) * V2 * ratio
      ) ** p
      best = float(ufom.optimal_q(*args))
      assert abs(best - grid[costs.argmin()]) < 1e-3, args
      found = ufom.predicted_cost(jnp.asarray(best), *args)
      assert found <= costs.min() * (1 + 1e-9)
      np.testing.assert_allclose(
        ufom.predicted_saving(*args), costs[-1] / found, rtol=1e-9
      )


@pytest.mark.parametrize('p', [0.2, 0.5, 0.8, 1.0, 2.0])
def test_best_q_is_that_of_a_fine_grid(p):
  """Also for D2 > V2, where p < 1 may give T a minimum below 1 and one at 1."""
  grid, V2, ratio = (
    np.linspace(1e-4, 1, 20_000),
    2.0,
    np.geomspace(0.01, 30, 60),
  )
  inside = 0
  with jax.enable_x64(True):
    for det, rnd in ((7, 21), (1, 100), (20, 3)):
      D2 = V2 * ratio
      best = ufom.optimal_q(jnp.asarray(D2), V2, det, rnd, p)
      found = ufom.predicted_cost(best, jnp.asarray(D2), V2, det, rnd, p)
      noise = V2 + (1 / grid - 1) * D2[:, None]
      costs = (det + grid * rnd) * noise**p
      assert (found <= costs.min(1) * (1 + 1e-9)).all()
      # Those that the slope of T at q = 1 alone would send to 1.
      falls = p * D2 * (det + rnd) >= rnd * V2
      inside += int((falls & (best < 1)).sum())
      gain = costs[:, -1] / found
      np.testing.assert_allclose(
        ufom.predicted_saving(jnp.asarray(D2), V2, det, rnd, p), gain, rtol=1e-9
      )
  assert (inside > 0) == (p < 1)


def test_one_candidate_is_not_enough():
  """T falls at q = 1, and its minimum lies below."""
  D2, V2 = 10.455913731068987, 6.770557226321276
  with jax.enable_x64(True):
    best = float(ufom.optimal_q(D2, V2, 7, 21, 0.5))
    assert best == pytest.approx(0.535418157, abs=1e-8)
    cost = lambda q: ufom.predicted_cost(q, D2, V2, 7, 21, 0.5)
    assert cost(best) < cost(1.0)
  # And the other way round: a local minimum that 1 beats.
  assert ufom.optimal_q(11.0, 6.77, 7, 21, 0.5) == 1


@pytest.mark.parametrize('p', P)
def test_best_q_is_monotone_and_has_its_ends(p):
  bias = jnp.linspace(0, 3, 60)
  best = ufom.optimal_q(bias, jnp.ones(60), 11, 55, p)
  assert (jnp.diff(best) >= 0).all()
  assert best[0] == 0
  assert best[-1] == 1
  dearer = [float(ufom.optimal_q(0.05, 1.0, 11, c, p)) for c in (1, 20, 300)]
  assert dearer == sorted(dearer, reverse=True)
  assert ufom.optimal_q(0.1, 1.0, 11, 0, p) == 1
  assert ufom.optimal_q(0.0, 0.0, 11, 55, p) == 1


def test_tabulated_values():
  """Of r = 10 and r = 50, p = 2 and 1."""
  for r, p, wanted in (
    (10, 2.0, [0.0205, 0.0688, 0.2736, 0.6805, 1]),
    (50, 1.0, [0.0063, 0.0201, 0.0667, 0.1309, 0.2]),
  ):
    price = ufom.cost(r)
    bias = jnp.array([0.001, 0.01, 0.1, 0.3, 0.5])
    found = ufom.optimal_q(bias, jnp.ones(5), price.det, price.rnd, p)
    np.testing.assert_allclose(found, wanted, atol=5e-5)


def test_costs_count_the_gradients_that_run():
  for r, mode in itertools.product((0, 1, 7), ufom.MODES):
    price = ufom.cost(r, 0.25, mode, c_H=2)
    again = {'recompute': sum(range(r)), 'sqrt': r}.get(mode, 0)
    assert price[:2] == (r + 1, again + 2 * r)
    assert price.expected == price.det + 0.25 * price.rnd
  spent = ufom.Telemetry.zero()
  for xi in ([True, False, False], [True, True, False]):
    spent = spent.add(jnp.array(xi))
  assert spent.gradients(ufom.cost(10)) == 6 * 11 + 3 * 55
  with pytest.raises(ValueError, match='c_H'):
    ufom.cost(3, c_H=0)


def test_bias_stays_within_its_bound():
  """L_in = sum of cosines: all derivatives are bounded by known numbers."""
  rng = seeds.rng(0)
  w, u = rng.normal(size=(2, 6, 3))
  problem = ufom.ABLOProblem(
    V=lambda theta, task: jnp.tanh(theta),
    inner_loss=lambda theta, phi, task: jnp.sum(
      jnp.cos(task['w'] @ phi + task['w'] @ theta)
    ),
    outer_loss=lambda theta, phi, task: jnp.sum(
      jnp.sin(task['u'] @ phi) + 0 * theta.sum()
    ),
  )
  task = {'w': w, 'u': u}
  # Joint derivatives in (theta, phi) at most double those in one of them.
  L2 = 2 * np.linalg.norm(w, 2) ** 2
  L1 = np.linalg.norm(u, axis=1).sum()
  with jax.enable_x64(True):
    gap = jax.jit(
      jax.vmap(
        lambda theta, alpha: estimator.squared_norm(
          jax.tree.map(
            jnp.subtract, *ufom.exact_grad(problem, theta, task, 4, alpha)[1:3]
          )
        ),
        (0, None),
      )
    )
    theta = jnp.asarray(rng.normal(size=(50, 3)))
    for alpha in (1e-3, 1e-2, 0.1):
      worst = float(jnp.sqrt(gap(theta, alpha).max()))
      bound = ufom.bias_bound(alpha, 4, L1=L1, L2=L2)
      assert 0 < worst <= bound
      published = ufom.published_bias_bound(alpha, 4, L1=L1, L2=L2)
      np.testing.assert_allclose(published, (1 + alpha * L2) * bound)
      assert ufom.published_gradient_bound(alpha, 4, L1=L1, L2=L2) > L1
  half = ufom.bias_bound(0.1, 4, L1=L1, L2=L2, direct=False)
  assert half == ufom.bias_bound(0.1, 4, L1=L1, L2=L2) / 2


def found(xi, gap, norm):
  """A batch's statistics."""
  return ufom.BatchEstimate(
    0.0, None, jnp.array(xi), jnp.float32(norm), jnp.float32(gap)
  )


def test_adaptive_q():
  rule = ufom.AdaptiveRule(r=10)
  state = rule.init()
  assert rule.q(state) == np.float32(0.05)
  # Nothing exact: nothing known, whatever the draws were.
  state = rule.update(state, found([False], 0.0, 0.0), 0.05)
  assert rule.q(state) == np.float32(0.05)
  state = rule.update(state, found([True, False], 0.2, 2.0), 0.05)
  np.testing.assert_allclose(state.means(rule.beta), (0.2, 2.0), rtol=1e-5)
  np.testing.assert_allclose(rule.q(state), 0.2736, atol=1e-4)
  state = rule.update(state, found([True], 0.4, 4.0), 0.05)
  mean = (0.99 * 0.2 + 0.4) / 1.99
  np.testing.assert_allclose(state.means(rule.beta)[0], mean, rtol=1e-4)
  assert int(state.n) == 2


def test_averages_are_as_wide_as_their_inputs():
  """Debiased in float64 where it is enabled; in float32 to its rounding."""
  rule = ufom.AdaptiveRule(r=10, beta=0.999)

  def means():
    state, gap, norm = rule.init(), jnp.asarray(0.3), jnp.asarray(2.1)
    for _ in range(3):
      statistics = ufom.BatchEstimate(0.0, None, jnp.array([True]), norm, gap)
      state = rule.update(state, statistics, rule.q(state))
    return np.asarray(state.means(rule.beta), float)

  np.testing.assert_allclose(means(), (0.3, 2.1), rtol=1e-6)
  with jax.enable_x64(True):
    np.testing.assert_allclose(means(), (0.3, 2.1), rtol=1e-13)
    for beta in (0.0, 0.9):
      state = ufom.AdaptiveQ(0.3, 2.1, jnp.int32(2))
      np.testing.assert_allclose(
        state.means(beta), np.array([0.3, 2.1]) / (1 - beta**2), rtol=1e-14
      )


def test_reference_quirk_settles_where_it_is_known_to():
  """The self-consistent q of the published rule."""
  rule = ufom.AdaptiveRule(r=10, beta=0.0, q_min=1e-3, reference_quirk=True)
  step = jax.jit(
    lambda q, ratio: rule.q(
      rule.update(rule.init(), found([True], ratio, 1.0), q)
    )
  )
  for ratio, settled in ((1.0, 0.43), (0.5, 0.37), (0.1, 0.25), (0.01, 0.14)):
    grid = jnp.linspace(0.01, 0.99, 2000)
    gap = jax.vmap(lambda q, s=ratio: step(q, s))(grid) - grid
    fixed = grid[jnp.argmin(jnp.abs(gap))]
    assert abs(float(fixed) - settled) < 0.006
  with pytest.raises(ValueError, match='beta'):
    ufom.AdaptiveRule(r=10, beta=1.0)


def test_counterexample_numbers():
  tasks = ufom.counterexample()
  rho = (0.59873694, 0.19687440)
  np.testing.assert_allclose(tasks.rho, rho, rtol=1e-7)
  np.testing.assert_allclose(tasks.b[1], 17.3952699705, rtol=1e-10)
  np.testing.assert_allclose(tasks.A, 12.5968466470, rtol=1e-10)
  np.testing.assert_allclose(tasks.theta_fo, 5.7588669122, rtol=1e-10)
  np.testing.assert_allclose(tasks.theta_star, 2.8402818025, rtol=1e-10)
  np.testing.assert_allclose(tasks.value(tasks.theta_fo), 1.9815039369)
  np.testing.assert_allclose(tasks.value(tasks.theta_star), 1.4759901673)
  assert tasks.gradients(tasks.theta_fo, first_order=True).sum() < 1e-12
  np.testing.assert_allclose(
    [tasks.predicted(q, 10.0, 10_000) for q in (0.0, 0.1, 0.5, 1.0)],
    [0.12, 2.071e-3, 2.537e-4, 2.658e-5],
    rtol=3e-4,
  )
  with pytest.raises(ValueError, match='a1 != a2'):
    ufom.counterexample(a1=1.0, a2=1.0)
  with pytest.raises(ValueError, match=r'\(0, 1\)'):
    ufom.study(1.0)


def test_any_counterexample_is_one():
  rng = seeds.rng(0)
  for _ in range(10):
    # Apart, and not for many steps: the slope is a small difference otherwise.
    D, r = rng.uniform(0.01, 2), int(rng.integers(1, 11))
    a1, a2 = rng.uniform(0.1, 0.6), rng.uniform(0.9, 1.5)
    tasks = ufom.counterexample(r, 0.3, a1, a2, D)
    slope = tasks.gradients(tasks.theta_fo).mean()
    np.testing.assert_allclose(slope**2, 2 * D, rtol=1e-8)


def test_the_loss_has_two_continuous_derivatives():
  tasks = ufom.counterexample()
  with jax.enable_x64(True):
    loss = lambda phi: tasks.loss(phi, 1)
    value, slope, bend = (
      jax.jit(jax.vmap(f))
      for f in (loss, jax.grad(loss), jax.grad(jax.grad(loss)))
    )
    centre = tasks.b[1] / tasks.a[1]
    z = np.concatenate([np.linspace(0.1, 40, 300), tasks.A + np.r_[0.5, 3]])
    a, A = tasks.a[1], tasks.A
    over = np.clip(z - A, 0, 1)
    for side in (-1, 1):
      phi = centre + side * z
      wanted = a * (np.minimum(z, A + 1) - over**2 / 2)
      np.testing.assert_allclose(slope(phi), side * wanted, rtol=1e-9)
      np.testing.assert_allclose(bend(phi), a * (1 - over), atol=1e-12)
    steps = np.linspace(centre, centre + 40, 4001)
    values = np.asarray(value(steps))
    area = np.trapezoid(np.asarray(slope(steps)), steps)
    np.testing.assert_allclose(values[-1] - values[0], area, rtol=1e-5)


def slopes(q, *, steps, runs):
  """|dM/dtheta| where runs with the published steps end, and its limit."""
  tasks = ufom.counterexample()
  ends = synthetic.descend(
    tasks,
    q=q,
    key=seeds.key(int(1000 * q)),
    runs=runs,
    steps=steps,
    step=10.0,
    starts=(-10.0, 30.0),
  )
  values = np.abs(tasks.gradients(ends[-1]).mean(-1))
  return values, tasks.predicted(q, 10.0, steps)


def test_first_order_descent_ends_elsewhere():
  first, _ = slopes(0.0, steps=1000, runs=100)
  some, limit = slopes(0.1, steps=1000, runs=100)
  assert abs(first.mean() - np.sqrt(0.12)) < 0.02
  # It falls like k^-1/2: 0.06 after ten times as many steps.
  assert some.mean() < 0.06 * np.sqrt(10)
  assert abs(np.log((some**2).mean() / limit)) < np.log(2)


@pytest.mark.slow
@pytest.mark.parametrize('q', [0.0, 0.1, 0.5, 1.0])
def test_descent_ends_as_predicted(q):
  found, limit = slopes(q, steps=10_000, runs=500)
  square = found**2
  error = square.std() / np.sqrt(square.size)
  assert abs(square.mean() - limit) < 4 * error + 0.02 * limit
  if q == 0:
    assert abs(found.mean() - np.sqrt(0.12)) < 0.02
  if q == 0.1:
    assert found.mean() < 0.06
