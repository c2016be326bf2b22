"""What must hold exactly, and what must not: controls that have to fail.

Where `test_flows` and `test_manifolds` have the fact, here is its control.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg

from rl.odetoode import flows, generators, geometry, manifolds, retractions
from tests import seeds

EXP, EULER = retractions.Exp(), retractions.Euler()


@pytest.fixture(autouse=True)
def _float64():
  with jax.enable_x64(True):
    yield


@pytest.fixture
def rng():
  return seeds.rng(0)


def orthogonal(rng, d):
  return jnp.asarray(np.linalg.qr(rng.normal(size=(d, d)))[0])


def problem(rng, d):
  q, n = (rng.normal(size=(d, d)) / np.sqrt(d) for _ in range(2))
  return jnp.asarray(q), jnp.asarray(n), orthogonal(rng, d)


def moved(w0, b, **kwargs):
  kwargs = {'n_steps': 20, 'retraction': EXP} | kwargs
  return jax.jit(lambda w0: flows.matrix_flow(w0, b, **kwargs).last)(w0)


def test_euler_changes_the_determinant(rng):
  q, n, w0 = problem(rng, 8)
  b = generators.skew_iso(q, n)
  determinant = lambda **k: np.linalg.det(moved(w0, b, **k)) / np.linalg.det(w0)
  assert determinant() == pytest.approx(1, abs=1e-12)
  assert determinant(retraction=EULER) > 1.01


def test_one_step_of_a_constant_is_exact_by_the_exponential_only(rng):
  b = retractions.skew(jnp.asarray(rng.normal(size=(5, 5))))
  w0 = orthogonal(rng, 5)
  exact = w0 @ scipy.linalg.expm(np.asarray(b))
  error = lambda u: np.abs(
    moved(w0, lambda t, w: b, n_steps=1, retraction=u) - exact
  ).max()
  assert error(EXP) < 1e-12
  assert min(error(u) for u in (EULER, retractions.Cayley())) > 1e-3


def test_a_product_on_the_left_is_no_double_bracket_flow(rng):
  """W' = B W is W' = W (W^T B W): H stays undone where it must be diagonal."""
  n = jnp.diag(jnp.arange(1.0, 5))
  options = {
    'n_steps': 2000,
    'time': 20.0,
    'retraction': retractions.Taylor(10),
  }

  @jax.jit
  def shares(w0, q):
    """What is left off the diagonal by the flow and by the wrong one."""
    right = generators.skew_iso(q, n)
    left = lambda t, w: w.T @ right(t, w) @ w
    ends = [w0, moved(w0, right, **options), moved(w0, left, **options)]
    off = jnp.array([jnp.abs(_off(w.T @ q @ w)).max() for w in ends])
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


def _off(h):
  return h - jnp.diag(jnp.diag(h))


def test_closed_form_of_the_bracket_in_the_plane():
  q = jnp.array([[0.0, 1.0], [1.0, 0.0]])
  n = jnp.diag(jnp.array([1.0, 0.0]))
  time = 0.7
  tanh, sech = np.tanh(2 * time), 1 / np.cosh(2 * time)
  exact = np.array([[tanh, sech], [sech, -tanh]])

  def error(retraction, order):
    w = moved(
      jnp.eye(2), generators.skew_iso(q, n),
      n_steps=40, time=time, retraction=retraction, order=order,
    )  # fmt: skip
    return np.abs(w.T @ q @ w - exact).max()

  assert error(EXP, 4) < 1e-7
  assert error(EULER, 1) > 1e-2


def test_equivariance_needs_all_parts(rng):
  q, n, w0 = problem(rng, 5)
  p = orthogonal(rng, 5)
  last = moved(w0, generators.skew_iso(q, n))
  both = moved(w0 @ p, generators.skew_iso(q, p.T @ n @ p))
  half = moved(w0 @ p, generators.skew_iso(q, n))
  np.testing.assert_allclose(both, last @ p, atol=1e-12)
  assert np.abs(half - last @ p).max() > 1e-3


def test_facts_of_the_modulus_need_the_modulus(rng):
  matrices = jnp.stack([orthogonal(rng, 6) for _ in range(10)])
  x0 = jnp.asarray(rng.normal(size=(16, 6)))
  bias = jnp.asarray(rng.normal(size=6))

  def falls(**kwargs):
    run = jax.jit(lambda x: flows.states(x, matrices, **kwargs))
    return np.diff(run(x0), axis=0).min()

  assert falls() >= 0
  assert falls(f=jnp.sin) < 0

  def homogeneity(**kwargs):
    run = jax.jit(lambda x: flows.main_flow(x, matrices, **kwargs))
    return np.abs(run(3 * x0) - 3 * run(x0)).max()

  assert homogeneity() < 1e-12
  assert homogeneity(bias=bias) > 1e-3
  norm = lambda x: np.linalg.norm(x, axis=-1)
  flow = jax.jit(flows.main_flow)
  growth = lambda w: (norm(flow(x0, w)) / norm(x0)).max()
  assert growth(matrices) <= 1.1**10
  assert growth(3 * matrices) > 1.1**10


def test_thousand_updates_of_a_strategy_stay_on_the_manifold(rng):
  """Added as if free, the same updates leave it at once."""
  key = jax.random.key(int(rng.integers(1 << 30)))
  draw = lambda key: (manifolds.stiefel(key, (5, 2)), manifolds.haar(key, 4))
  p, w0 = (x.astype(jnp.float32) for x in jax.jit(draw)(key))
  params = {'c': jnp.zeros(2), 'p': p, 'w0': w0}
  where = geometry.Manifold.of(params, {'w0': 'orthogonal', 'p': 'stiefel'})
  start = jnp.concatenate([x.reshape(-1) for x in jax.tree.leaves(params)])
  size = where.size(start.size)

  def update(theta, key):
    noise = jax.random.normal(key, (size,), jnp.float32)
    return where.step(theta, 0.1 * noise), None

  keys = jax.random.split(key, 1000)
  theta, _ = jax.jit(lambda t: jax.lax.scan(update, t, keys))(start)
  found = geometry.unflatten(params, theta)
  defect = jax.jit(manifolds.orthogonality_defect)
  for name in ('p', 'w0'):
    assert defect(found[name]) < 2e-6
    assert np.abs(found[name] - params[name]).max() > 0.1
  added = params['w0'] + 0.1 * jax.random.normal(key, (4, 4))
  assert defect(added) > 1e-2
