"""Flows on the orthogonal group: closed forms, invariants, orders."""

import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg

from rl.odetoode import flows, generators, manifolds, retractions
from tests import marks, refusals, seeds

pytestmark = pytest.mark.usefixtures('float64')

EXACT = [retractions.Exp(), retractions.Cayley(), retractions.Taylor(12)]
EULER = retractions.Euler()


defect = jax.jit(manifolds.orthogonality_defect)
lyapunov = jax.jit(generators.lyapunov)


def integrate(w0, generator, **options):
  """A flow in one program."""
  return jax.jit(lambda w0: flows.matrix_flow(w0, generator, **options))(w0)


@pytest.fixture
def rng():
  return seeds.rng(0)


def orthogonal(rng, d):
  return jnp.asarray(np.linalg.qr(rng.normal(size=(d, d)))[0])


def problem(rng, d):
  q, n = (rng.normal(size=(d, d)) / np.sqrt(d) for _ in range(2))
  return jnp.asarray(q), jnp.asarray(n), orthogonal(rng, d)


def rotation(angle):
  c, s = np.cos(angle), np.sin(angle)
  return np.array([[c, -s], [s, c]])


PLANE = generators.skew_iso(
  jnp.array([[0.0, 1.0], [1.0, 0.0]]), jnp.diag(jnp.array([1.0, 0.0]))
)


@pytest.mark.parametrize(
  'retraction', [*marks.slow(EXACT[0]), *EXACT[1:], EULER]
)
def test_matrices_stay_orthogonal(rng, retraction):
  q, n, w0 = problem(rng, 16)
  flow = integrate(
    w0, generators.skew_iso(q, n), n_steps=100, retraction=retraction
  )
  largest = defect(flow.trajectory).max()
  determinants = np.linalg.det(flow.trajectory)
  if retraction == EULER:
    assert largest > 1e-3
    return
  assert largest < 1e-13
  np.testing.assert_allclose(determinants, determinants[0], rtol=1e-12)


def test_float32_stays_orthogonal_with_the_default(rng):
  q, n, w0 = (x.astype(jnp.float32) for x in problem(rng, 64))
  for steps, bound in ((25, 1e-5), (100, 5e-5)):
    flow = integrate(w0, generators.skew_iso(q, n), n_steps=steps)
    assert flow.last.dtype == jnp.float32
    assert defect(flow.trajectory).max() < bound


def test_defect_of_euler_in_the_plane():
  turn = jnp.array([[0.0, -1.0], [1.0, 0.0]])
  flow = integrate(jnp.eye(2), lambda t, w: turn, n_steps=25, retraction=EULER)
  np.testing.assert_allclose(
    flow.last.T @ flow.last, 1.0407775 * np.eye(2), atol=1e-7
  )


@pytest.mark.parametrize('n_steps', [*marks.slow(1), 7])
def test_constant_generators_give_the_exponential(rng, n_steps):
  b = retractions.skew(jnp.asarray(rng.normal(size=(5, 5))))
  w0 = orthogonal(rng, 5)
  flow = integrate(
    w0, lambda t, w: b, n_steps=n_steps, time=1.5, retraction=EXACT[0]
  )
  exact = w0 @ scipy.linalg.expm(1.5 * np.asarray(b))
  np.testing.assert_allclose(flow.last, exact, atol=1e-12)
  for other in (EULER, EXACT[1]):
    flow = integrate(
      w0, lambda t, w: b, n_steps=n_steps, time=1.5, retraction=other
    )
    assert np.abs(flow.last - exact).max() > 1e-4


@pytest.mark.parametrize(
  ('retraction', 'order'),
  [
    *((EXACT[0], 1), *((EXACT[1], order) for order in (1, 2, 4))),
    *marks.slow((EXACT[0], 2), (EXACT[0], 4)),
  ],
)
def test_orders_in_the_plane(retraction, order):
  """Against the closed form: the rotation by atan(tanh(Delta t))."""
  exact = rotation(np.arctan(np.tanh(1.0)))
  errors = [
    np.abs(
      integrate(
        jnp.eye(2), PLANE, n_steps=n, retraction=retraction, order=order
      ).last
      - exact
    ).max()
    for n in (25, 50)
  ]
  assert errors[0] / errors[1] == pytest.approx(2**order, rel=0.1)
  if order == 1:
    known = {retractions.Exp(): 5.67e-3, retractions.Cayley(): 5.65e-3}
    assert errors[0] == pytest.approx(known[retraction], rel=2e-3)


@pytest.mark.parametrize(
  ('retraction', 'order'),
  [(EXACT[1], 4), *marks.slow(*((EXACT[0], order) for order in (1, 2, 4)))],
)
def test_orders_where_nothing_commutes(rng, retraction, order):
  q, n, w0 = problem(rng, 5)
  b = generators.skew_iso(q, n)
  run = lambda steps, order: (
    integrate(
      w0, b, n_steps=steps, retraction=retraction, order=order, time=0.5
    ).last
  )
  exact = run(800, 4)
  errors = [np.abs(run(steps, order) - exact).max() for steps in (20, 40)]
  assert errors[0] / errors[1] == pytest.approx(2**order, rel=0.3)


def test_order_depends_on_time_where_generators_do(rng):
  a, b = (retractions.skew(jnp.asarray(rng.normal(size=(4, 4)))) for _ in 'ab')
  field = lambda t, w: jnp.cos(3 * t) * a + t * b
  run = lambda steps: (
    integrate(
      jnp.eye(4), field, n_steps=steps, order=4, retraction=EXACT[1]
    ).last
  )
  exact = run(400)
  errors = [np.abs(run(n) - exact).max() for n in (10, 20)]
  assert errors[0] / errors[1] == pytest.approx(16, rel=0.35)


def test_iso_is_the_double_bracket_flow(rng):
  """H tends to the sorted eigenvalues of Q, which a left product would miss."""
  d = 6
  values = np.array([0.3, 1.4, 2.2, 3.1, 4.3, 5.0])
  basis = orthogonal(rng, d)
  q = basis @ jnp.diag(values) @ basis.T
  n = jnp.diag(jnp.arange(1.0, d + 1))
  flow = integrate(
    orthogonal(rng, d),
    generators.skew_iso(q, n),
    n_steps=6000,
    time=60.0,
    retraction=retractions.Taylor(10),
  )
  h = flow.last.T @ q @ flow.last
  np.testing.assert_allclose(h, np.diag(values), atol=1e-6)
  gains = np.diff(lyapunov(flow.matrices, q, n))
  assert gains.min() > -1e-9


def off_diagonal(h):
  return jnp.abs(h - jnp.diag(jnp.diag(h))).max()


def test_a_product_on_the_left_is_no_double_bracket_flow(rng):
  """W' = B W is W' = W (W^T B W): H stays undone where it must be diagonal."""
  n = jnp.diag(jnp.arange(1.0, 5))
  options = {'n_steps': 2000, 'time': 20.0}
  options |= {'retraction': retractions.Taylor(10)}

  @jax.jit
  def shares(w0, q):
    """What is left off the diagonal by the flow and by the wrong one."""
    right = generators.skew_iso(q, n)
    left = lambda t, w: w.T @ right(t, w) @ w
    run = lambda b: integrate(w0, b, **options).last
    ends = [w0, run(right), run(left)]
    off = jnp.array([off_diagonal(w.T @ q @ w) for w in ends])
    return off[1:] / off[0]

  # Eigenvalues one apart: how fast the flow ends is known. The wrong one comes
  # near a diagonal matrix from a quarter of the starts, but not from all.
  found = []
  for _ in range(8):
    axes = orthogonal(rng, 4)
    q = axes @ jnp.diag(jnp.arange(1.0, 5)) @ axes.T
    found.append(shares(orthogonal(rng, 4), q))
  right, left = np.transpose(found)
  assert right.max() < 1e-3
  assert left.max() > 0.1


def test_slope_of_the_trace_is_the_squared_bracket(rng):
  q, n, w0 = problem(rng, 5)
  flow = integrate(
    w0, generators.skew_iso(q, n), n_steps=2, time=2e-6, retraction=EXACT[0]
  )
  ends = lyapunov(jnp.stack([w0, flow.last]), q, n)
  b = generators.skew_iso(q, n)(jnp.zeros(()), w0)
  np.testing.assert_allclose(
    (ends[1] - ends[0]) / 2e-6, (b**2).sum(), rtol=1e-4
  )


def test_equivariance_and_fixed_point(rng):
  q, n, w0 = problem(rng, 5)
  p = orthogonal(rng, 5)
  run = lambda w, q, n: integrate(w, generators.skew_iso(q, n), n_steps=20).last
  last = run(w0, q, n)
  np.testing.assert_allclose(run(w0 @ p, q, p.T @ n @ p), last @ p, atol=1e-10)
  assert np.abs(run(w0 @ p, q, n) - last @ p).max() > 1e-3
  np.testing.assert_allclose(run(p @ w0, p @ q @ p.T, n), p @ last, atol=1e-10)
  np.testing.assert_allclose(run(jnp.eye(5), q, q), np.eye(5), atol=1e-12)
  assert np.abs(last - w0).max() > 1e-2


def test_gated_generator_is_the_sum_over_its_gates(rng):
  d, k, h = 3, 2, 4
  draw = lambda *shape: rng.normal(size=shape)
  weights = (draw(k, d * d + 1, h), draw(k, h, d * d))
  biases, gates = (draw(k, h), draw(k, d * d)), draw(k)
  params = generators.GatedParams(
    *jax.tree.map(jnp.asarray, (gates, weights, biases))
  )
  w, t = orthogonal(rng, d), 0.3
  expected = np.zeros((d, d))
  for i in range(k):
    inputs = np.append(np.asarray(w).ravel() / np.sqrt(d), t)
    hidden = np.tanh(inputs @ weights[0][i] + biases[0][i])
    f = (hidden @ weights[1][i] + biases[1][i]).reshape(d, d)
    expected += gates[i] * (f - f.T)
  found = jax.jit(generators.skew_gated(params))(jnp.asarray(t), w)
  np.testing.assert_allclose(found, expected, atol=1e-12)


@pytest.mark.parametrize(
  ('n_steps', 'time', 'd'),
  [
    *((10, 1.0, 16), (1000, 1.0, 1), (50, 4.0, 4)),
    *marks.slow((10, 1.0, 1), (10, 1.0, 4), (1000, 1.0, 4), (1000, 1.0, 16)),
    *marks.slow((50, 4.0, 1), (50, 4.0, 16)),
  ],
)
def test_gradients_stay_in_the_band(rng, d, n_steps, time):
  q, n, w0 = problem(rng, d)
  flow = integrate(w0, generators.skew_iso(q, n), n_steps=n_steps, time=time)
  x0, c = (jnp.asarray(rng.normal(size=(8, d))) for _ in range(2))

  @jax.jit
  def gradients(matrices):
    loss = lambda nudges: jnp.sum(
      c * flows.states(x0, matrices, time=time, nudges=nudges)[-1]
    )
    return jax.grad(loss)(jnp.zeros((n_steps + 1, 8, d)))

  def ratios(matrices):
    norms = np.linalg.norm(gradients(matrices), axis=-1)
    left = np.arange(n_steps, -1, -1)[:, None]
    low = max(1 - time / n_steps, 0) ** left
    high = (1 + time / n_steps) ** left
    return norms / norms[-1] / low, norms / norms[-1] / high

  above, below = ratios(flow.matrices)
  assert above.min() > 1 - 1e-9
  assert below.max() < 1 + 1e-9
  if d == 16 and time > 1:
    free = jnp.asarray(rng.normal(size=(d, d))) * 2 / np.sqrt(d)
    _, outside = ratios(jnp.broadcast_to(free, flow.matrices.shape))
    assert outside.max() > 1


def test_ends_of_the_band_are_attained():
  matrices = jnp.ones((25, 1, 1))
  end = jax.vmap(jax.grad(lambda x: flows.main_flow(x, matrices)[0]))(
    jnp.array([[1.0], [-1.0]])
  )
  low, high = flows.gradient_band(25)
  np.testing.assert_allclose(end[:, 0], [high, low], rtol=1e-12)
  assert (low, high) == pytest.approx((0.36040, 2.66584), abs=1e-5)


def test_states_of_the_modulus(rng):
  matrices = jnp.stack([orthogonal(rng, 6) for _ in range(10)])
  x0 = jnp.asarray(rng.normal(size=(4, 6)))
  x = flows.states(x0, matrices)
  assert np.diff(x, axis=0).min() >= 0
  norm = lambda x: np.linalg.norm(x, axis=-1)
  assert (norm(x[-1]) <= norm(x0) * 1.1**10).all()
  flow = jax.jit(flows.main_flow)
  np.testing.assert_allclose(flow(3 * x0, matrices), 3 * x[-1], rtol=1e-12)
  naive = np.asarray(x0)
  for w in np.asarray(matrices):
    naive = naive + 0.1 * np.abs(naive @ w.T)
  np.testing.assert_allclose(x[-1], naive, rtol=1e-12)
  # Each fact needs the modulus, no bias, and matrices that keep lengths.
  assert np.diff(flows.states(x0, matrices, f=jnp.sin), axis=0).min() < 0
  biased = lambda x: flow(x, matrices, bias=jnp.ones(6))
  assert np.abs(biased(3 * x0) - 3 * biased(x0)).max() > 1e-3
  assert (norm(flow(x0, 3 * matrices)) > norm(x0) * 1.1**10).any()


def test_backpropagation_is_that_of_finite_differences(rng):
  q, n, w0 = problem(rng, 4)
  x0 = jnp.asarray(rng.normal(size=(3, 4)))

  @functools.partial(jax.jit, static_argnums=1)
  @jax.value_and_grad
  def loss(arguments, remat):
    q, n, w0 = arguments
    flow = integrate(w0, generators.skew_iso(q, n), n_steps=5, remat=remat)
    x = flows.main_flow(x0, flow.matrices, f=jnp.sin, remat=remat)
    return jnp.sum(x**2)

  at = q, n, w0
  _, slopes = loss(at, True)
  for i, slope in enumerate(slopes):
    away = 1e-6 * rng.normal(size=(4, 4))
    up, down = (
      loss((*at[:i], at[i] + move, *at[i + 1 :]), True)[0]
      for move in (away, -away)
    )
    np.testing.assert_allclose(
      (up - down) / 2e-6, np.sum(slope * away) / 1e-6, rtol=1e-5, atol=1e-8
    )
  for one, two in zip(slopes, loss(at, False)[1], strict=True):
    np.testing.assert_allclose(one, two, rtol=1e-10, atol=1e-14)


def still(run=flows.matrix_flow, **settings):
  """A flow of the identity that does not move."""
  settings = {'w0': jnp.eye(2), 'n_steps': 3} | settings
  return run(generator=lambda t, w: jnp.zeros_like(w), **settings)


test_bad_settings_are_named = refusals.settings(
  still,
  ({'n_steps': 0}, 'n_steps'),
  ({'order': 3}, 'order'),
  ({'time': -1.0}, 'time'),
  ({'clean_every': -1}, 'clean_every'),
)
test_settings_of_the_wrong_type_are_named = refusals.settings(
  functools.partial(still, inspect.unwrap(flows.matrix_flow)),
  ({'n_steps': True}, 'n_steps must be a whole number'),
  ({'time': np.nan}, 'time must be finite'),
  ({'retraction': 'cayley'}, 'retraction must be a function'),
)
test_shapes_that_do_not_fit_are_named = refusals.table(
  (lambda: still(w0=jnp.ones((2, 3))), 'square'),
  (lambda: flows.main_flow(jnp.ones((2, 3)), jnp.ones((5, 4, 4))), 'matrices'),
  (lambda: flows.main_step(3, jnp.eye(3)[None], bias=jnp.ones(4)), 'bias'),
)


def test_generators_take_plain_times_and_many_matrices(rng):
  q, n, _ = problem(rng, 3)
  ws = jnp.stack([orthogonal(rng, 3) for _ in range(3)])
  b = inspect.unwrap(generators.skew_iso)(q, n)
  found = b(0.0, ws)
  for w, one in zip(ws, found, strict=True):
    np.testing.assert_allclose(b(0.0, w), one, atol=1e-12)
  zeros = (jnp.zeros((2, 10, 9)),)
  gated = generators.skew_gated(
    generators.GatedParams(jnp.ones(2), zeros, (jnp.ones((2, 9)),))
  )
  assert gated(0.5, ws[0]).shape == (3, 3)
  with pytest.raises(ValueError, match='w must be'):
    gated(0.5, jnp.eye(4))
  with pytest.raises(ValueError, match='one shape'):
    inspect.unwrap(generators.skew_iso)(q, jnp.eye(4))


def test_states_of_whole_numbers_are_refused(rng):
  """W in integers would be 0 and the flow would stand still."""
  matrices = orthogonal(rng, 3)[None]
  for function in map(inspect.unwrap, (flows.main_flow, flows.states)):
    for x0 in (jnp.ones(3, int), jnp.ones(3, bool), jnp.ones(())):
      with pytest.raises(ValueError, match='states must be floats'):
        function(x0, matrices)
