"""Exact gradients: all modes against the unrolled map, memory, edge cases."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from hpo import ufom
from hpo.ufom import problem as problem_lib
from tests.hpo.ufom import ufom_cases as cases

R = 5
RATES = np.linspace(0.2, 0.05, R)


def _noise(j):
  return jax.random.uniform(jax.random.key(j), (6,), jnp.float32)


# Dropout of the inner loss, from the step alone.
STEPPED = dataclasses.replace(
  cases.PROBLEM,
  inner_loss=lambda theta, phi, task, j: cases.PROBLEM.inner_loss(
    theta, phi, task | {'y': task['y'] * _noise(j)}
  ),
  stepped=True,
)
ADAM = optax.adam(0.1)


def modes(problem, theta, task, r, alpha, names=ufom.MODES, **options):
  """Gradients of several modes, in one program."""

  @jax.jit
  def run(theta, task):
    return {
      mode: ufom.exact_grad(
        problem, theta, task, r, alpha, mode=mode, **options
      )
      for mode in names
    }

  return run(theta, task)


@pytest.mark.parametrize(
  ('problem', 'alpha'),
  [
    pytest.param(cases.PROBLEM, RATES, marks=pytest.mark.slow),
    (STEPPED, optax.linear_schedule(0.2, 0.05, R - 1)),
  ],
  ids=['array', 'schedule, stepped'],
)
def test_modes_agree_with_the_unrolled_map(problem, alpha):
  with jax.enable_x64(True):
    theta, task = cases.data(0)
    value, grad = jax.jit(
      jax.value_and_grad(
        lambda theta: cases.unrolled(problem, theta, task, RATES)
      )
    )(theta)
    first = jax.jit(
      lambda theta, task: ufom.fom_grad(problem, theta, task, R, alpha)
    )(theta, task)
    for mode, found in modes(problem, theta, task, R, alpha).items():
      assert cases.apart(found.grad, grad) < 1e-10, mode
      np.testing.assert_allclose(found.value, value, rtol=1e-12)
      assert cases.apart(found.first_order, first.grad) < 1e-12, mode
      assert cases.apart(found.phi, first.phi) < 1e-12
    # The task is one where the bias is large.
    assert cases.apart(first.grad, grad) > 1e-3
  theta, task = cases.data(0, np.float32)
  names = ufom.MODES if problem is cases.PROBLEM else ('store_phi', 'sqrt')
  for mode, found in modes(problem, theta, task, R, alpha, names).items():
    assert found.grad['init'].dtype == jnp.float32
    assert cases.apart(found.grad, grad) < 1e-5, mode


def test_reversed_products_are_the_same():
  with jax.enable_x64(True):
    theta, task = cases.data(1)
    run = functools.partial(
      modes, cases.PROBLEM, theta, task, R, RATES, ('store_phi',)
    )
    one, two = run(), run(products='reverse')
    assert cases.apart(one['store_phi'].grad, two['store_phi'].grad) < 1e-12


def test_an_inner_optimiser():
  with jax.enable_x64(True):
    theta, task = cases.data(2)

    def unrolled(theta):
      phi = cases.PROBLEM.V(theta, task)
      state = ADAM.init(phi)
      for _ in range(R):
        slope = jax.grad(cases.PROBLEM.inner_loss, argnums=1)(theta, phi, task)
        updates, state = ADAM.update(slope, state, phi)
        phi = optax.apply_updates(phi, updates)
      return cases.PROBLEM.outer_loss(theta, phi, task)

    grad = jax.jit(jax.grad(unrolled))(theta)
    names = ('store_phi', 'recompute')
    run = modes(cases.PROBLEM, theta, task, R, ADAM, names)
    for mode, found in run.items():
      assert cases.apart(found.grad, grad) < 1e-10, mode
  with pytest.raises(ValueError, match='plain gradient descent'):
    problem_lib.rate_of(ADAM, R)


def linear_problem():
  """Inner loss linear in phi, without theta."""
  return ufom.ABLOProblem(
    V=lambda theta, task: theta['init'],
    inner_loss=lambda theta, phi, task: phi @ task['x'][0],
    outer_loss=lambda theta, phi, task: jnp.sum(jnp.sin(phi)),
  )


@pytest.mark.parametrize(
  ('problem', 'r', 'alpha'),
  [
    (cases.PROBLEM, 0, 0.1),
    pytest.param(cases.PROBLEM, 5, 0.0, marks=pytest.mark.slow),
    (linear_problem(), 5, 0.1),
  ],
  ids=['no steps', 'no rate', 'linear'],
)
def test_where_first_order_is_exact(problem, r, alpha):
  theta, task = cases.data(3, np.float32)
  for mode, found in modes(problem, theta, task, r, alpha).items():
    assert cases.apart(found.grad, found.first_order) < 1e-6, mode


def test_pure_hyperparameters_have_no_first_order_gradient():
  problem = ufom.ABLOProblem(
    V=lambda theta, task: {'w': jnp.zeros(3), 'c': jnp.zeros(1)},
    inner_loss=cases.PROBLEM.inner_loss,
    outer_loss=lambda theta, phi, task: jnp.sum(phi['w'] ** 2),
  )
  theta, task = cases.data(4, np.float32)
  found = ufom.exact_grad(problem, theta, task, 4, 0.1)
  assert not cases.flat(found.first_order).any()
  assert abs(found.grad['decay']) > 0


def test_clipping_bounds_what_is_pulled_back():
  theta, task = cases.data(5, np.float32)
  names = ('store_phi', 'sqrt', 'recompute')
  run = functools.partial(modes, cases.PROBLEM, theta, task, R, 0.1)
  tight = run(names, clip_backward=0.01)
  free = run(('sqrt',), clip_backward=1e6)['sqrt']
  for mode in names[1:]:
    assert cases.apart(tight[mode].grad, tight['store_phi'].grad) < 1e-6
    assert cases.apart(tight[mode].grad, free.grad) > 1e-2
  assert cases.apart(free.grad, run(('store',))['store'].grad) < 1e-6
  with pytest.raises(ValueError, match='store'):
    run(names, clip_backward=0.0)


def temporary_bytes(gradient, r):
  """What the compiler plans for a two-layer network of 5,248 parameters."""
  problem = ufom.ABLOProblem(
    V=lambda theta, task: theta,
    inner_loss=lambda theta, phi, task: _network_loss(phi, task),
    outer_loss=lambda theta, phi, task: _network_loss(phi, task),
  )
  shape = lambda *s: jax.ShapeDtypeStruct(s, jnp.float32)
  theta = {'in': shape(32, 64), 'mid': shape(64, 50)}
  compiled = (
    jax.jit(lambda theta, x: gradient(problem, theta, x, r, 0.1).grad)
    .lower(theta, shape(16, 32))
    .compile()
  )
  return compiled.memory_analysis().temp_size_in_bytes


def _network_loss(phi, x):
  return jnp.mean((jnp.tanh(x @ phi['in']) @ phi['mid'] - 1) ** 2)


def exact(mode):
  return functools.partial(ufom.exact_grad, mode=mode)


@pytest.mark.parametrize('gradient', [ufom.fom_grad, exact('recompute')])
def test_memory_is_flat(gradient):
  few, many = (temporary_bytes(gradient, r) for r in (8, 512))
  assert abs(many / few - 1) < 0.1, (few, many)


@pytest.mark.parametrize('mode', ['store', 'store_phi'])
def test_memory_is_linear(mode):
  at = {r: temporary_bytes(exact(mode), r) for r in (32, 128, 512)}
  size = 4 * (32 * 64 + 64 * 50)
  slope = (at[512] - at[128]) / 384
  assert (at[128] - at[32]) / 96 == pytest.approx(slope, rel=0.05)
  if mode == 'store_phi':  # The parameters of a step, once.
    assert slope == pytest.approx(size, rel=0.05)
  else:
    assert slope > 1.2 * size


def test_memory_grows_like_the_root():
  at = {r: temporary_bytes(exact('sqrt'), r) for r in (64, 1024)}
  size = 4 * (32 * 64 + 64 * 50)
  assert at[1024] - at[64] < 1.2 * size * 2 * (32 - 8)


def test_what_does_not_fit_is_refused():
  theta, task = cases.data(6, np.float32)
  run = functools.partial(ufom.exact_grad, cases.PROBLEM)
  with pytest.raises(ValueError, match='at least 0'):
    run(theta, task, -1, 0.1)
  with pytest.raises(ValueError, match='one per step'):
    run(theta, task, 3, np.ones(4))
  with pytest.raises(ValueError, match=r'theta.*bias.*int32'):
    run(theta | {'bias': jnp.arange(1)}, task, 3, 0.1)
  vector = dataclasses.replace(
    cases.PROBLEM, outer_loss=lambda theta, phi, task: phi['w']
  )
  with pytest.raises(ValueError, match=r'outer_loss.*\(3,\)'):
    ufom.exact_grad(vector, theta, task, 3, 0.1)
