"""Feature maps: unbiased kernels, published variances, every function."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from performer.attention.kernels import projections, table
from tests import seeds
from tests.performer.attention import attention_twin as twin

D = 8
DRAWS = 10_000
# The others, whose maps need more than a matrix, are in test_estimators.
SOFTMAX = [name for name, kernel in table.KERNELS.items() if kernel.published]
OTHERS = [name for name, k in table.KERNELS.items() if not k.softmax]


@functools.lru_cache
def matrices(ortho, norm):
  """All rows of DRAWS independent matrices, [DRAWS * D, D]."""
  keys = jax.random.split(seeds.key(7), DRAWS)
  draw = jax.vmap(lambda k: projections.draw(k, D, D, ortho=ortho, norm=norm))
  return jax.jit(draw)(keys).reshape(-1, D)


def estimate(name, x, y, *, ortho):
  """phi(x) . phi(y) over independent draws; x, y already scaled."""
  kernel = table.get(name)
  w = matrices(ortho, kernel.norm)
  pair = jnp.stack([x, y])[None, None] * D**0.25
  values, weight = kernel.featurize(pair, w)
  values = np.asarray(values, np.float64)[0, 0]
  weight = np.asarray(weight, np.float64)[0, 0].sum()
  if kernel.log:
    product = np.exp(values.sum(0) + weight)
  else:
    product = values.prod(0) * math.exp(weight)
  product = product.reshape(kernel.copies, DRAWS, D).sum((0, 2))
  return kernel.scale(kernel.copies * D) * product


def expected(name, x, y):
  if table.get(name).norm == 'chi':
    return math.exp(x @ y)
  z2 = float((x + y) @ (x + y))
  series, term = 1.0, 1.0
  for n in range(60):
    term *= D * z2 / 4 / ((n + 1) * (D / 2 + n))
    series += term
  return math.exp(-(x @ x + y @ y) / 2) * series


@pytest.mark.parametrize('name', SOFTMAX)
def test_softmax_kernels_are_unbiased(name):
  e1, ones = np.eye(D)[0], np.ones(D) / math.sqrt(D)
  pairs = [(s * 0.7 * u, s * 0.7 * u) for u in (e1, ones) for s in (1, -1)]
  for x, y in [*pairs, (0.7 * e1, 0.7 * ones)]:
    samples = estimate(name, x, y, ortho='rorf')
    truth = expected(name, x, y)
    error = samples.std() / DRAWS**0.5
    score = (samples.mean() - truth) / error
    # Where the estimator is exact, rounding is all there is.
    assert abs(samples.mean() - truth) < 4 * error + 1e-5, f'{name} {score:.1f}'
    if error > 1e-5:
      assert abs(1.05 * samples.mean() - truth) > 4 * error, 'no power'


@pytest.mark.parametrize('name', ['softmax_pos', 'softmax_hyp', 'softmax_trig'])
def test_variance_is_that_of_lemma_2(name):
  """arXiv:2009.14794, Lemma 2, with m independent rows."""
  x, y = np.zeros(D), np.zeros(D)
  # Short, as the fourth moments grow exponentially: 0.08 is over 4 errors.
  x[0], y[:2] = 0.35, (0.15, 0.25)
  plus, minus = (x + y) @ (x + y), (x - y) @ (x - y)
  sm = math.exp(x @ y)
  mse = math.exp(plus) * sm**2 * (1 - math.exp(-plus)) / D
  if name == 'softmax_hyp':
    mse *= (1 - math.exp(-plus)) / 2
  if name == 'softmax_trig':
    mse = math.exp(plus) / sm**2 * (1 - math.exp(-minus)) ** 2 / 2 / D
  measured = estimate(name, x, y, ortho='iid').var()
  assert abs(measured / mse - 1) < 0.08, f'{measured=:.4f} {mse=:.4f}'


@pytest.mark.parametrize('name', OTHERS)
@pytest.mark.parametrize('project', [True, False])
def test_generalised_kernels_are_the_functions(name, project):
  q, k, _ = twin.inputs(11, l=5)
  w = twin.normal(12, 12, 8) if project else None
  kernel = dataclasses.replace(table.get(name), kernel_epsilon=0.1)
  phi = []
  for x in (q, k):
    values, weight = kernel.featurize(x.transpose(0, 2, 1, 3), w)
    assert weight is None
    phi.append(jnp.exp(values) if kernel.log else values)
  matrix = phi[0] @ phi[1].swapaxes(-1, -2)
  log, sign = twin.kernel_matrix(
    *twin.double(q, k, w), kernel=name, epsilon=0.1
  )
  np.testing.assert_allclose(matrix, sign * np.exp(log), rtol=2e-4, atol=1e-4)


@pytest.mark.parametrize('name', [n for n in OTHERS if n != 'exp'])
def test_signed_kernels_are_marked(name):
  kernel = table.get(name)
  u = jnp.linspace(-4, 4, 101)[None, None, :, None]
  values, _ = kernel.featurize(u, None)
  assert kernel.signed == bool((values < 0).any())


def test_unknown_kernel_names_the_nearest():
  with pytest.raises(ValueError, match=r"'softmax_poss'.*'softmax_pos'"):
    table.get('softmax_poss')
