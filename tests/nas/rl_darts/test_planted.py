"""A cell of one edge learns which operation made its targets."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from nas.rl_darts import bilevel, cells, spaces
from nas.rl_darts import probabilities as probabilities_lib
from tests import seeds
from tests.nas.rl_darts import darts_cases

SPACE = spaces.CellSpace(nodes=1, output='last', norm='none')
TEACHERS = ('Tanh', 'Relu', 'SkipConnection', 'Zero', 'Conv3x3')
RUNS, CHANNELS = 5, 3


def _targets(teacher, x, key):
  """What a teacher makes of pictures."""
  if teacher == 'Conv3x3':
    kernel = jax.random.normal(key, (3, 3, CHANNELS, CHANNELS)) / 5
    return jax.lax.conv_general_dilated(
      x, kernel, (1, 1), 'SAME', dimension_numbers=('NHWC', 'HWIO', 'NHWC')
    )
  function = {'Tanh': jnp.tanh, 'Relu': jax.nn.relu, 'Zero': jnp.zeros_like}
  return function.get(teacher, lambda x: x)(x)


def _masses(steps):
  """Probabilities after training, [teachers, runs, operations]."""
  cell = cells.Cell(CHANNELS, SPACE)
  optimizer = bilevel.partitioned(optax.adam(3e-3), optax.adam(3e-2))
  pictures = lambda key: 1.5 * jax.random.normal(key, (16, 5, 5, CHANNELS))

  def loss(params, x, y):
    p = probabilities_lib.probabilities(params['alpha'])
    return jnp.mean((cell.apply(params['cell'], [x], p) - y) ** 2)

  def train(key, teacher):
    init_key, teacher_key, key = jax.random.split(key, 3)
    alpha = probabilities_lib.init(SPACE, init_key)
    p = probabilities_lib.probabilities(alpha)
    params = {
      'alpha': alpha,
      'cell': cell.init(init_key, [pictures(init_key)], p),
    }

    def step(carry, step_key):
      params, state = carry
      x = pictures(step_key)
      choices = [
        lambda x=x, name=name: _targets(name, x, teacher_key)
        for name in TEACHERS
      ]
      y = jax.lax.switch(teacher, choices)
      grads = jax.grad(loss)(params, x, y)
      change, state = optimizer.update(grads, state)
      return (optax.apply_updates(params, change), state), None

    carry = (params, optimizer.init(params))
    (params, _), _ = jax.lax.scan(step, carry, jax.random.split(key, steps))
    return probabilities_lib.probabilities(params['alpha'])['edges'][0]

  keys = jax.random.split(seeds.key(0), (len(TEACHERS), RUNS))
  each = jax.vmap(jax.vmap(train, (0, None)), (0, 0))
  return np.asarray(jax.jit(each)(keys, jnp.arange(len(TEACHERS))))


@pytest.mark.slow
def test_the_teachers_operation_wins():
  """5 operations, 5 seeds, 1500 joint steps."""
  found = _masses(1500)
  wanted = [SPACE.ops.index(name) for name in TEACHERS]
  right = found.argmax(-1) == np.array(wanted)[:, None]
  mass = np.stack([found[i, :, op] for i, op in enumerate(wanted)])
  assert right.sum() >= 23, found.round(2)
  assert np.median(mass) > 0.9, mass.round(3)
  assert np.median(mass, axis=1).min() > 0.9, mass.round(3)


def test_equal_operations_have_equal_gradients():
  space = dataclasses.replace(SPACE, ops=('SkipConnection', 'Relu', 'Zero'))
  cell = cells.Cell(2, space)
  x = jnp.abs(darts_cases.normal(1, (2, 4, 4, 2)))
  alpha = {'edges': np.zeros((1, 3), np.float32)}

  def loss(alpha):
    p = probabilities_lib.probabilities(alpha)
    return jnp.mean(cell.apply({'params': {}}, [x], p))

  grads = np.asarray(jax.jit(jax.grad(loss))(alpha)['edges'])[0]
  # Of positive numbers, identity and ReLU are the same.
  assert float(grads[0]) == pytest.approx(float(grads[1]), rel=1e-5)
  assert float(grads[2]) == pytest.approx(-2 * float(grads[0]), rel=1e-5)
