"""Attention with optimal, general and hybrid features, end to end."""

import dataclasses
import functools
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from performer import attention
from performer.attention.kernels import oprf, structures
from performer.attention.sums import linear
from tests import seeds
from tests.performer.attention import attention_cases as cases
from tests.performer.attention import attention_twin as twin

OPRF = 'softmax_oprf'
GAUSSIAN = cases.favor('softmax_gaussian', mix_bandwidth=0.7, mix_shared=False)
ANGULAR = cases.favor('softmax_angular', per_head=True)
GENERAL = cases.favor('softmax_general')
CONSTANT = cases.favor(OPRF, oprf_mean_square=2.0)
MECHANISMS = {
  'gaussian': (GAUSSIAN, {'bandwidth': 0.7}),
  'angular': (ANGULAR, {}),
  'general': (GENERAL, {}),
  'oprf': (CONSTANT, {'square': 2.0}),
}


def projection(mechanism, transform=None):
  w = cases.projection(mechanism)
  if mechanism.kernel != 'softmax_general':
    return w
  if transform is None:
    transform = jnp.eye(8) + 0.2 * twin.normal(7, 8, 8)
  return w._replace(transform=transform)


def assert_close(ours, truth, tolerance=2e-4):
  """Where no signed denominator is nearly zero."""
  good = np.abs(truth).max(-1) < 10
  assert good.mean() > 0.8
  np.testing.assert_allclose(
    np.asarray(ours)[good], truth[good], atol=tolerance, rtol=tolerance
  )


@pytest.mark.parametrize(
  ('name', 'causal'),
  [*((name, False) for name in MECHANISMS), ('angular', True), ('oprf', True)],
)
def test_values(name, causal):
  favor, options = MECHANISMS[name]
  q, k, v = twin.inputs(1, scale=0.7)
  w, mask = projection(favor), twin.mask(2, 2, 21)
  if causal:
    out = cases.attend(favor, q, k, v, w, mask, causal=True)
  else:  # By the program of the gradients, below.
    out, _ = cases.value_and_grad(favor, q, k, v, w, mask, causal=False)
  truth = twin.value(
    q, k, v, w, mask, kernel=favor.kernel, causal=causal, **options
  )
  assert_close(out, truth)


@pytest.mark.parametrize('name', MECHANISMS)
def test_unnormalised_values_have_every_factor(name):
  favor, options = MECHANISMS[name]
  with warnings.catch_warnings():
    warnings.simplefilter('ignore', UserWarning)
    favor = dataclasses.replace(favor, renormalize=False)
  q, k, v = twin.inputs(8, scale=0.7)
  w = projection(favor)
  out = cases.attend(favor, q, k, v, w, causal=False)
  truth = twin.value(
    q, k, v, w, kernel=favor.kernel, causal=False, renormalize=False, **options
  )
  np.testing.assert_allclose(out, truth, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('shape', ['diagonal', 'per head', 'full per head'])
def test_every_shape_of_the_transform(shape):
  favor = cases.favor('softmax_general', per_head='head' in shape)
  transform = {
    'diagonal': 1.5 ** twin.normal(3, 8),
    'per head': 1.5 ** twin.normal(3, 2, 8),
    'full per head': jnp.eye(8) + 0.2 * twin.normal(3, 2, 8, 8),
  }[shape]
  w = projection(favor, transform)
  q, k, v = twin.inputs(4)
  out = cases.attend(favor, q, k, v, w, causal=False)
  truth = twin.value(q, k, v, w, kernel='softmax_general', causal=False)
  np.testing.assert_allclose(out, truth, atol=1e-5)


@pytest.mark.parametrize('name', MECHANISMS)
def test_gradients_are_finite_differences(name):
  """Along one direction for each argument, by central differences."""
  favor, _ = MECHANISMS[name]
  arrays = twin.inputs(3, scale=0.3)
  w, every = projection(favor), jnp.ones((2, 21), bool)
  _, grads = cases.value_and_grad(favor, *arrays, w, every, causal=False)

  def loss(*arrays):
    out, _ = cases.value_and_grad(favor, *arrays, w, every, causal=False)
    return np.sin(np.asarray(out, np.float64)).sum()

  for i, gradient in enumerate(grads):
    # Short: the sides of the angular hybrid must not change on the way.
    step = 1e-3 * np.asarray(gradient / jnp.linalg.norm(gradient))
    ends = [
      loss(*(x + s * step if j == i else x for j, x in enumerate(arrays)))
      for s in (10, -10)
    ]
    slope = (ends[0] - ends[1]) / 20e-3
    norm = float(jnp.linalg.norm(gradient))
    np.testing.assert_allclose(slope, norm, rtol=0.02, err_msg='qkv'[i])


@pytest.mark.slow
@pytest.mark.parametrize(
  ('name', 'causal'),
  [*((name, False) for name in MECHANISMS), ('angular', True), ('oprf', True)],
)
def test_nothing_overflows(name, causal):
  favor, _ = MECHANISMS[name]
  q, k, v = twin.inputs(5, scale=30.0)
  w, every = projection(favor), jnp.ones((2, 21), bool)
  out, grads = cases.value_and_grad(favor, q, k, v, w, every, causal=causal)
  for array in (out, *grads):
    assert np.isfinite(array).all()
  # The features themselves, without the factor that is kept apart, would.
  x = np.asarray(q) / 8**0.25
  assert (x**2).sum(-1).max() / 2 > np.log(np.finfo(np.float32).max)


def test_normalised_outputs_are_biased_and_less_so_with_more_features():
  # A ratio of two unbiased sums (arXiv:2204.04667).
  rng = seeds.rng(11)
  q, k, v = rng.normal(size=(3, 1, 6, 1, 4))
  q, k = (
    2**0.5 * x / np.linalg.norm(x, axis=-1, keepdims=True) for x in (q, k)
  )
  scores = np.exp(q[0, :, 0] @ k[0, :, 0].T / 2)
  exact = scores / scores.sum(axis=1, keepdims=True) @ v[0, :, 0]
  args = [jnp.float32(x) for x in (q, k, v)]
  found = []
  for features in (4, 64):
    favor = cases.favor('softmax_pos', features=features, ortho='iid')

    def output(w, favor=favor):
      return favor(*args, projection=w, causal=False)[0, :, 0]

    w = rng.standard_normal((20_000, features, 4), np.float32)
    drawn = np.float64(jax.jit(jax.vmap(output))(w))
    error = drawn.std(axis=0) / len(drawn) ** 0.5
    found.append((drawn.mean(axis=0) - exact, error))
  (few, few_error), (many, _) = found
  assert (np.abs(few) > 10 * few_error).mean() > 0.5
  assert np.linalg.norm(many) < 0.3 * np.linalg.norm(few)
  assert np.linalg.norm(many) > 0.5 * np.linalg.norm(few) * 4 / 64


@pytest.mark.slow
def test_mean_square_is_that_of_the_kept_pairs():
  q, _, _ = twin.inputs(6, l=5)
  _, k, _ = twin.inputs(7, l=21)
  mask = twin.mask(8, 2, 21)
  ours = oprf.mean_square(q, k, mask)
  for b, h in np.ndindex(2, 2):
    x = np.asarray(q, float)[b, :, h]
    y = np.asarray(k, float)[b, np.asarray(mask)[b], h]
    pairs = ((x[:, None] + y[None]) ** 2).sum(-1) / 8**0.5
    np.testing.assert_allclose(ours[b, h], pairs.mean(), rtol=1e-5)
  assert (oprf.mean_square(q, k, jnp.zeros((2, 21), bool)) > 0).all()
  assert not np.any(jax.grad(lambda q: oprf.mean_square(q, k, mask).sum())(q))


def test_own_statistics_see_neither_mates_nor_heads_nor_padding():
  favor = cases.favor(OPRF)
  q, k, v, w = cases.arguments(favor, 9)
  mask = jnp.broadcast_to(jnp.arange(21) < 13, (2, 21))
  before = cases.attend(favor, q, k, v, w, mask, causal=False)
  for part, kept in (
    (np.s_[1:], np.s_[:1]),
    (np.s_[:, :, 1:], np.s_[:, :, :1]),
    (np.s_[:, 13:], np.s_[:, :13]),
  ):
    other = [x.at[part].multiply(30.0) for x in (q, k, v)]
    after = cases.attend(favor, *other, w, mask, causal=False)
    np.testing.assert_array_equal(before[kept], after[kept])
    assert np.any(before != after)
  short = twin.value(
    *(x[:, :13] for x in (q, k, v)), w, kernel=OPRF, causal=False
  )
  np.testing.assert_allclose(before[:, :13], short, atol=1e-5)


def test_own_statistics_need_all_keys():
  favor = cases.favor(OPRF)
  q, k, v, w = cases.arguments(favor, 1)
  with pytest.raises(ValueError, match='set oprf_mean_square'):
    favor(q, k, v, projection=w, causal=True)
  with pytest.raises(ValueError, match='set oprf_mean_square'):
    favor.extend(q, k, v, projection=w)


@pytest.mark.parametrize('name', ['gaussian', 'oprf'])
def test_the_future_changes_no_bit(name):
  favor, _ = MECHANISMS[name]
  w = projection(favor)
  q, k, v = twin.inputs(1)
  before = cases.attend(favor, q, k, v, w, causal=True)
  later = [x.at[:, 13:].multiply(30.0) for x in (q, k, v)]
  after = cases.attend(favor, *later, w, causal=True)
  np.testing.assert_array_equal(before[:, :13], after[:, :13])
  assert np.any(before[:, 13:] != after[:, 13:])


def test_extending_piece_by_piece_is_the_whole():
  favor, w = ANGULAR, projection(ANGULAR)
  q, k, v = twin.inputs(12, scale=0.5)
  whole = cases.attend(favor, q, k, v, w, causal=True)
  extend = functools.partial(jax.jit(favor.extend), projection=w)
  one, state = extend(q[:, :20], k[:, :20], v[:, :20])
  two, _ = extend(q[:, 20:], k[:, 20:], v[:, 20:], state=state)
  assert_close(jnp.concatenate([one, two], 1), np.asarray(whole))


@pytest.mark.slow
def test_votes_of_an_unnormalised_policy():
  """r_j = phi_K(k_j) . sum_i phi_Q(q_i), without a matrix of pairs."""
  favor = GAUSSIAN
  w = projection(favor)
  q, k, _ = twin.inputs(13, scale=0.5)
  maps = favor.spec.maps(w, 8)
  one, two = (
    m(x.transpose(0, 2, 1, 3)) for m, x in zip(maps, (q, k), strict=True)
  )
  # One constant for all queries: a constant of its own for each would count.
  top = one.log_weight.max(-1, keepdims=True)
  total = (one.values * jnp.exp(one.log_weight - top)[..., None]).sum(-2)
  votes = jnp.einsum('bhjr,bhr->bhj', two.values, total)
  votes *= jnp.exp(two.log_weight + top) * favor.spec.scale(favor.features)
  log, sign = twin.kernel_matrix(
    *twin.double(q, k, w), kernel=favor.kernel, bandwidth=0.7
  )
  truth = (sign * np.exp(log)).sum(-2)
  np.testing.assert_allclose(votes, truth, rtol=1e-4, atol=1e-3)
  # The same as attention from keys to queries with values of one.
  form = favor.form(w, head_dim=8)
  swapped = dataclasses.replace(
    form,
    featurize_queries=form.featurize_keys,
    featurize_keys=form.featurize_queries,
    finish=lambda rows, keys: (
      rows.denominator * jnp.exp(rows.log_scale + keys.log_weight)
    )[..., None],
  )
  ones = jnp.ones((2, 21, 2, 1))
  again = linear.bidirectional(swapped, k, q, ones)[..., 0]
  again *= favor.spec.scale(favor.features)
  np.testing.assert_allclose(
    again.transpose(0, 2, 1), truth, rtol=1e-4, atol=1e-3
  )


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    ({'kernel': 'softmax_angular', 'features': 100}, '32.*mix_rows=4.*100'),
    ({'kernel': 'softmax_gaussian', 'features': 256}, '34.*mix_rows=4.*256'),
    ({'mix_rows': 2}, "'softmax_hyp' has no mix_rows"),
    ({'mix_shared': False}, "'softmax_hyp' is no hybrid"),
    (
      {'kernel': 'softmax_angular', 'mix_bandwidth': 1.0},
      'has no mix_bandwidth',
    ),
    ({'oprf_mean_square': 1.0}, 'has no oprf_mean_square'),
    ({'kernel': OPRF, 'oprf_mean_square': -1.0}, 'positive and finite.*-1'),
    ({'kernel': OPRF, 'norm': 'sqrt_d'}, "norm chi.*'sqrt_d'"),
    ({'kernel': 'softmax_angular', 'norm': 'sqrt_d'}, "norm chi.*'sqrt_d'"),
    ({'kernel': 'softmax_angular', 'mix_rows': 0}, 'mix_rows must be positive'),
    ({'kernel': OPRF, 'stabilizer': 'reference'}, f"softmax.*'{OPRF}'"),
    (
      {'kernel': 'softmax_general', 'stabilizer': 'reference'},
      "softmax kernels.*'softmax_general'",
    ),
  ],
)
def test_contradictory_options(options, message):
  with pytest.raises(ValueError, match=message):
    attention.Favor(**options)


@pytest.mark.parametrize(
  ('favor', 'w', 'message'),
  [
    (ANGULAR, jnp.ones((4, 8)), 'needs a Mixture.*got one of shape'),
    (GENERAL, jnp.ones((16, 8)), 'needs a General.*got one of shape'),
    (
      cases.favor('softmax_angular'),
      structures.Mixture(jnp.ones((4, 8)), jnp.ones((3, 8)), None),
      r'tau must have shape \[\(2, 8\)\].*got \(3, 8\)',
    ),
    (
      GENERAL,
      structures.General(jnp.ones((16, 8)), jnp.ones((2, 8))),
      r'transform must have shape.*got \(2, 8\)',
    ),
  ],
)
def test_wrong_pytrees(favor, w, message):
  q, k, v = twin.inputs(1)
  with pytest.raises(ValueError, match=message):
    favor(q, k, v, projection=w, causal=False)
