"""UFOM is unbiased, skips what xi = 0 does not need, dispatches alike."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hpo import ufom
from hpo.ufom import batches, estimator
from runtime.devices import mesh as mesh_lib
from tests import marks, seeds
from tests.hpo.ufom import ufom_cases as cases

INNER = ufom.Inner(r=3, alpha=0.2, mode='store_phi')
# So many that a draw of probability 0.05 is among them.
KEYS = jax.random.split(seeds.key(7), 400)


def key_with(xi, q):
  """A key that draws this xi."""
  return next(k for k in KEYS if bool(estimator.draw(k, q)) == xi)


@pytest.fixture(scope='module')
def one():
  """Theta, a task, and its three gradients in float64."""
  with jax.enable_x64(True):
    theta, task = cases.data(11)
    found = jax.jit(lambda t, x: INNER.exact(cases.PROBLEM, t, x))(theta, task)
    return theta, task, jax.device_get(found)


def test_enumeration(one):
  theta, task, exact = one
  with jax.enable_x64(True):
    draw = jax.jit(
      lambda key, q: ufom.ufom_grad(cases.PROBLEM, theta, task, key, q, INNER)
    )
    gap = cases.flat(exact.grad) - cases.flat(exact.first_order)
    for q in (0.05, 0.3, 0.9):
      found = {xi: draw(key_with(xi, q), q) for xi in (True, False)}
      grads = {xi: cases.flat(found[xi].grad) for xi in found}
      mean = q * grads[True] + (1 - q) * grads[False]
      np.testing.assert_allclose(mean, cases.flat(exact.grad), rtol=1e-12)
      second = q * grads[True] @ grads[True]
      second += (1 - q) * grads[False] @ grads[False]
      whole = cases.flat(exact.grad) @ cases.flat(exact.grad)
      predicted = whole + (1 / q - 1) * gap @ gap
      np.testing.assert_allclose(second, predicted, rtol=1e-12)
      np.testing.assert_allclose(found[True].exact_norm2, whole, rtol=1e-12)
      np.testing.assert_allclose(found[True].gap_norm2, gap @ gap, rtol=1e-12)
      assert found[False].gap_norm2 == 0
    # Certain, though the program does not know it.
    assert cases.apart(draw(KEYS[0], 1.0).grad, exact.grad) < 1e-14
    assert cases.apart(draw(KEYS[0], 0.0).grad, exact.first_order) < 1e-14


@pytest.mark.parametrize('mode', ['recompute', *marks.slow(*ufom.MODES[:3])])
def test_nothing_of_second_order_runs_without_xi(mode):
  theta, task = cases.data(12, np.float32)
  inner = ufom.Inner(r=3, alpha=0.05, mode=mode)

  @jax.jit
  def run(key, q):
    return ufom.ufom_grad(cases.POISONED, theta, task, key, q, inner).grad

  skipped = run(key_with(False, 0.5), 0.5)
  assert np.isfinite(cases.flat(skipped)).all()
  assert np.isfinite(cases.flat(run(KEYS[0], 0.0))).all()
  # The poison is where the exact gradient passes.
  assert np.isnan(cases.flat(run(key_with(True, 0.5), 0.5))).any()


def batch(dispatch, theta, tasks, key, q, *, problem=cases.PROBLEM, mesh=None):
  return ufom.ufom_batch(
    problem, theta, tasks, key, q, INNER, dispatch=dispatch, mesh=mesh
  )


run = jax.jit(batch, static_argnums=0, static_argnames=('problem', 'mesh'))


@pytest.fixture(scope='module')
def many():
  """Theta, four tasks, their exact and first-order gradients."""
  theta, tasks = cases.data(13, np.float32, batch=4)
  found = jax.jit(jax.vmap(lambda x: INNER.exact(cases.PROBLEM, theta, x)))(
    tasks
  )
  stack = lambda trees: np.concatenate(
    [np.reshape(x, (4, -1)) for x in jax.tree.leaves(trees)], axis=1
  ).astype(np.float64)
  return theta, tasks, stack(found.grad), stack(found.first_order)


def expected(exact, first, xi, q):
  """The mean of G for draws, and the statistics of those with xi."""
  gap = exact - first
  grad = (first + xi[:, None] * gap / q).mean(0)
  if not xi.any():
    return grad, 0.0, 0.0
  return grad, (exact[xi] ** 2).sum(1).mean(), (gap[xi] ** 2).sum(1).mean()


@pytest.mark.parametrize('dispatch', ['gather', 'map', 'shared'])
def test_batches_dispatch_what_was_drawn(dispatch, many):
  theta, tasks, exact, first = many
  counts = set()
  for key, q in itertools.product(KEYS[:6], (0.1, 0.6)):
    found = run(dispatch, theta, tasks, key, q)
    xi = np.asarray(found.xi)
    counts.add(int(xi.sum()))
    grad, norm, gap = expected(exact, first, xi, np.float32(q))
    assert np.linalg.norm(cases.flat(found.grad) - grad) < 1e-4 * (
      np.linalg.norm(grad) + 1
    )
    np.testing.assert_allclose(found.exact_norm2, norm, rtol=1e-4)
    np.testing.assert_allclose(found.gap_norm2, gap, rtol=1e-3, atol=1e-6)
  assert len(counts) > 2 if dispatch != 'shared' else counts == {0, 4}
  certain = jax.jit(lambda *x: [batch(dispatch, *x, q) for q in (0, 1)])
  both = certain(theta, tasks, KEYS[0])
  for q, wanted, found in zip((0, 1), (first, exact), both, strict=True):
    np.testing.assert_allclose(
      cases.flat(found.grad), wanted.mean(0), rtol=1e-4, atol=1e-5
    )
    assert np.asarray(found.xi).all() == q


@pytest.mark.parametrize('dispatch', ['gather', *marks.slow('map')])
def test_padding_and_skipped_tasks_are_never_differentiated(dispatch):
  theta, tasks = cases.data(14, np.float32, batch=2)
  for key in KEYS[:4]:
    found = run(dispatch, theta, tasks, key, 0.3, problem=cases.POISONED)
    finite = np.isfinite(cases.flat(found.grad)).all()
    assert finite == (not np.asarray(found.xi).any())


def test_devices_share_a_batch(many):
  theta, tasks, _, _ = many
  mesh = mesh_lib.MeshConfig(data=2, fsdp=2).make(jax.devices()[:4])
  for key in KEYS:
    alone = run('map', theta, tasks, key, 0.3)
    if np.asarray(alone.xi).any():
      break
  placed = jax.device_put(tasks, mesh_lib.batch_sharding(mesh))
  for dispatch in ('map', 'gather'):
    found = run(dispatch, theta, placed, key, 0.3, mesh=mesh)
    np.testing.assert_array_equal(found.xi, alone.xi)
    assert np.asarray(found.xi).any()
    assert cases.apart(found.grad, alone.grad) < 1e-5
    np.testing.assert_allclose(found.gap_norm2, alone.gap_norm2, rtol=1e-4)
  with pytest.raises(ValueError, match='got 3 tasks for 4'):
    batch(
      'map', theta, jax.tree.map(lambda x: x[:3], tasks), key, 0.3, mesh=mesh
    )


def test_buckets_cover_every_count():
  for count in range(1, 40):
    sizes = batches._bucket_sizes(count)
    assert sizes[0] == 0
    assert sizes[-1] == count
    assert list(sizes) == sorted(set(sizes))
    assert all(b <= 2 * max(a, 1) for a, b in itertools.pairwise(sizes))


def test_draws_are_unbiased_over_many_tasks():
  """xi has mean q and tasks draw apart; a planted bias of 10 % is seen."""
  theta = jnp.zeros(1)
  problem = ufom.ABLOProblem(
    V=lambda theta, task: theta,
    inner_loss=lambda theta, phi, task: jnp.sum((phi - task) ** 2),
    outer_loss=lambda theta, phi, task: jnp.sum((phi - 1) ** 2),
  )
  draw = jax.jit(
    lambda tasks, key: (
      ufom.ufom_batch(
        problem,
        theta,
        tasks,
        key,
        0.1,
        ufom.Inner(1, 0.1, mode='store'),
        dispatch='map',
      ).xi
    )
  )
  keys = jax.random.split(seeds.key(3), 64)
  xi = np.concatenate([draw(jnp.zeros((1000, 1)), k) for k in keys])
  score = lambda mean: (xi.mean() - mean) / np.sqrt(0.09 / xi.size)
  assert abs(score(0.1)) < 4
  assert abs(score(0.1 * 1.1)) > 4
  pairs = (xi[:-1] & xi[1:]).mean()
  assert abs(pairs - 0.01) < 4 * np.sqrt(0.01 / xi.size)


def test_what_does_not_fit_is_refused():
  theta, tasks = cases.data(15, np.float32, batch=2)
  with pytest.raises(ValueError, match=r'\[0, 1\], got q=1.5'):
    ufom.ufom_grad(cases.PROBLEM, theta, tasks, KEYS[0], 1.5, INNER)
  with pytest.raises(ValueError, match='leading axis'):
    batch('map', theta, tasks | {'x': jnp.zeros((3, 6, 3))}, KEYS[0], 0.5)
