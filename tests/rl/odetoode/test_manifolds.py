"""Retractions, orthogonal parameters and what moves them."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.linalg

from rl.odetoode import manifolds, retractions, trivialization
from tests import marks, seeds

# Compiled as a whole: one operation after the other takes far longer.
haar = jax.jit(manifolds.haar, static_argnums=1)
stiefel = jax.jit(manifolds.stiefel, static_argnums=1)
riemannian_update = jax.jit(manifolds.riemannian_update)
stiefel_update = jax.jit(manifolds.stiefel_update)
defect = jax.jit(manifolds.orthogonality_defect)
newton_schulz = jax.jit(retractions.newton_schulz)
retract = jax.jit(retractions.retract, static_argnums=1)

SERIES = [
  (retractions.Taylor(8), scipy.linalg.expm, 1e-8),
  (retractions.Taylor(3), scipy.linalg.expm, 5e-3),
  (retractions.Taylor(8, squarings=6), scipy.linalg.expm, 1e-12),
  (retractions.Guarded(), scipy.linalg.expm, 1e-8),
  (
    retractions.CayleyNeumann(8),
    lambda x: np.linalg.solve(np.eye(len(x)) - x / 2, np.eye(len(x)) + x / 2),
    1e-5,
  ),
]


@pytest.fixture
def rng():
  return seeds.rng(0)


def skew(rng, d, norm):
  x = rng.normal(size=(d, d))
  x = x - x.T
  return x * norm / np.abs(x).sum(axis=0).max()


@pytest.mark.parametrize(('series', 'exact', 'bound'), SERIES)
def test_series_are_their_limits(rng, series, exact, bound):
  x = skew(rng, 7, 0.5)
  with jax.enable_x64(True):
    compiled = jax.jit(series)
    found = compiled(jnp.asarray(x))
    batched = compiled(jnp.stack([jnp.asarray(x), jnp.asarray(-x)]))
  error = np.abs(found - exact(x)).max()
  assert error < bound
  if series == retractions.Taylor(3):
    assert error > 1e-6
  np.testing.assert_allclose(batched[0], found, rtol=1e-12)


@pytest.mark.parametrize('form', [retractions.Exp(), retractions.Cayley()])
def test_inverse_differential(rng, form):
  """Of a curve X(s): the logarithmic derivative of U(X) gives back X'."""
  with jax.enable_x64(True):
    x, slope = (jnp.asarray(skew(rng, 5, norm)) for norm in (0.1, 1.0))

    @jax.jit
    def there_and_back(x, slope):
      u, du = jax.jvp(form, (x,), (slope,))
      return form.inverse_differential(x, u.T @ du)

    found = there_and_back(x, slope)
  bound = 1e-12 if form == retractions.Cayley() else 1e-6
  np.testing.assert_allclose(found, slope, atol=bound)


def test_guard_takes_the_exact_form_only_beyond_its_limit(rng):
  guarded = retractions.Guarded(
    retractions.Taylor(2), retractions.Exp(), limit=0.5
  )
  small, large = (
    jnp.asarray(skew(rng, 5, norm), jnp.float32) for norm in (0.4, 3.0)
  )
  exact, one = retractions.Exp(), jax.jit(guarded)
  series = jax.jit(retractions.Taylor(2))
  np.testing.assert_array_equal(one(small), series(small))
  both = jnp.stack([small, large])

  def values_and_slopes(form):
    def loss(x):
      value = form(x)
      return jnp.sum(value**3), value

    slopes, found = jax.jit(jax.vmap(jax.grad(loss, has_aux=True)))(both)
    return found, slopes

  found, slopes = values_and_slopes(guarded)
  expected, steep = values_and_slopes(exact)
  np.testing.assert_allclose(one(large), expected[1], atol=1e-6)
  np.testing.assert_allclose(found, expected, atol=1e-6)
  np.testing.assert_allclose(slopes, steep, rtol=1e-3, atol=1e-4)
  # One comparison for all: no branch is computed in vain.
  text = str(jax.make_jaxpr(jax.vmap(guarded))(both))
  assert 'cond[' in text


def test_large_steps_by_default(rng):
  """Squaring alone would leave the group by more than 1e-5."""
  x = skew(rng, 24, 30.0)
  u = retract(jnp.asarray(x, jnp.float32))
  np.testing.assert_allclose(u, scipy.linalg.expm(x), atol=1e-4)
  assert defect(u) < 2e-6


def test_retractions_by_name(rng):
  x = jnp.asarray(skew(rng, 4, 0.3), jnp.float32)
  for name, bound in (('exp', 1e-6), ('cayley', 1e-2), ('euler', 0.1)):
    found = retract(x, name)
    np.testing.assert_allclose(found, scipy.linalg.expm(x), atol=bound)
  with pytest.raises(ValueError, match='method'):
    retract(x, 'log')


def test_draws_are_uniform_on_their_manifolds():
  keys = jax.random.split(seeds.key(3), 64)
  for shape in ((4, 4), (6, 3), (3, 6)):
    draws = jnp.stack([stiefel(key, shape) for key in keys])
    assert defect(draws).max() < 1e-5
    # Raw QR has a sign of its own: the first entries would be all negative.
    assert 16 < (draws[:, 0, 0] > 0).sum() < 48
    if shape == (4, 4):
      assert 16 < (jnp.linalg.det(draws) > 0).sum() < 48


@pytest.mark.parametrize('shape', [*marks.slow(((7, 3),)), (3, 7), (4, 4)])
def test_stiefel_moves(rng, shape):
  with jax.enable_x64(True):
    p = stiefel(jax.random.key(rng.integers(1 << 30)), shape)
    p = newton_schulz(p if shape[0] >= shape[1] else p.T)
    p = p if shape[0] >= shape[1] else p.T
    g = jnp.asarray(rng.normal(size=shape))
    gradient = jax.jit(manifolds.stiefel_gradient)
    delta = gradient(p, g)
    move = jax.jit(lambda s: manifolds.move_stiefel(p, s * delta))
    slope = jax.jvp(move, (0.0,), (1.0,))[1]
    np.testing.assert_allclose(slope, delta, atol=1e-10)
    assert defect(move(1.0)) < 1e-12
    # A projection, and orthogonal to every tangent.
    again = gradient(p, delta)
    np.testing.assert_allclose(again, delta, atol=1e-10)
    other = manifolds.stiefel_noise(p, jnp.asarray(rng.normal(size=shape)))
    assert abs(jnp.sum((g - delta) * other)) < 1e-10
    if shape == (4, 4):
      omega = manifolds.riemannian_gradient(p, g)
      np.testing.assert_allclose(delta, p @ omega, atol=1e-10)
      direct = riemannian_update(p, g, 0.1)
      curved = stiefel_update(p, g, 0.1)
      np.testing.assert_allclose(direct, curved, atol=1e-3)


def test_phi(rng):
  with jax.enable_x64(True):
    m = jnp.asarray(rng.normal(size=(5, 5)))
    found = m @ retractions.phi(m) + jnp.eye(5)
  np.testing.assert_allclose(found, scipy.linalg.expm(np.asarray(m)), rtol=1e-9)


def test_coordinates(rng):
  z = jnp.asarray(rng.normal(size=(2, 6)), jnp.float32)
  x = np.asarray(jax.jit(manifolds.from_coordinates, static_argnums=1)(z, 4))
  np.testing.assert_array_equal(x, -np.swapaxes(x, 1, 2))
  np.testing.assert_array_equal(x[1][np.triu_indices(4, 1)], z[1])


def test_thousand_updates_stay_on_the_manifold(rng):
  w = haar(seeds.key(1), 6)
  p = stiefel(seeds.key(2), (8, 3))
  target = jnp.asarray(rng.normal(size=(6, 6)), jnp.float32)

  def step(points, key):
    w, p = points
    noise = jax.random.normal(key, p.shape)
    w = riemannian_update(w, -target + w @ target.T, 0.1)
    return (w, stiefel_update(p, noise, 0.1)), None

  keys = jax.random.split(seeds.key(0), 1000)
  (w, p), _ = jax.jit(lambda x: jax.lax.scan(step, x, keys))((w, p))
  assert defect(w) < 2e-6
  assert defect(p) < 2e-6


def test_trivialised_descent_is_riemannian_descent(rng):
  w = haar(seeds.key(5), 4)
  params = {'flow': {'w0': w}, 'free': jnp.ones(3)}
  g = jnp.asarray(rng.normal(size=(4, 4)), jnp.float32)
  optimizer = trivialization.trivialize(optax.sgd(0.1))
  gradients = {'flow': {'w0': g}, 'free': jnp.full(3, 2.0)}

  @jax.jit
  def step(params, state):
    updates, _ = optimizer.update(gradients, state, params)
    return optax.apply_updates(params, updates)

  new = step(params, optimizer.init(params))
  expected = riemannian_update(w, g, 0.1)
  np.testing.assert_allclose(new['flow']['w0'], expected, atol=1e-6)
  np.testing.assert_allclose(new['free'], 0.8, rtol=1e-6)


@pytest.mark.parametrize('every', [1, 7])
def test_trivialised_adam_finds_the_nearest_rotation(every):
  """min |W - A|^2 over O(d) is the polar factor, by the SVD."""
  d = 4
  w0 = haar(seeds.key(8), d)
  x = seeds.rng(9).normal(size=(d, d))
  turn = scipy.linalg.expm(0.7 * (x - x.T) / 2)
  a = np.float32(np.asarray(w0) @ turn * np.linspace(0.5, 1.5, d))
  optimizer = trivialization.trivialize(optax.adam(0.03), every=every)
  params = {'w0': w0}

  def step(carry, _):
    params, state = carry
    gradients = jax.grad(lambda p: jnp.sum((p['w0'] - a) ** 2))(params)
    updates, state = optimizer.update(gradients, state, params)
    return (optax.apply_updates(params, updates), state), None

  carry = (params, optimizer.init(params))
  (params, _), _ = jax.jit(lambda c: jax.lax.scan(step, c, None, length=400))(
    carry
  )
  u, _, v = np.linalg.svd(a)
  np.testing.assert_allclose(params['w0'], u @ v, atol=2e-3)
  assert defect(params['w0']) < 2e-6


def test_state_and_parameters_can_be_donated_together():
  params = {'w0': haar(seeds.key(1), 3)}
  optimizer = trivialization.trivialize(optax.sgd(0.1))

  def step(params, state):
    updates, state = optimizer.update(params, state, params)
    return optax.apply_updates(params, updates), state

  step = jax.jit(step, donate_argnums=(0, 1))
  params, _ = step(params, optimizer.init(params))
  assert jnp.isfinite(params['w0']).all()


def test_bad_settings_are_named():
  with pytest.raises(ValueError, match='order'):
    retractions.Taylor(0)
  with pytest.raises(ValueError, match='squarings'):
    retractions.Taylor(squarings=-1)
  with pytest.raises(ValueError, match='limit'):
    retractions.Guarded(limit=0.0)
  with pytest.raises(ValueError, match='own exact form'):
    retractions.Guarded(retractions.Taylor(), retractions.Cayley())
  with pytest.raises(ValueError, match='every'):
    trivialization.trivialize(optax.sgd(1.0), every=0)


@pytest.mark.parametrize('method', [*retractions.METHODS])
def test_half_precision_and_no_matrices(rng, method):
  x = rng.normal(size=(3, 4, 4)).astype(np.float32)
  x = (x - x.swapaxes(1, 2)) / 16
  found = retract(x.astype(jnp.bfloat16), method)
  assert found.dtype == jnp.bfloat16
  np.testing.assert_allclose(
    found.astype(x.dtype), retract(x, method), atol=0.03
  )
  assert jax.eval_shape(lambda: retract(x[:0], method)).shape == (0, 4, 4)
  form = retractions.METHODS[method]
  call = inspect.unwrap(type(form).__call__)
  for wrong in (jnp.ones((2, 3)), jnp.ones(3), jnp.ones((2, 2), int)):
    with pytest.raises(ValueError, match='square matrices of floats'):
      call(form, wrong)


@pytest.mark.parametrize('length', [100.0, 1e4])
def test_no_step_is_too_long_for_the_manifold(rng, length):
  x = rng.normal(size=(5, 5)).astype(np.float32)
  x = (x - x.T) / 2 * length
  assert defect(retract(x)) < 1e-3
  w = jax.jit(manifolds.move_orthogonal)(np.eye(5, dtype=np.float32), x)
  assert defect(w) < 1e-5
  p = stiefel(seeds.key(0), (6, 3))
  moved = stiefel_update(p, length * jnp.ones((6, 3)), 1.0)
  assert defect(moved) < 1e-5


def test_updates_of_many_matrices(rng):
  """As many as rows, where a transpose of all axes would go unnoticed."""
  for update, columns in (
    (manifolds.riemannian_update, 3),
    (manifolds.stiefel_update, 2),
  ):
    keys = jax.random.split(seeds.key(1), 3)
    ps = jnp.stack([stiefel(key, (3, columns)) for key in keys])
    gs = jnp.asarray(rng.normal(size=ps.shape), ps.dtype)
    found = jax.jit(inspect.unwrap(update))(ps, gs, 0.1)
    one_by_one = jax.jit(update)
    for p, g, one in zip(ps, gs, found, strict=True):
      np.testing.assert_allclose(one_by_one(p, g, 0.1), one, atol=1e-5)


def test_shapes_that_do_not_fit_are_named():
  riemannian = inspect.unwrap(manifolds.riemannian_gradient)
  stiefel = inspect.unwrap(manifolds.stiefel_noise)
  for call, word in (
    (lambda: riemannian(jnp.ones((3, 2)), jnp.ones((3, 2))), 'square'),
    (lambda: riemannian(jnp.eye(3), jnp.ones((3, 2))), 'one shape'),
    (lambda: stiefel(jnp.eye(3), jnp.ones(3)), 'one shape'),
    (lambda: manifolds.haar(seeds.key(0), 0), 'd must be positive'),
    (lambda: manifolds.stiefel(seeds.key(0), (-1, 2)), 'shape must be'),
    (lambda: manifolds.from_coordinates(jnp.ones(1), 3), 'z must be'),
  ):
    with pytest.raises(ValueError, match=word):
      call()


def test_starts_off_the_manifold_are_refused():
  optimizer = trivialization.trivialize(optax.sgd(0.1))
  for start in (jnp.ones((2, 3)), 2 * jnp.eye(3), jnp.eye(3) * jnp.nan):
    with pytest.raises(ValueError, match=r"\['w0'\] must be"):
      optimizer.init({'w0': start})
  # A parameter without a name is free.
  assert optimizer.init(jnp.ones(3)).bases == (None,)
