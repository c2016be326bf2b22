"""Random matrices: unbiased, orthogonal, independent, keyed by the step."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from performer import attention
from performer.attention.kernels import projections
from tests import seeds

D = 8
DRAWS = 10_000
# 'iid' and 'rorf' are exact; the others mix signs or angles, a little too few.
EXACT = ('iid', 'rorf')
DIRECTIONS = {
  '+e1': np.eye(D)[0],
  '-e1': -np.eye(D)[0],
  '+ones': np.ones(D) / math.sqrt(D),
  '-ones': -np.ones(D) / math.sqrt(D),
}


def z_score(samples, expected):
  samples = np.asarray(samples, np.float64)
  return (samples.mean() - expected) / (samples.std() / len(samples) ** 0.5)


def estimates(matrices, z):
  """exp(omega . z) averaged over each matrix; its mean is that of SM+."""
  return np.exp(np.asarray(matrices, np.float64) @ z).mean(-1)


@functools.lru_cache
def draws(*, ortho, norm):
  keys = jax.random.split(seeds.key(1), DRAWS)

  def draw(key):
    w = projections.draw(key, D, D, ortho=ortho, norm=norm)
    return projections.matrix(w, D)

  return jax.jit(jax.vmap(draw))(keys)


@pytest.mark.parametrize('ortho', EXACT)
def test_chi_rows_are_unbiased_in_every_direction(ortho):
  matrices = draws(ortho=ortho, norm='chi')
  for name, direction in DIRECTIONS.items():
    z = 1.2 * direction  # A bias of 5 % is seen by eight standard errors.
    samples, expected = estimates(matrices, z), math.exp(z @ z / 2)
    score = z_score(samples, expected)
    assert abs(score) < 4, f'{ortho} {name}: z-score {score:.1f}'
    planted = z_score(1.05 * samples, expected)
    assert abs(planted) > 4, f'no power: {planted:.1f}'


def test_raw_qr_fails_the_same_check():
  def raw(key):
    key_q, key_n = jax.random.split(key)
    q = jnp.linalg.qr(jax.random.normal(key_q, (D, D)))[0]
    return (
      q * jnp.linalg.norm(jax.random.normal(key_n, (D, D)), axis=-1)[:, None]
    )

  matrices = jax.vmap(raw)(jax.random.split(seeds.key(1), DRAWS))
  scores = {
    name: z_score(estimates(matrices, 1.4 * z), math.exp(0.98))
    for name, z in DIRECTIONS.items()
  }
  assert max(map(abs, scores.values())) > 10, scores


@pytest.mark.parametrize('ortho', EXACT)
def test_sqrt_d_rows_meet_the_closed_form(ortho):
  """E exp(omega . z) = 0F1(; d/2; d |z|^2 / 4), arXiv:2009.14794, Eq. 29."""
  matrices = draws(ortho=ortho, norm='sqrt_d')
  norms = np.linalg.norm(np.asarray(matrices), axis=-1)
  np.testing.assert_allclose(norms, math.sqrt(D), rtol=1e-5)
  z = 1.4 * DIRECTIONS['+e1']
  x, term, expected = D * (z @ z) / 4, 1.0, 1.0
  for n in range(40):
    term *= x / ((n + 1) * (D / 2 + n))
    expected += term
  samples = estimates(matrices, z)
  assert abs(z_score(samples, expected)) < 4
  # The softmax kernel itself is larger: the test can tell them apart.
  assert abs(z_score(samples, math.exp(z @ z / 2))) > 4


def test_blocks_are_orthogonal_and_differ():
  w = projections.draw(seeds.key(3), 3 * D - 3, D, ortho='rorf', norm='sqrt_d')
  blocks = [w[:D], w[D : 2 * D], w[2 * D :]]
  for block in blocks:
    np.testing.assert_allclose(
      block @ block.T, D * np.eye(len(block)), atol=1e-4
    )
  assert np.abs(blocks[0] @ blocks[1].T).max() > 1


def test_signs_of_blocks_are_fair():
  """Raw QR gives the first entry the same sign in every draw."""
  first = np.asarray(draws(ortho='rorf', norm='chi'))[:, 0, 0] > 0
  assert abs(first.mean() - 0.5) < 4 * 0.5 / DRAWS**0.5
  normal = jax.random.normal(seeds.key(4), (100, D, D))
  raw = np.asarray(jnp.linalg.qr(normal)[0])[:, 0, 0] > 0
  assert raw.mean() in (0.0, 1.0)


def test_norms_are_chi_and_independent_of_directions():
  w = np.asarray(draws(ortho='rorf', norm='chi'), np.float64)
  squared = (w**2).sum(-1)
  assert abs(z_score(squared.ravel(), D)) < 4
  assert abs(squared.var() / (2 * D) - 1) < 0.05
  cosine = w[..., 0] / np.sqrt(squared)
  assert abs(np.corrcoef(squared.ravel(), cosine.ravel())[0, 1]) < 0.015


@pytest.mark.parametrize(
  ('options', 'rule'),
  [
    ({'ortho': 'orf', 'norm': 'chi'}, "unknown ortho 'orf'.*rorf"),
    ({'ortho': 'iid', 'norm': 'sqrt'}, "unknown norm 'sqrt'.*sqrt_d"),
    ({'ortho': 'iid', 'norm': 'chi', 'rows': 0}, 'rows=0'),
  ],
)
def test_errors_name_the_value(options, rule):
  rows = options.pop('rows', D)
  with pytest.raises(ValueError, match=rule):
    projections.draw(seeds.key(0), rows, D, **options)


def matrix(favor, layer, step, seed=0):
  return favor.draw(
    seeds.key(seed), layer=layer, step=step, num_heads=2, head_dim=D
  )


def test_draws_depend_on_layer_and_epoch_alone():
  favor = attention.Favor(features=2 * D, redraw_every=10)
  base = matrix(favor, 0, 0)
  assert base.shape == (D, D)
  assert base.dtype == jnp.float32
  np.testing.assert_array_equal(base, matrix(favor, 0, 9))
  norms = jnp.linalg.norm(base, axis=-1)
  for other in (
    matrix(favor, 1, 0),
    matrix(favor, 0, 10),
    matrix(favor, 0, 0, seed=1),
  ):
    assert np.abs(base - other).max() > 0.1
    assert np.abs(norms - jnp.linalg.norm(other, axis=-1)).max() > 0.01
  frozen = attention.Favor(features=2 * D, redraw_every=None)
  np.testing.assert_array_equal(matrix(frozen, 3, 0), matrix(frozen, 3, 10**6))


def test_draw_is_traceable_over_layers_and_steps():
  favor = attention.Favor(features=2 * D, redraw_every=10)

  @jax.jit
  def redraw(step, previous):
    return jax.lax.cond(
      step % 10 == 0,
      lambda: jax.vmap(lambda i: matrix(favor, i, step))(jnp.arange(3)),
      lambda: previous,
    )

  stack = redraw(20, jnp.zeros((3, D, D)))
  for layer in range(3):
    np.testing.assert_allclose(
      stack[layer], matrix(favor, layer, 29), atol=1e-5
    )
  np.testing.assert_array_equal(redraw(21, stack), stack)


def test_seed_from_data_saturates():
  """The published seed, int32(sum * 1e7), is the same for realistic batches."""
  sums = jnp.asarray([300.0, 400.0])
  seeds = (sums * 1e7).astype(jnp.int32)
  assert seeds[0] == seeds[1]


def test_per_head_matrices_differ():
  favor = attention.Favor(features=2 * D, per_head=True)
  w = matrix(favor, 0, 0)
  assert w.shape == (2, D, D)
  assert np.abs(w[0] - w[1]).max() > 0.1


@pytest.mark.parametrize('width', [1, 16, 17])
def test_exponents_of_narrow_and_wide_heads_match_float64(width):
  """Half norms of narrow heads are products, those of wide ones sums."""
  rng = seeds.rng(3)
  w, x = rng.normal(size=(6, width)), rng.normal(size=(1, 2, 5, width))
  given = jnp.asarray(w, jnp.float32), jnp.asarray(x, jnp.float32)
  z = x * width**-0.25
  products, half_norms = projections.exponents(*given)
  np.testing.assert_allclose(products, z @ w.T, rtol=1e-4, atol=1e-5)
  np.testing.assert_allclose(half_norms, (z**2).sum(-1) / 2, rtol=1e-5)
  slope = jax.grad(lambda x: projections.exponents(given[0], x)[1].sum())
  found = slope(given[1])
  np.testing.assert_allclose(found, x * width**-0.5, rtol=1e-5, atol=1e-7)
