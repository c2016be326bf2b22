"""Hadamard and Givens blocks: orthogonal, fast, nearly unbiased; as pytrees."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg

from performer import attention
from performer.attention.analysis import theory
from performer.attention.kernels import projections, structures
from tests import marks, seeds
from tests.performer.attention import attention_cases as cases
from tests.performer.attention import attention_twin as twin
from tests.performer.models import model_cases

SHAPES = ((1, 3), (2, 5), (5, 12), (16, 40))  # (d, rows)

matrix = jax.jit(projections.matrix, static_argnums=1)


def matrices(draw, count, *, batch=1000):
  """[count, rows, d] independent float64 matrices."""
  keys = jax.random.split(seeds.key(5), count)
  run = jax.jit(lambda keys: jax.lax.map(draw, keys, batch_size=batch))
  return np.asarray(run(keys), np.float64)


def drawn(ortho, d, *, norm='chi'):
  def draw(key):
    w = projections.draw(key, d, d, ortho=ortho, norm=norm)
    return projections.matrix(w, d)

  return draw


def biases(w, length=1.4):
  """Relative bias of softmax_pos along the axes and the diagonals, and errors.

  All axes are averaged, as are both signs: no construction prefers one.
  """
  d = w.shape[-1]
  result = {}
  for name, u in (('axes', np.eye(d)), ('ones', np.ones((1, d)) / d**0.5)):
    z = length * np.concatenate([u, -u])
    ratio = np.exp(w @ z.T - length**2 / 2).mean((1, 2))
    result[name] = (ratio.mean() - 1, ratio.std() / len(w) ** 0.5)
  return result


@pytest.mark.parametrize(
  ('ortho', 'd', 'rows'),
  [
    *(('horf', 1, 3), ('horf', 5, 12), ('rorf', 5, 12), ('gorf', 16, 40)),
    *marks.slow(('horf', 2, 5), ('horf', 16, 40)),
    *marks.slow(*(('rorf', *shape) for shape in SHAPES if shape != (5, 12))),
    *marks.slow(*(('gorf', *shape) for shape in SHAPES[:-1])),
  ],
)
def test_blocks_are_orthogonal_and_differ(ortho, d, rows):
  norm = 'sqrt_d'
  draw = functools.partial(
    projections.draw, rows=rows, size=d, ortho=ortho, norm=norm
  )
  w = jax.jit(draw)(seeds.key(3))
  p = w.signs.shape[-1] if ortho == 'horf' else d
  # In its padded width a Hadamard block is orthogonal.
  dense = np.asarray(matrix(w, p))
  assert dense.shape == (rows, p)
  for start in range(0, rows, p):
    block = dense[start : start + p]
    np.testing.assert_allclose(
      block @ block.T, p * np.eye(len(block)), atol=1e-4 * p
    )
  if d > 2:
    one, two = w.signs[:2] if ortho == 'horf' else (dense[0], dense[p])
    assert np.abs(one - two).max() > 0.1


def test_pairs_with_replacement_are_not_orthogonal():
  """What rotations become when both indices are drawn independently."""
  rng, d, bad = seeds.rng(0), 16, 0
  for _ in range(50):
    q = np.eye(d)
    for _ in range(d * math.ceil(math.log(d))):
      i, j = rng.integers(0, d, 2)
      angle = rng.uniform(0, 2 * math.pi)
      g = np.eye(d)
      g[i, i] = g[j, j] = math.cos(angle)
      g[i, j], g[j, i] = -math.sin(angle), math.sin(angle)
      q = g @ q
    bad += np.abs(q @ q.T - np.eye(d)).max() > 1e-3
  assert bad > 40
  good = matrices(lambda k: projections.givens(k, d), 50)
  errors = np.abs(good @ good.swapaxes(1, 2) - np.eye(d)).max((1, 2))
  assert errors.max() < 1e-5


@pytest.mark.slow  # Thousands of matrices.
@pytest.mark.parametrize('ortho', ['horf', 'gorf'])
def test_bias_is_small_and_falls_with_the_width(ortho):
  small, large = (
    biases(matrices(drawn(ortho, d), n)) for d, n in ((4, 20_000), (32, 3000))
  )
  for name in ('axes', 'ones'):
    bias, error = small[name]
    assert abs(bias) < 0.06 + 4 * error, (d_name(4, name), bias, error)
    bias, error = large[name]
    assert abs(bias) < 0.03 + 4 * error, (d_name(32, name), bias, error)
    # The bound is narrower than a planted bias.
    assert 2 * error < 0.05 - 0.03
  if ortho == 'horf':
    assert abs(small['ones'][0]) > abs(large['ones'][0])


def d_name(d, name):
  return f'{d=} {name}'


@pytest.mark.slow  # Thousands of matrices.
def test_exact_matrices_pass_the_same_check_more_narrowly():
  for bias, error in biases(matrices(drawn('rorf', 4), 20_000)).values():
    assert abs(bias) < 4 * error
    assert abs(1.05 * (1 + bias) - 1) > 4 * error, 'no power'


@pytest.mark.slow  # Thousands of matrices.
def test_the_published_recipes_are_too_short():
  """One sweep of rotations, or one pair of signs and Hadamard, is biased."""

  def one_sweep(key):
    key_q, key_n = jax.random.split(key)
    norms = jnp.linalg.norm(jax.random.normal(key_n, (16, 16)), axis=-1)
    return projections.givens(key_q, 16, sweeps=1) * norms[:, None]

  bias, error = biases(matrices(one_sweep, 5000))['axes']
  assert bias - 4 * error > 0.1
  bias, error = biases(matrices(drawn('gorf', 16), 5000))['axes']
  assert abs(bias) < 0.05

  def one_factor(key):
    w = projections.draw(key, 8, 8, ortho='horf', norm='chi')
    signs = jax.random.rademacher(key, (8,), jnp.float32)
    h = projections.hadamard_transform(jnp.eye(8))
    return h * signs * w.norms[:, None]

  bias, error = biases(matrices(one_factor, 20_000))['axes']
  assert abs(bias) - 4 * error > 0.05
  bias, error = biases(matrices(drawn('horf', 8), 20_000))['axes']
  assert abs(bias) < 0.03


@pytest.mark.slow  # Thousands of matrices.
@pytest.mark.parametrize('ortho', ['rorf', 'horf', 'gorf'])
def test_orthogonal_rows_beat_independent_ones(ortho):
  """By the gap of arXiv:2009.14794, Theorem 2, for m = d."""
  d, length = 8, 0.9
  z = np.asarray(twin.normal(2, d), np.float64)
  z *= length / np.linalg.norm(z)
  w = matrices(drawn(ortho, d), 20_000)
  squares = (np.exp(w @ z - z @ z / 2).mean(1) - 1) ** 2
  error = squares.std() / len(w) ** 0.5
  iid = math.expm1(z @ z) / d
  gain = theory.orthogonal_gain(jnp.float32(z @ z), rows=d, size=d)
  assert squares.mean() < iid - gain + 4 * error
  assert iid - squares.mean() > 4 * error, (iid, squares.mean(), error)


def test_transform_is_the_walsh_hadamard_matrix():
  x = np.asarray(twin.normal(1, 3, 16), np.float64)
  ours = jax.jit(projections.hadamard_transform)(x.astype(np.float32))
  np.testing.assert_allclose(
    ours, x @ scipy.linalg.hadamard(16) / 4, rtol=1e-5, atol=1e-5
  )
  with pytest.raises(ValueError, match='power of two, got width=12'):
    projections.hadamard_transform(jnp.ones(12))


@pytest.mark.parametrize('per_head', [*marks.slow(False), True])
def test_transform_and_matrix_give_the_same(monkeypatch, per_head):
  """And the same gradients, in the layout of either."""
  favor = cases.favor(ortho='horf', per_head=per_head, features=2 * 20)
  q, k, v = twin.inputs(2, d=6)
  w = cases.projection(favor, d=6)
  x = q.transpose(0, 2, 1, 3)
  dense = matrix(w, 6)
  assert dense.shape == ((2, 20, 6) if per_head else (20, 6))
  truth = np.asarray(x, np.float64) @ np.swapaxes(
    np.asarray(dense, np.float64), -1, -2
  )

  def found():
    def loss(q, k, v):
      out = favor(q, k, v, projection=w, causal=False)
      return jnp.sin(out).sum()

    def both(*arrays):
      return projections.project(w, x), jax.grad(loss, (0, 1, 2))(*arrays)

    projected, slopes = jax.jit(both)(q, k, v)
    np.testing.assert_allclose(projected, truth, atol=1e-5)
    return slopes

  slow = found()
  monkeypatch.setattr(projections, 'TRANSFORM_WIDTH', 1)
  for one, two in zip(found(), slow, strict=True):
    assert np.abs(one).max() > 1e-3
    np.testing.assert_allclose(one, two, atol=2e-5)


def test_factors_need_less_memory_than_the_matrix():
  w = projections.draw(seeds.key(0), 256, 64, ortho='horf', norm='chi')
  assert sum(leaf.size for leaf in w) == 4 * 256


def test_norms_are_those_of_the_padded_width():
  w = projections.draw(seeds.key(0), 4000, 5, ortho='horf', norm='chi')
  squared = np.asarray(projections.squared_norms(w))
  assert abs(squared.mean() - 8) < 4 * (16 / 4000) ** 0.5
  # So that each row, cut to d, is N(0, I).
  dense = np.asarray(matrix(w, 5))
  np.testing.assert_allclose((dense**2).mean(0), 1, atol=0.12)


@pytest.mark.parametrize(
  ('kernel', 'options'),
  [
    pytest.param(
      'softmax_hyp', {'ortho': 'horf', 'per_head': True}, marks=pytest.mark.slow
    ),
    ('softmax_angular', {'mix_shared': False, 'ortho': 'horf'}),
  ],
)
def test_pytrees_go_through_the_model_and_redraw(kernel, options):
  """Drawn for all layers at once, sliced by the scan over layers."""
  favor = cases.favor(kernel, redraw_every=10, **options)
  model = model_cases.small(favor, vocab_size=7, max_length=9, d_ff=8)
  draw = jax.jit(functools.partial(model.draw_projections, seeds.key(1)))
  stacks = [draw(step) for step in (0, 9, 10)]
  leaves = [jax.tree.leaves(stack) for stack in stacks]
  assert all(leaf.shape[0] == 2 for leaf in leaves[0])
  moved = []
  for first, same, other in zip(*leaves, strict=True):
    np.testing.assert_array_equal(first, same)
    moved.append(bool(np.any(first != other)))
  assert any(moved)
  tokens = jnp.asarray([[1, 2, 3, 4, 5, 6, 1, 2, 3]])
  mask = jnp.ones((1, 9), bool)

  def run(params, projections):
    return model.apply(
      {'params': params}, tokens, mask=mask, projections=projections
    )

  params, _ = model_cases.init(model)
  run = jax.jit(run)
  one, two = (run(params, stack) for stack in (stacks[0], stacks[2]))
  assert np.isfinite(one).all()
  assert np.abs(one - two).max() > 1e-5


@pytest.mark.parametrize(
  ('w', 'message'),
  [
    (
      structures.Hadamard(jnp.ones((1, 3, 4)), jnp.ones(8)),
      r'got \(\(1, 3, 4\), \(8,\)\)',
    ),
    (
      structures.Hadamard(jnp.ones((3, 1, 3, 8)), jnp.ones((3, 8))),
      r'\(2, 1, 3, 8\).*got \(\(3, 1, 3, 8\)',
    ),
    (
      structures.General(jnp.ones((8, 8)), jnp.ones(8)),
      'a matrix or its Hadamard factors, got a General',
    ),
  ],
)
def test_misshapen_factors(w, message):
  q, k, v = twin.inputs(1)
  favor = attention.Favor(features=16)
  with pytest.raises(ValueError, match=message):
    favor(q, k, v, projection=w, causal=False)
