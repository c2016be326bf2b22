"""A given xi takes the place of the draw, for one task and for batches."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hpo import ufom
from tests import marks
from tests.hpo.ufom import ufom_cases as cases

INNER = ufom.Inner(r=3, alpha=0.2, mode='store_phi')


@functools.partial(jax.jit, static_argnames='q')
def one(theta, task, xi, *, q):
  return ufom.ufom_grad(cases.PROBLEM, theta, task, None, q, INNER, xi=xi)


def test_both_values_average_to_the_exact_gradient():
  theta, task = cases.data(21, np.float32)
  exact = jax.jit(lambda: ufom.exact_grad(cases.PROBLEM, theta, task, 3, 0.2))()
  for q in (0.3, 1):
    skipped, added = (one(theta, task, xi, q=q) for xi in (False, True))
    assert (bool(skipped.xi), bool(added.xi)) == (False, True)
    mean = q * cases.flat(added.grad) + (1 - q) * cases.flat(skipped.grad)
    assert cases.apart(mean, exact.grad) < 1e-5
    assert cases.apart(skipped.grad, exact.first_order) < 1e-5


@pytest.mark.parametrize('dispatch', ['map', 'shared', *marks.slow('gather')])
def test_a_batch_takes_what_was_given(dispatch):
  theta, tasks = cases.data(22, np.float32, batch=2)
  run = jax.jit(
    lambda xi: ufom.ufom_batch(
      cases.PROBLEM, theta, tasks, None, 0.3, INNER, dispatch=dispatch, xi=xi
    )
  )
  given = np.array(True if dispatch == 'shared' else [False, True])
  found = run(given)
  xis = np.broadcast_to(given, 2)
  np.testing.assert_array_equal(found.xi, xis)
  each = [
    cases.flat(one(theta, jax.tree.map(lambda x: x[i], tasks), xi, q=0.3).grad)  # noqa: B023
    for i, xi in enumerate(xis)
  ]
  assert cases.apart(found.grad, np.mean(each, axis=0)) < 1e-5


def test_what_does_not_fit_is_refused():
  theta, tasks = cases.data(23, np.float32, batch=2)
  task = jax.tree.map(lambda x: x[0], tasks)
  with pytest.raises(ValueError, match='give a key or xi'):
    ufom.ufom_grad(cases.PROBLEM, theta, task, None, 0.5, INNER)
  with pytest.raises(ValueError, match=r'q > 0.*got q=0'):
    ufom.ufom_grad(cases.PROBLEM, theta, task, None, 0, INNER, xi=True)
  for dispatch, xi in (('map', True), ('shared', jnp.ones(2, bool))):
    with pytest.raises(ValueError, match='xi must have shape'):
      ufom.ufom_batch(
        cases.PROBLEM, theta, tasks, None, 0.5, INNER, dispatch=dispatch, xi=xi
      )
