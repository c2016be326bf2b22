"""Rounding by dtype: orders and limits of series, and starts off the group."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg

from rl.odetoode import bodies, flows, generators, manifolds, retractions
from tests import marks

haar = jax.jit(manifolds.haar, static_argnums=1)
NEUMANN = retractions.Guarded(retractions.CayleyNeumann(), retractions.Cayley())


def cayley(x):
  return np.linalg.solve(np.eye(len(x)) - x / 2, np.eye(len(x)) + x / 2)


def skew(seed, d, norm):
  x = np.random.default_rng(seed).normal(size=(d, d))
  x = x - x.T
  return x * norm / np.abs(x).sum(axis=0).max()


@pytest.mark.parametrize(
  ('retraction', 'exact', 'norms'),
  [
    (retractions.Taylor(), scipy.linalg.expm, (0.1, 0.5)),
    (retractions.CayleyNeumann(), cayley, (0.1, 0.25)),
    (retractions.Guarded(), scipy.linalg.expm, (0.4, 0.5, 0.6, 20.0)),
    *marks.slow((NEUMANN, cayley, (0.2, 0.3, 0.5, 2.0))),
    (manifolds.MOVE, scipy.linalg.expm, (0.3, 20.0)),
  ],
)
def test_defaults_are_exact_to_their_dtype(retraction, exact, norms):

  @jax.jit
  def run(x):
    found = retraction(x)
    return found, manifolds.orthogonality_defect(found)

  for norm in norms:
    x = skew(0, 6, norm)
    with jax.enable_x64(True):
      wide, defect = run(jnp.asarray(x))
    assert wide.dtype == np.float64
    assert defect < 3e-15
    np.testing.assert_allclose(wide, exact(x), atol=2e-14)
    assert run(jnp.asarray(x, jnp.float32))[1] < 1e-6


@pytest.mark.parametrize('dtype', ['float32', 'float64'])
@pytest.mark.parametrize(
  'series',
  [
    *(retractions.Taylor(m) for m in (None, 1, 3, 20)),
    *(retractions.CayleyNeumann(m) for m in (None, 2, 5)),
  ],
)
def test_limits_keep_the_error_below_rounding(series, dtype):
  limit, rounding = series.limit(jnp.dtype(dtype)), np.finfo(dtype).eps / 2
  exact = scipy.linalg.expm
  if isinstance(series, retractions.CayleyNeumann):
    exact = cayley
  errors = []
  for norm in (limit, 8 * limit):
    x = norm * np.array([[0.0, -1.0], [1.0, 0.0]])
    with jax.enable_x64(True):
      found = np.asarray(series(jnp.asarray(x, dtype)))
    errors.append(np.abs(found - exact(x)).max())
  assert errors[0] < 4 * rounding < errors[1]


def test_float32_is_computed_as_before():
  x = jnp.asarray(skew(1, 5, 0.3), jnp.float32)
  text = lambda f: str(jax.make_jaxpr(f)(x))
  eight = retractions.Taylor(8), retractions.Taylor(8, squarings=6)
  assert text(retractions.Taylor()) == text(eight[0])
  assert text(retractions.CayleyNeumann()) == text(retractions.CayleyNeumann(8))
  assert text(retractions.Guarded()) == text(
    retractions.Guarded(*eight, limit=0.5)
  )


def test_the_default_flow_of_two_steps_stays_on_the_group_in_float64():
  rng = np.random.default_rng(2)
  with jax.enable_x64(True):
    q, n = (jnp.asarray(rng.normal(size=(8, 8)) / 8) for _ in 'qn')
    w0 = haar(jax.random.key(0), 8)

    @functools.partial(jax.jit, static_argnums=1)
    def run(w0, order):
      flow = flows.matrix_flow(
        w0, generators.skew_iso(q, n), n_steps=2, order=order
      )
      return flow.step_norm, manifolds.orthogonality_defect(flow.last)

    for order in (1, 2, 4):
      step, defect = run(w0, order)
      assert step > 0.1
      assert defect < 5e-15


def test_phi_and_long_moves_are_exact_in_float64():
  rng = np.random.default_rng(3)
  with jax.enable_x64(True):
    m = jnp.asarray(rng.normal(size=(5, 5)))
    m = 30 * m / retractions.one_norm(m)
    found = m @ retractions.phi(m)
    expected = scipy.linalg.expm(np.asarray(m)) - np.eye(5)
  np.testing.assert_allclose(
    found, expected, atol=1e-12 * np.abs(expected).max()
  )


def test_starts_off_the_group_are_refused():
  run = lambda w, **options: flows.matrix_flow(
    w, lambda t, w: jnp.zeros_like(w), n_steps=2, **options
  )
  w = haar(jax.random.key(1), 5)
  np.testing.assert_array_equal(run(w).last, w)
  nan = jnp.full((5, 5), jnp.nan)
  for start in (1.001 * w, w.at[0, 0].add(1e-4), nan, jnp.ones((5, 5))):
    with pytest.raises(ValueError, match='w0 must be orthogonal: its'):
      run(start)
  run(start, free=True)
  # Inside of jit the value of an argument is unknown, that of a constant is not.
  jax.jit(run)(start)
  with pytest.raises(ValueError, match='w0 must be orthogonal: its'):
    jax.jit(lambda: run(start))()
  with jax.enable_x64(True):
    rounded = jnp.asarray(np.asarray(w), jnp.float64)
    with pytest.raises(ValueError, match=r'for float64 \[5, 5\] is 1.1e-14'):
      run(rounded)
    run(retractions.newton_schulz(retractions.newton_schulz(rounded)))


@pytest.mark.parametrize('d', [1, 20, *marks.slow(3, 64, 200)])
def test_draws_are_orthogonal_to_the_limit_of_their_dtype(d):
  for wide in (False, True):
    with jax.enable_x64(wide):
      manifolds.check_orthogonal(w=haar(jax.random.key(2), d))


def test_only_the_ablation_starts_off_the_group():
  x = jnp.ones(3)
  for orthogonal in (True, False):
    body = bodies.ODEtoODE(3, n_steps=2, orthogonal=orthogonal)
    variables = jax.jit(body.init)(jax.random.key(0), x)
    name = 'w0' if orthogonal else 'w'
    variables['params'][name] = 2 * variables['params'][name]
    if orthogonal:
      with pytest.raises(ValueError, match='w0 must be orthogonal'):
        body.apply(variables, x)
    else:
      jax.jit(body.apply)(variables, x)
