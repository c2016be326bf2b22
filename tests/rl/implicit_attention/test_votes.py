"""Votes: against dense float64 matrices, streamed, at large norms, in the limit."""

import functools
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from performer import attention
from rl.implicit_attention import votes
from tests import marks, seeds

LENGTH, WIDTH = 37, 4
KERNELS = {
  'softmax_pos': {'features': 16},
  'softmax_hyp': {'features': 16},
  'softmax_trig': {'features': 16},
  'softmax_angular': {'features': 64, 'mix_rows': 2},
  'softmax_oprf': {'features': 16, 'oprf_mean_square': 2.0},
  'softmax_general': {'features': 16},
  'relu': {'features': 16},
}


@functools.cache
def favor(kernel, **options):
  with warnings.catch_warnings():
    warnings.simplefilter('ignore')
    return attention.Favor(kernel=kernel, **(options or KERNELS[kernel]))


@functools.partial(jax.jit, static_argnums=0)
def draw(found, seed=0):
  return found.draw(
    jax.random.key(seed), layer=0, step=0, num_heads=1, head_dim=WIDTH
  )


@functools.partial(jax.jit, static_argnums=0)
def run(call, q, k, projection=None):
  return call(q, k, projection=projection)


@pytest.fixture(scope='module')
def inputs():
  rng = seeds.rng(0)
  return [
    jnp.asarray(rng.normal(size=(LENGTH, WIDTH)), jnp.float32) for _ in 'qk'
  ]


def dense(found, projection, q, k):
  """Kernel values of all pairs, float64."""
  form = found.form(projection, head_dim=WIDTH)

  def features(featurize, x):
    values, weight = featurize(x[None, None])
    values = np.float64(values[0, 0])
    weight = 0 if weight is None else np.float64(weight[0, 0])[:, None]
    return np.exp(values + weight) if form.log else values * np.exp(weight)

  pairs = features(form.featurize_queries, q)
  pairs = pairs @ features(form.featurize_keys, k).T
  return pairs * found.spec.scale(form.features)


def test_exact_votes_are_column_sums(inputs):
  q, k = map(np.float64, inputs)
  weights = np.exp(q @ k.T / np.sqrt(WIDTH))
  weights /= weights.sum(axis=1, keepdims=True)
  for chunk in (None, 8):
    found = run(votes.Exact(chunk), *inputs)
    np.testing.assert_allclose(found.values, weights.sum(axis=0), rtol=1e-5)


@pytest.mark.parametrize(
  'kernel',
  [
    *('softmax_hyp', 'softmax_trig', 'relu'),
    *marks.slow('softmax_pos', 'softmax_angular'),
    *marks.slow('softmax_oprf', 'softmax_general'),
  ],
)
def test_implicit_votes_are_those_of_the_dense_matrix(kernel, inputs):
  found = favor(kernel)
  projection = draw(found)
  pairs = dense(found, projection, *inputs)
  expected = (pairs / pairs.sum(axis=1, keepdims=True)).sum(axis=0)
  sizes = np.abs(pairs / pairs.sum(axis=1, keepdims=True)).sum(axis=0)
  for chunk in (None, 8):
    make = functools.partial(votes.Implicit, found, chunk=chunk)
    normal = run(make(), *inputs, projection)
    np.testing.assert_allclose(
      normal.values, expected, rtol=1e-3, atol=2e-5 * sizes.max()
    )
    np.testing.assert_allclose(normal.values.sum(), LENGTH, rtol=1e-3)
    assert normal.moved == 0
    plain = run(make(normalized=False), *inputs, projection)
    np.testing.assert_allclose(
      plain.values * np.exp(plain.log_factor),
      pairs.sum(axis=0),
      rtol=1e-3,
      atol=1e-5 * np.abs(pairs).sum(axis=0).max(),
    )


@pytest.mark.parametrize(
  'kernel', ['softmax_hyp', *marks.slow('softmax_trig'), 'relu']
)
def test_gradients_are_those_of_the_dense_matrix(kernel, inputs):
  found = favor(kernel)
  projection = draw(found)
  weights = jnp.asarray(seeds.rng(1).normal(size=LENGTH), jnp.float32)

  def by_features(q, k):
    values = votes.Implicit(found)(q, k, projection=projection).values
    return values @ weights

  def by_pairs(q, k):
    form = found.form(projection, head_dim=WIDTH)

    def features(featurize, x):
      values, weight = featurize(x[None, None])
      weight = 0 if weight is None else weight[0, 0][:, None]
      values = values[0, 0]
      return jnp.exp(values + weight) if form.log else values * jnp.exp(weight)

    rows = features(form.featurize_queries, q)
    pairs = rows @ features(form.featurize_keys, k).T
    return (pairs / pairs.sum(axis=1, keepdims=True)).sum(axis=0) @ weights

  drawn, expected = (
    jax.jit(jax.grad(function, argnums=(0, 1)))(*inputs)
    for function in (by_features, by_pairs)
  )
  for ours, theirs in zip(drawn, expected, strict=True):
    scale = np.abs(theirs).max()
    np.testing.assert_allclose(ours / scale, theirs / scale, atol=1e-4)


def test_many_features_give_the_exact_votes(inputs):
  small = [x / 2 for x in inputs]
  expected = run(votes.Exact(), *small).values
  found = favor('softmax_hyp', features=2**14)
  errors = []
  for seed in range(2):
    drawn = run(votes.Implicit(found), *small, draw(found, seed))
    errors.append(np.abs(drawn.values / expected - 1).max())
  assert max(errors) < 0.05


@pytest.mark.parametrize(
  'kernel', ['softmax_hyp', *marks.slow('softmax_angular'), 'relu']
)
@pytest.mark.parametrize('norm', [1e-3, 30.0])
def test_votes_are_finite_at_any_norm(kernel, norm, inputs):
  found = favor(kernel)
  scaled = [
    np.float32(norm) * x / np.linalg.norm(x, axis=1, keepdims=True)
    for x in map(np.asarray, inputs)
  ]
  for normalized in (True, False):
    call = votes.Implicit(found, normalized)
    drawn = run(call, *scaled, draw(found))
    assert np.isfinite(drawn.values).all()
    assert np.isfinite(drawn.log_factor)
    assert (np.asarray(drawn.values) != 0).any()


def test_denominators_near_zero_are_moved_and_counted():
  found = attention.Favor(
    kernel='identity', features=None, projection=False, kernel_epsilon=0.0
  )
  # The first query is orthogonal to the sum of keys.
  q = jnp.array([[1.0, -1.0], [1.0, 1.0]])
  k = jnp.array([[1.0, 0.0], [0.0, 1.0]])
  drawn = run(votes.Implicit(found), q, k)
  assert drawn.moved == 1
  expected = 0.5 + np.array([1.0, -1.0]) / 2e-6
  np.testing.assert_allclose(drawn.values, expected, rtol=1e-5)


def test_permuted_patches_have_permuted_votes(inputs):
  found = favor('softmax_hyp')
  order = seeds.rng(1).permutation(LENGTH)
  call = votes.Implicit(found)
  straight = run(call, *inputs, draw(found)).values
  permuted = [np.asarray(x)[order] for x in inputs]
  drawn = run(call, *permuted, draw(found)).values
  np.testing.assert_allclose(drawn, straight[order], rtol=1e-4)


def test_votes_do_not_depend_on_the_scale_of_a_query_s_features(inputs):
  # The features of ReLU without an epsilon grow in proportion to the query.
  found = favor('relu', features=16, kernel_epsilon=0.0)
  q, k = inputs
  scale = jnp.linspace(0.1, 10.0, LENGTH)[:, None]
  for normalized in (True, False):
    call = votes.Implicit(found, normalized=normalized)
    plain, scaled = (
      run(call, x, k, draw(found)).values for x in (q, scale * q)
    )
    same = np.allclose(scaled, plain, rtol=1e-4)
    assert same == normalized


def test_variance_of_unnormalised_votes_is_the_closed_form():
  # Section 2.7 of the specification of HRF: phi = 'softmax_pos', iid rows.
  rng = seeds.rng(2)
  q, k = (rng.normal(size=(6, WIDTH)) * 0.3 for _ in 'qk')
  count = 8
  found = favor('softmax_pos', features=count, ortho='iid')
  x, y = q * WIDTH**-0.25, k * WIDTH**-0.25
  keys = jax.random.split(seeds.key(3), 20_000)

  @jax.jit
  @jax.vmap
  def drawn(key):
    projection = found.draw(key, layer=0, step=0, num_heads=1, head_dim=WIDTH)
    call = votes.Implicit(found, normalized=False)
    out = call(jnp.float32(q), jnp.float32(k), projection=projection)
    return out.values * jnp.exp(out.log_factor)

  samples = np.float64(drawn(keys))
  mean = np.exp(x @ y.T).sum(axis=0)
  error = samples.std(axis=0) / np.sqrt(len(samples))
  assert (np.abs(samples.mean(axis=0) - mean) < 4.5 * error).all()
  both = x[:, None] + x
  inner = np.exp((x @ x.T)[..., None] + 2 * both @ y.T).sum(axis=(0, 1))
  expected = (np.exp((y**2).sum(axis=1)) * inner - mean**2) / count
  np.testing.assert_allclose(samples.var(axis=0), expected, rtol=0.1)


@pytest.mark.parametrize(
  ('option', 'message'),
  [
    ({'stabilizer': 'reference'}, "favor.stabilizer='reference'"),
    ({'renormalize': False}, 'renormalize=False'),
  ],
)
def test_options_without_effect_on_votes_are_refused(option, message):
  found = favor('softmax_pos', features=16, **option)
  with pytest.raises(ValueError, match=message):
    votes.Implicit(found)


def test_top_is_descending_with_ties_to_the_lower_number():
  found = votes.top(jnp.array([1.0, 3.0, 2.0, 3.0, 2.0]), 4)
  np.testing.assert_array_equal(found, [1, 3, 2, 4])
  signs = jnp.array([-0.0, 0.0, -1.0, -0.0, 0.0])
  np.testing.assert_array_equal(votes.top(signs, 5), [0, 1, 3, 4, 2])


def test_top_puts_nan_last():
  nan, inf = np.nan, np.inf
  found = votes.top(jnp.array([nan, 1.0, nan, inf, 2.0]), 5)
  np.testing.assert_array_equal(found, [3, 4, 1, 0, 2])


def test_exact_votes_of_half_precision_are_summed_in_float32(inputs):
  q, k = (x.astype(jnp.bfloat16) for x in inputs)
  exact = functools.partial(run, votes.Exact())
  expected = exact(*map(np.float32, (q, k))).values
  np.testing.assert_allclose(exact(q, k).values, expected, rtol=1e-6)
