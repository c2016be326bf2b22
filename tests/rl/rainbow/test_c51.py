"""The projection against a loop in float64, and what it keeps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rl.rainbow import c51

project = jax.jit(c51.project)


def drawn(seed, low, high, atoms=11, batch=64):
  rng = np.random.default_rng(seed)
  return (
    rng.dirichlet(np.full(atoms, 0.5), batch),
    rng.uniform(low, high, batch),
    rng.uniform(0, 1, batch),
    np.linspace(-2.0, 3.0, atoms),
  )


def by_loop(probability, reward, discount, atoms):
  gap = atoms[1] - atoms[0]
  out, lost = np.zeros_like(probability), np.zeros(len(reward))
  for i, row in enumerate(probability):
    for mass, atom in zip(row, atoms, strict=True):
      moved = reward[i] + discount[i] * atom
      lost[i] += mass * (moved < atoms[0] or moved > atoms[-1])
      place = (np.clip(moved, atoms[0], atoms[-1]) - atoms[0]) / gap
      below = min(int(np.floor(place)), len(atoms) - 2)
      out[i, below] += mass * (below + 1 - place)
      out[i, below + 1] += mass * (place - below)
  return out, lost


def projected(*inputs):
  with jax.enable_x64(True):
    return jax.device_get(project(*inputs))


def test_equals_the_loop():
  inputs = drawn(0, -4.0, 5.0)
  found = projected(*inputs)
  probability, overflow = by_loop(*inputs)
  np.testing.assert_allclose(found.probability, probability, atol=1e-12)
  np.testing.assert_allclose(found.overflow, overflow, atol=1e-12)
  assert (overflow > 0).any()


def test_keeps_mass_and_inside_the_support_the_mean():
  probability, reward, discount, atoms = drawn(1, -1.0, 1.0)
  discount = discount / 3
  found = projected(probability, reward, discount, atoms)
  np.testing.assert_allclose(found.probability.sum(1), 1, atol=1e-12)
  assert not found.overflow.any()
  mean = reward + discount * (probability @ atoms)
  np.testing.assert_allclose(found.probability @ atoms, mean, atol=1e-12)
  # The nearest atom instead of both neighbours keeps mass only.
  moved = reward[:, None] + discount[:, None] * atoms
  nearest = np.abs(moved[..., None] - atoms).argmin(-1)
  wrong = (probability * atoms[nearest]).sum(1)
  assert np.abs(wrong - mean).max() > 0.01


def test_identity_and_ends_of_episodes():
  probability, _, _, atoms = drawn(2, 0, 1)
  zeros = np.zeros(len(probability))
  same = projected(probability, zeros, zeros + 1, atoms)
  np.testing.assert_allclose(same.probability, probability, atol=1e-12)
  assert not same.overflow.any()
  over = projected(probability, zeros + 0.25, zeros, atoms)
  np.testing.assert_allclose(over.probability @ atoms, 0.25, atol=1e-12)


@pytest.mark.parametrize('score', [-1.5 / 27.2, 64 / 35])
def test_returns_outside_of_the_support_are_counted(score):
  """A fruit lost, and more than the largest score: neither is in [0, 1]."""
  narrow = np.linspace(0.0, 1.0, 51)
  wide = np.linspace(-1.0, 2.0, 51)
  one = np.ones(1)
  for atoms, fits in ((narrow, False), (wide, True)):
    start = np.full((1, 51), 1 / 51)
    found = projected(start, score * one, 0 * one, atoms)
    assert found.overflow[0] == pytest.approx(0 if fits else 1)
    mean = (found.probability @ atoms)[0]
    assert (abs(mean - score) < 1e-9) == fits


def test_float32_on_the_ends_is_inside():
  atoms = c51.support(-10.0, 10.0, 51)
  uniform = jnp.full((3, 51), 1 / 51)
  reward = jnp.array([0.0, 0.1, -0.1])
  discount = jnp.array([1.0, 0.99, 0.99])
  found = project(uniform, reward, discount, atoms)
  np.testing.assert_array_equal(found.overflow, 0)
  np.testing.assert_allclose(found.probability.sum(1), 1, atol=1e-5)


@pytest.mark.parametrize('wrong', [(1.0, 1.0, 5), (0.0, 1.0, 1)])
def test_rejects_supports(wrong):
  with pytest.raises(ValueError, match='support'):
    c51.support(*wrong)
