"""Learnt distributions against enumeration of all architectures."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from nas.es_enas import controllers
from nas.es_enas import space as space_lib
from nas.es_enas.controllers import plackett_luce, policy
from tests import marks, seeds, trees

SPACE = space_lib.Space(
  (space_lib.Choices('a', 2, 3), space_lib.Subset('b', 2, 3))
)
ROWS = np.array(
  [
    colours + subset
    for colours in itertools.product(range(3), repeat=2)
    for subset in itertools.permutations(range(3), 2)
  ],
  np.int32,
)
_DIGITS = np.array([27, 9, 3, 1])
SGD = optax.sgd(1.0)
CONTROLLERS = {
  'factorised': controllers.PolicyGradient(SPACE, SGD),
  'autoregressive': controllers.Autoregressive(
    SPACE, SGD, embedding=3, hidden=3
  ),
}
BOTH = pytest.mark.parametrize('name', CONTROLLERS)
ONE = pytest.mark.parametrize(
  'name', ['factorised', *marks.slow('autoregressive')]
)


@functools.partial(jax.jit, static_argnums=0)
def initial(controller, key):
  return controller.initial(key)


def random_params(controller):
  rng = seeds.rng(1)
  return jax.tree.map(
    lambda leaf: np.float32(leaf + rng.normal(size=leaf.shape)),
    jax.device_get(initial(controller, seeds.key(0))),
  )


@functools.partial(jax.jit, static_argnums=0)
def _scores(controller, params):
  return jax.vmap(controller.score, (None, 0))(params, ROWS)


def scored(controller, params):
  """Log-probabilities and entropies of all architectures."""
  return jax.device_get(_scores(controller, params))


@BOTH
def test_the_first_distribution_is_uniform(name):
  controller = CONTROLLERS[name]
  log_probs, entropies = scored(controller, initial(controller, seeds.key(0)))
  np.testing.assert_allclose(log_probs, -np.log(54), rtol=1e-6)
  np.testing.assert_allclose(entropies, np.log(54), rtol=1e-6)


@BOTH
def test_probabilities_sum_to_one(name):
  controller = CONTROLLERS[name]
  log_probs, entropies = scored(controller, random_params(controller))
  probs = np.exp(np.float64(log_probs))
  np.testing.assert_allclose(np.sum(probs), 1, rtol=1e-5)
  assert np.max(probs) > 2 / 54
  np.testing.assert_allclose(
    np.sum(probs * entropies), -np.sum(probs * log_probs), rtol=1e-5
  )


@pytest.mark.parametrize(('count', 'options'), [(1, 4), (3, 5), (4, 4)])
def test_plackett_luce_by_its_definition(count, options):
  logits = seeds.rng(0).normal(size=options) * 3
  found = plackett_luce.PlackettLuce(jnp.asarray(logits, jnp.float32), count)
  every = list(itertools.permutations(range(options), count))
  scores = jax.jit(jax.vmap(found.score))(np.array(every, np.int32))
  total = 0.0
  for chosen, *one in zip(every, *scores, strict=True):
    left, log_prob, entropy = list(range(options)), 0.0, 0.0
    for element in chosen:
      weights = np.exp(logits[left])
      probs = weights / np.sum(weights)
      log_prob += np.log(probs[left.index(element)])
      entropy -= np.sum(probs * np.log(probs))
      left.remove(element)
    np.testing.assert_allclose(one, (log_prob, entropy), rtol=1e-4, atol=1e-5)
    total += np.exp(log_prob)
  np.testing.assert_allclose(total, 1)


def test_plackett_luce_with_far_logits():
  found = plackett_luce.PlackettLuce(jnp.array([200.0, 0.0, -200.0]), 2)
  loss = lambda logits: sum(found._replace(logits=logits).score(jnp.arange(2)))
  value, grads = jax.jit(jax.value_and_grad(loss))(found.logits)
  np.testing.assert_allclose(value, 0, atol=1e-6)
  assert np.all(np.isfinite(grads))


@BOTH
def test_samples_follow_the_probabilities(name):
  controller = CONTROLLERS[name]
  params = random_params(controller)
  state = policy.State(params, ())
  count = 8000
  propose = jax.jit(controller.propose, static_argnums=2)
  drawn = propose(state, seeds.key(2), count)
  places = {tuple(row): i for i, row in enumerate(ROWS.tolist())}
  found = np.bincount([places[tuple(r)] for r in drawn.tolist()], minlength=54)
  expected = np.exp(np.float64(scored(controller, params)[0])) * count
  assert np.all(np.abs(found - expected) < 5 * np.sqrt(expected + 1))


@ONE
def test_the_estimate_is_unbiased(name):
  controller = CONTROLLERS[name]
  params = random_params(controller)
  returns, count = np.float32(seeds.rng(3).normal(size=54)), 4000
  # The place of an architecture in ROWS, by its digits.
  places = np.zeros(81, int)
  places[ROWS @ _DIGITS] = np.arange(54)

  @jax.jit
  def gradients(params, key):
    """Of each sample, of their mean, and of the expectation."""
    sample = jax.vmap(controller.sample, (None, 0))
    drawn = sample(params, jax.random.split(key, count))
    gains = jnp.asarray(returns[places])[drawn @ _DIGITS]
    of = lambda rows, gains: jax.grad(policy.objective, 1)(
      controller.score, params, batch(rows, gains), 0.0, None
    )
    each = jax.vmap(lambda row, gain: of(row[None], gain[None]))(drawn, gains)
    score = jax.vmap(controller.score, (None, 0))
    exact = jax.grad(lambda p: jnp.sum(jnp.exp(score(p, ROWS)[0]) * returns))
    return each, of(drawn, gains), exact(params)

  for rows, mean, truth in zip(
    *map(jax.tree.leaves, jax.device_get(gradients(params, seeds.key(4)))),
    strict=True,
  ):
    rows = np.float64(rows)
    np.testing.assert_allclose(mean, np.mean(rows, 0), rtol=1e-3, atol=1e-4)
    error = np.std(rows, 0) / np.sqrt(count)
    assert np.all(np.abs(mean - truth) < 5 * error + 1e-5)


def batch(rows, advantages, **changes):
  valid = jnp.ones(advantages.shape, bool)
  made = policy.Batch(rows, advantages, valid, jnp.zeros(advantages.shape))
  return made.replace(**changes)


@ONE
def test_a_baseline_changes_nothing_in_expectation(name):
  controller = CONTROLLERS[name]
  params = random_params(controller)
  made = batch(ROWS, 54 * np.exp(scored(controller, params)[0]))
  gradient = jax.grad(policy.objective, 1)
  grads = jax.jit(gradient, static_argnums=(0, 3, 4))(
    controller.score, params, made, 0.0, None
  )
  for leaf in jax.tree.leaves(grads):
    np.testing.assert_allclose(leaf, 0, atol=1e-5)


@pytest.mark.parametrize(
  ('name', 'clip'),
  [
    ('factorised', None),
    ('autoregressive', 0.2),
    *marks.slow(('factorised', 0.2), ('autoregressive', None)),
  ],
)
def test_the_gradient_by_finite_differences(name, clip):
  controller = CONTROLLERS[name]
  params = random_params(controller)
  rng = seeds.rng(5)
  above = rng.normal(size=54) * 0.3
  # No probability may reach a bound of its clipped ratio within a step.
  for bound in (0.8, 1.2):
    above[np.abs(above - np.log(bound)) < 0.05] = 0.0
  old = scored(controller, params)[0] - above
  gains = np.float32(rng.normal(size=54))
  made = batch(ROWS, gains, log_probs=np.float32(old))
  along = jax.tree.map(
    lambda leaf: np.float32(rng.normal(size=leaf.shape)), params
  )

  @jax.jit
  @jax.value_and_grad
  def at(size):
    """The objective beyond the parameters, and its slope on the way."""
    moved = jax.tree.map(lambda p, d: p + size * d, params, along)
    return policy.objective(controller.score, moved, made, 0.3, clip)

  step = 2e-3
  (up, _), (down, _), (_, found) = map(at, (step, -step, 0.0))
  expected = (up - down) / (2 * step)
  np.testing.assert_allclose(found, expected, rtol=0.02, atol=2e-3)


def test_clipped_gains():
  controller = CONTROLLERS['factorised']
  params = random_params(controller)
  rng = seeds.rng(6)
  log_probs = np.float64(scored(controller, params)[0])
  old, gains = log_probs + rng.normal(size=54), rng.normal(size=54)
  valid = rng.random(54) < 0.5
  made = batch(ROWS, np.float32(gains), log_probs=np.float32(old), valid=valid)
  ratio = np.exp(log_probs - old)
  least = np.minimum(ratio * gains, np.clip(ratio, 0.8, 1.2) * gains)
  objective = jax.jit(policy.objective, static_argnums=(0, 3, 4))
  found = objective(controller.score, params, made, 0.0, 0.2)
  np.testing.assert_allclose(found, np.mean(least[valid]), rtol=1e-4)


def test_logits_are_shift_invariant():
  controller = CONTROLLERS['factorised']
  params = random_params(controller)
  moved = jax.tree.map(lambda leaf: leaf + 7.0, params)
  for a, b in zip(
    scored(controller, params), scored(controller, moved), strict=True
  ):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_an_update_in_closed_form():
  space = space_lib.Space((space_lib.Choices('a', 2, 3),))
  controller = controllers.PolicyGradient(space, SGD, entropy_weight=0.3)
  logits = seeds.rng(7).normal(size=(2, 3))
  params = {'a': jnp.asarray(logits, jnp.float32)}
  rows = np.array([[0, 2], [1, 1], [2, 0], [0, 0], [1, 2]])
  scores = np.array([3.0, -1.0, 0.5, np.nan, 2.0])
  valid = np.isfinite(scores)
  kept = scores[valid]
  gains = (kept - kept.mean()) / (kept.std() + 1e-8)
  probs = np.exp(logits) / np.sum(np.exp(logits), 1, keepdims=True)
  choices = np.eye(3)[rows[valid]] - probs
  entropy = -np.sum(probs * np.log(probs), 1, keepdims=True)
  expected = logits + np.mean(gains[:, None, None] * choices, 0)
  expected -= 0.3 * probs * (np.log(probs) + entropy)
  state, metrics = jax.jit(controller.feedback)(
    policy.State(params, SGD.init(params)),
    seeds.key(0),
    jnp.asarray(rows),
    jnp.asarray(scores, jnp.float32),
    jnp.asarray(valid),
  )
  np.testing.assert_allclose(state.params['a'], expected, rtol=1e-5, atol=1e-6)
  np.testing.assert_allclose(metrics['entropy'], np.sum(entropy), rtol=1e-6)


def test_minibatches_use_everything_once_a_pass():
  controller = controllers.PolicyGradient(
    SPACE, SGD, clip=0.2, epochs=3, minibatches=4
  )
  marks = jnp.arange(10.0)
  valid = marks != 4
  parts = controller._parts(
    seeds.key(8), batch(ROWS[:10], marks, valid=valid, log_probs=marks)
  )
  assert parts.architectures.shape == (12, 3, 4)
  for one in range(3):
    part = slice(4 * one, 4 * one + 4)
    used = np.asarray(parts.advantages[part])[np.asarray(parts.valid[part])]
    assert sorted(used.tolist()) == [0, 1, 2, 3, 5, 6, 7, 8, 9]
  np.testing.assert_array_equal(parts.advantages, parts.log_probs)


def test_one_clipped_update_is_the_plain_one():
  plain = CONTROLLERS['factorised']
  clipped = controllers.PolicyGradient(SPACE, SGD, clip=0.2)
  params = random_params(plain)
  state = policy.State(params, SGD.init(params))

  @jax.jit
  def updated(state, key):
    rows, scores = jnp.asarray(ROWS[:9]), jnp.arange(9.0)
    told = state, key, rows, scores, jnp.ones(9, bool)
    return [one.feedback(*told)[0] for one in (plain, clipped)]

  a, b = updated(state, seeds.key(0))
  trees.check_close(a.params, b.params, atol=1e-5)


@BOTH
def test_best_is_the_most_probable_at_each_step(name):
  controller = CONTROLLERS[name]
  params = random_params(controller)
  probs = np.exp(scored(controller, params)[0])
  best = np.asarray(jax.jit(controller.best)(policy.State(params, ())))
  for place in range(4):
    before = np.all(ROWS[:, :place] == best[:place], 1)
    odds = np.bincount(ROWS[before, place], probs[before], minlength=3)
    assert np.argmax(odds) == best[place]


def test_more_updates_need_ratios():
  with pytest.raises(ValueError, match='needs clip, got clip=None epochs=2'):
    controllers.PolicyGradient(SPACE, epochs=2)
