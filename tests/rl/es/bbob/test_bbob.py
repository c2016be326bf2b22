"""BBOB in Vizier's dialect: recorded values, optima, gradients and batches."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rl.es import bbob
from tests import marks, seeds
from tests.rl.es.bbob import bbob_cases

NAMES = tuple(bbob.FUNCTIONS)
# Float32 loses digits where steep slopes meet the highest waves.
ROUGH = {'GriewankRosenbrock': 2e-3, 'Katsuura': 5e-4, 'Weierstrass': 1e-3}


@functools.partial(jax.jit, static_argnums=0)
def values(names, points, instance):
  """[functions, points]: all functions in one program."""
  return jnp.stack(
    [jax.vmap(bbob.FUNCTIONS[n], (0, None))(points, instance) for n in names]
  )


def recorded(dimension, seed):
  """Names, and values [functions, points], of google-vizier."""
  found = {
    name: row[2]
    for name, rows in bbob_cases.RECORDED['vizier'].items()
    for row in rows
    if row[:2] == [dimension, seed]
  }
  return tuple(found), np.array(list(found.values()))


@pytest.mark.parametrize('dimension', [1, 5, *marks.slow(2, 20, 40)])
def test_values_are_those_of_vizier(dimension):
  """All 21 functions to 12 digits in float64, with and without rotations."""
  for seed in (0, 1):
    names, expected = recorded(dimension, seed)
    assert len(names) == (19 if dimension == 1 else 21)
    with jax.enable_x64(True):
      instance = bbob_cases.instance(dimension, seed, jnp.float64)
      points = jnp.asarray(bbob_cases.vizier_points(dimension))
      found = values(names, points, instance)
      assert found.dtype == jnp.float64
      np.testing.assert_allclose(found, expected, rtol=2e-12, atol=1e-13)
    instance = bbob_cases.instance(dimension, seed, jnp.float32)
    found = values(
      names, jnp.float32(bbob_cases.vizier_points(dimension)), instance
    )
    for name, ours, theirs in zip(names, found, expected, strict=True):
      rtol = ROUGH.get(name, 5e-5)
      np.testing.assert_allclose(ours, theirs, rtol, 1e-5, err_msg=name)


def twin(name, x, r, q):
  """The functions that Vizier lacks, and two others, from the definitions."""
  d = len(x)
  t = np.arange(d) / (d - 1)
  osz = np.vectorize(
    lambda v: (
      np.sign(v)
      * np.exp(
        np.log(abs(v))
        + 0.049
        * sum(
          np.sin(c * np.log(abs(v)))
          for c in ((10, 7.9) if v > 0 else (5.5, 3.1))
        )
      )
    )
  )
  if name == 'Rosenbrock':
    z = max(1, np.sqrt(d) / 8) * x + 1
    return np.sum(100 * (z[:-1] ** 2 - z[1:]) ** 2 + (z[:-1] - 1) ** 2)
  if name == 'EllipsoidalRotated':
    return np.sum(10 ** (6 * t) * osz(r @ x) ** 2)
  if name == 'RastriginSeparable':
    z = osz(x)
    z = np.where(z > 0, np.abs(z) ** (1 + 0.2 * t * np.sqrt(np.abs(z))), z)
    z = 10 ** (t / 2) * z
    return 10 * (d - np.sum(np.cos(2 * np.pi * z))) + z @ z
  if name == 'DifferentPowers':
    return np.sqrt(np.sum(np.abs(r @ x) ** (2 + 4 * t)))
  z = q @ (10 ** (t / 2) * (r @ x))
  return z[0] ** 2 + 100 * np.sqrt(z[1:] @ z[1:])


def test_values_are_those_of_the_definitions():
  names = (
    'Rosenbrock',
    'EllipsoidalRotated',
    'RastriginSeparable',
    'DifferentPowers',
    'SharpRidge',
  )
  r, q = (bbob_cases.rotation(seed, 5) for seed in (1, 2))
  points = seeds.rng(0).uniform(-5, 5, (2, 5))
  shift = seeds.rng(1).uniform(-4, 4, 5)
  expected = [[twin(name, x - shift, r, q) for x in points] for name in names]
  with jax.enable_x64(True):
    instance = bbob.Instance(*map(jnp.asarray, (shift, r, q)))
    found = values(names, jnp.asarray(points), instance)
  np.testing.assert_allclose(found, expected, rtol=1e-12)


@jax.jit
def slopes(points, instance):
  """Values and gradients of all functions, [functions, points, ...]."""
  found = []
  for name in NAMES:
    both = jax.value_and_grad(bbob.FUNCTIONS[name])
    found.append(jax.vmap(both, (0, None))(points, instance))
  return jax.tree.map(lambda *x: jnp.stack(x), *found)


@pytest.mark.parametrize('dimension', [3, *marks.slow(2, 40)])
def test_values_and_gradients_are_finite(dimension):
  """In corners, on axes and at optima, where powers have no slope."""
  instance = bbob.draw(seeds.key(1), dimension)
  drawn = seeds.rng(2).uniform(-5, 5, (20, dimension))
  corner = np.full((1, dimension), 5.0)
  optima = [bbob.FUNCTIONS[n].minimizer(instance) for n in NAMES]
  points = np.concatenate(
    [drawn, corner, -corner, 0 * corner, instance.shift[None], optima]
  )
  for one in (instance, bbob.plain(dimension)):
    value, gradient = slopes(jnp.float32(points), one)
    assert np.isfinite(value).all()
    assert np.isfinite(gradient).all()


def test_gradients_are_slopes():
  """Central differences in float64, of functions without floors and kinks."""
  names = ('AttractiveSector', 'Discus', 'Rastrigin', 'SchaffersF7', 'Schwefel')
  with jax.enable_x64(True):
    instance = bbob_cases.instance(3, True, jnp.float64)
    point = jnp.asarray(seeds.rng(2).uniform(-5, 5, 3))
    moved = point + 1e-6 * jnp.concatenate([jnp.eye(3), -jnp.eye(3)])
    found = values(names, moved, instance)
    slope = jax.jit(
      lambda x: jnp.stack(
        [jax.grad(bbob.FUNCTIONS[n])(x, instance) for n in names]
      )
    )
    central = (found[:, :3] - found[:, 3:]) / 2e-6
    np.testing.assert_allclose(slope(point), central, rtol=1e-5)


def lowest(function, points, instance):
  """The value at the minimiser, and the least one at and around points."""
  near = function.minimizer(instance)
  around = jnp.concatenate([points, near + 0.01 * points])
  if function.name == 'LinearSlope':  # Beyond the box the plane goes on.
    around = jnp.clip(around, -5, 5)
  points = jnp.concatenate([near[None], around])
  found = jax.vmap(function, (0, None))(points, instance)
  return found[0], jnp.min(found[1:])


def test_minimizers():
  """Nothing is below 0, and the minimiser is there; a slope has its corner."""
  dimension = 4
  instances = jax.vmap(lambda key: bbob.draw(key, dimension))(
    jax.random.split(seeds.key(3), 5)
  )
  drawn = jnp.float32(seeds.rng(4).uniform(-5, 5, (200, dimension)))
  run = jax.jit(
    lambda instance: [
      lowest(bbob.FUNCTIONS[name], drawn, instance) for name in NAMES
    ]
  )
  for name, found in zip(NAMES, jax.vmap(run)(instances), strict=True):
    least, others = map(np.asarray, found)
    assert (least <= others + 1e-5).all(), name
    if name != 'LinearSlope':
      np.testing.assert_allclose(least, 0, atol=2e-5, err_msg=name)


def test_batches_mix_functions():
  """A switch over the function, mapped over studies of different functions."""
  names = ('Sphere', 'Rosenbrock', 'Weierstrass', 'SharpRidge', 'Lunacek')
  count, dimension = 2 * len(names), 3
  instances = jax.vmap(lambda key: bbob.draw(key, dimension))(
    jax.random.split(seeds.key(5), count)
  )
  points = jnp.float32(seeds.rng(6).uniform(-5, 5, (count, dimension)))
  indices = jnp.arange(count) % len(names)
  functions = [bbob.FUNCTIONS[name] for name in names]
  mixed = jax.jit(
    jax.vmap(lambda i, *rest: jax.lax.switch(i, functions, *rest))
  )(indices, points, instances)
  assert mixed.shape == (count,)

  @jax.jit
  def alone(points, instances):
    own = [jax.tree.map(lambda x, i=i: x[i], instances) for i in range(count)]
    return jnp.stack(
      [functions[i % len(names)](points[i], one) for i, one in enumerate(own)]
    )

  np.testing.assert_allclose(mixed, alone(points, instances), rtol=2e-3)


def test_instances():
  drawn = jax.vmap(lambda key: bbob.draw(key, 3))(
    jax.random.split(seeds.key(7), 4000)
  )
  shift = np.asarray(drawn.shift)
  assert np.abs(shift).max() <= 4
  np.testing.assert_allclose(shift.mean(0), 0, atol=4 * 2.31 / 4000**0.5)
  np.testing.assert_allclose(shift.var(0), 16 / 3, rtol=0.08)
  for matrix in (drawn.rotation, drawn.second):
    square = np.einsum('nij,nkj->nik', matrix, matrix)
    np.testing.assert_allclose(square, np.eye(3) + 0 * square, atol=1e-5)
    # Uniform: each entry has mean 0, and mean square 1 / D.
    np.testing.assert_allclose(matrix.mean(0), 0, atol=4 / 12000**0.5)
    np.testing.assert_allclose((matrix**2).mean(0), 1 / 3, atol=0.03)
  assert not np.allclose(drawn.rotation, drawn.second)
  same = bbob.draw(jax.random.split(seeds.key(7), 4000)[0], 3)
  np.testing.assert_allclose(same.rotation, drawn.rotation[0], atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize('dimension', [2, 10])
def test_values_are_those_of_the_installed_vizier(dimension):
  """With Vizier's own rotations, shifted."""
  peer = pytest.importorskip(
    'vizier._src.benchmarks.experimenters.synthetic.bbob'
  )
  points = seeds.rng(8).uniform(-5, 5, (20, dimension))
  shift = seeds.rng(9).uniform(-4, 4, dimension)
  matrices = [peer._R(dimension, 5, name) for name in (b'R', b'Q')]
  names = tuple(bbob_cases.RECORDED['vizier'])
  with jax.enable_x64(True):
    instance = bbob.Instance(*map(jnp.asarray, (shift, *matrices)))
    found = values(names, jnp.asarray(points), instance)
  for name, ours in zip(names, found, strict=True):
    theirs = [np.squeeze(getattr(peer, name)(x - shift, 5)) for x in points]
    np.testing.assert_allclose(ours, theirs, 1e-10, 1e-11, err_msg=name)


def test_names():
  assert [f.number for f in bbob.FUNCTIONS.values()] == list(range(1, 25))
  for name, function in bbob.FUNCTIONS.items():
    for other in (name, function.number, function.title, name.upper()):
      assert bbob.named(other) is function
  with pytest.raises(ValueError, match='sphere'):
    bbob.named('Spheres')


def test_rejects():
  plain = bbob.plain(1)
  for call in (
    lambda: bbob.FUNCTIONS['Lunacek'](jnp.zeros(1), plain),
    lambda: bbob.FUNCTIONS['Sphere'](jnp.zeros(2), plain),
    lambda: bbob.plain(0),
    lambda: bbob.draw(seeds.key(0), 2, shift=-1.0),
  ):
    with pytest.raises(ValueError, match='got'):
      call()
