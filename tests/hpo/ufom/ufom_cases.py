"""A small bi-level problem of every kind of dependence, and its definition."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from hpo import ufom
from tests import seeds


def _start(theta, task):
  return {'w': jnp.tanh(theta['init']) * task['scale'], 'c': theta['bias']}


def _predict(phi, x):
  return jnp.tanh(x @ phi['w']) + phi['c']


def _inner(theta, phi, task):
  error = _predict(phi, task['x']) - task['y']
  decay = sum(jnp.sum(jnp.exp(theta['decay']) * p**2) for p in phi.values())
  return jnp.mean(error**2) + 0.1 * decay


def _outer(theta, phi, task):
  error = _predict(phi, task['x_out']) - task['y_out']
  return jnp.mean(error**2) + 0.05 * jnp.sum(theta['bias'] ** 2)


# V, both losses depend on theta; theta and phi differ in structure.
PROBLEM = ufom.ABLOProblem(_start, _inner, _outer)


def data(seed, dtype=np.float64, *, batch=None):
  """Theta, and a task or a batch of them."""
  rng = seeds.rng(seed)
  lead = () if batch is None else (batch,)
  draw = lambda *shape: rng.normal(size=shape).astype(dtype)
  theta = {'init': draw(3), 'bias': draw(1), 'decay': draw()}
  task = {
    'x': draw(*lead, 6, 3),
    'y': draw(*lead, 6),
    'x_out': draw(*lead, 4, 3),
    'y_out': draw(*lead, 4),
    'scale': draw(*lead),
  }
  as_jax = lambda tree: jax.tree.map(jnp.asarray, tree)
  return as_jax(theta), as_jax(task)


def unrolled(problem, theta, task, rates):
  """M_r by definition, in a Python loop."""
  phi = problem.V(theta, task)
  for j, rate in enumerate(rates):
    slope = jax.grad(problem.inner, argnums=1)(theta, phi, task, j)
    phi = jax.tree.map(lambda x, d: x - rate * d, phi, slope)  # noqa: B023
  return problem.outer_loss(theta, phi, task)


def flat(tree):
  """All leaves in one float64 vector."""
  return np.concatenate(
    [np.ravel(np.asarray(x, np.float64)) for x in jax.tree.leaves(tree)]
  )


def apart(one, two):
  """Relative distance of two trees."""
  one, two = flat(one), flat(two)
  return np.linalg.norm(one - two) / max(np.linalg.norm(two), 1e-30)


@jax.custom_jvp
def poisoned(x):
  """x^2 whose second derivatives are NaN."""
  return x**2


@jax.custom_jvp
def _poisoned_slope(x):
  return 2 * x


@poisoned.defjvp
def _(primals, tangents):
  (x,), (t,) = primals, tangents
  return poisoned(x), _poisoned_slope(x) * t


@_poisoned_slope.defjvp
def _(primals, tangents):
  return _poisoned_slope(*primals), tangents[0] * jnp.nan


POISONED = dataclasses.replace(
  PROBLEM,
  inner_loss=lambda theta, phi, task: (
    _inner(theta, phi, task) + jnp.sum(poisoned(phi['w']))
  ),
)
