import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nas.rl_darts import candidates, operations
from tests import seeds
from tests.nas.rl_darts import darts_cases

PICTURES = sorted(
  name
  for name in operations.OPERATIONS
  if not name.startswith(('Dense', 'Highway', 'Linear'))
)
_FUNCTIONS = {
  'Relu': lambda x: np.maximum(x, 0),
  'Tanh': np.tanh,
  'Sigmoid': lambda x: 1 / (1 + np.exp(-x)),
  'Elu': lambda x: np.where(x > 0, x, np.expm1(x)),
  'Silu': lambda x: x / (1 + np.exp(-x)),
  'Gelu': lambda x: 0.5 * x * (1 + np.vectorize(math.erf)(x / math.sqrt(2))),
  'Selu': lambda x: (
    1.0507009873554805 * np.where(x > 0, x, 1.6732632423543772 * np.expm1(x))
  ),
  'SkipConnection': lambda x: x,
  'Zero': np.zeros_like,
}


def normalized(x, axes):
  variance = x.var(axes, keepdims=True)
  return (x - x.mean(axes, keepdims=True)) / np.sqrt(variance + 1e-5)


def reference(name, params, x, stride):
  """[b, i, j, T, C] by loops over pixels, in float64."""
  relu = name.endswith('Relu') and name != 'Relu'
  base = name.removesuffix('Relu') if relu else name
  small = x if stride == 1 else darts_cases.average_pool(x, 3, stride)
  if base in _FUNCTIONS:
    return _FUNCTIONS[base](small)[..., None, :]
  if 'Pool' in base:
    size = int(base[-1])
    if base.startswith('Max'):
      seen = darts_cases.windows(x, size, stride, fill=-np.inf)
      return seen.max((3, 4))[..., None, :]
    return darts_cases.average_pool(x, size, stride)[..., None, :]
  if 'Norm' in base:
    axes = (0, 1, 2) if base == 'BatchNorm' else -1
    y = normalized(small, axes)[..., None, :]
    return y * params['scale'] + params['bias']
  dilation = 2 if base.startswith('Dil') else 1
  seen = darts_cases.windows(x, int(base[-1]), stride, dilation)
  if base.startswith('Depth'):
    y = np.einsum('bijuvc,uvtc->bijtc', seen, params['kernel'])
    y += params['bias']
    if 'Sep' in base:
      y = np.einsum('bijtc,ctd->bijtd', y, params['mixing'])
      y += params['mixing_bias']
  else:
    y = np.einsum('bijuvc,uvctd->bijtd', seen, params['kernel'])
    y += params['bias']
  return np.maximum(y, 0) if relu else y


@pytest.mark.parametrize('stride', [1, 2, 3])
def test_every_operation_on_pictures_at_every_stride(stride):
  """Fails for an operation that ignores its stride, or refuses it."""
  channels, targets = 2, 2
  rng = seeds.rng(0)
  x = rng.normal(size=(2, 7, 6, channels))
  params = {
    name: {
      key: rng.normal(size=shape)
      for key, (shape, _) in operations.parameters(
        name, channels, targets
      ).items()
    }
    for name in PICTURES
  }

  @jax.jit
  def run(params, x):
    found = {}
    for name in PICTURES:
      op = operations.get(name)
      if isinstance(op, candidates.Feature):
        found[name] = [op.value(x, stride)[..., None, :]]
        continue
      forms = [candidates.Form(stride, products) for products in (False, True)]
      weight = jnp.array([0.7, 0.2])
      found[name] = [op(params[name], x, weight, form) for form in forms]
    return found

  single = jax.tree.map(lambda v: jnp.asarray(v, jnp.float32), (params, x))
  for name, values in run(*single).items():
    expected = reference(name, params[name], x, stride)
    if params[name]:
      expected = expected * np.array([0.7, 0.2])[:, None]
    for value in values:
      assert value.shape[1:3] == (-(-7 // stride), -(-6 // stride)), name
      np.testing.assert_allclose(
        value, expected, rtol=2e-5, atol=2e-5, err_msg=name
      )


@pytest.mark.parametrize(('side', 'stride', 'new'), [(32, 2, 16), (17, 3, 6)])
def test_sides_are_rounded_up(side, stride, new):
  x = jnp.zeros((1, side, side, 1))
  for name in PICTURES:
    op = operations.get(name)
    if isinstance(op, candidates.Feature):
      found = jax.eval_shape(lambda op=op: op.value(x, stride))
    else:
      shapes = operations.parameters(name, 1, 1)
      params = {k: jnp.zeros(p.shape) for k, p in shapes.items()}
      found = jax.eval_shape(
        lambda op=op, params=params: op(
          params, x, jnp.ones(1), candidates.Form(stride)
        )
      )
    assert found.shape[1:3] == (new, new), name


def test_operations_on_vectors():
  rng = seeds.rng(1)
  x = rng.normal(size=(3, 4))
  names = [n for n in operations.OPERATIONS if n not in PICTURES]
  assert len(names) == 16
  for name in names:
    params = {
      key: rng.normal(size=shape)
      for key, (shape, _) in operations.parameters(name, 4, 2).items()
    }
    op = operations.get(name)
    single = jax.tree.map(lambda v: jnp.asarray(v, jnp.float32), (params, x))
    value = op(*single, jnp.ones(2), candidates.Form())
    layer = lambda key, p=params: np.einsum('bc,ctd->btd', x, p[key])
    kind = name.removeprefix('Dense').removeprefix('Highway')
    function = _FUNCTIONS.get(kind, lambda x: x)
    if name.startswith('Highway'):
      gate = _FUNCTIONS['Sigmoid'](layer('gate'))
      expected = gate * function(layer('kernel')) + (1 - gate) * x[:, None]
    else:
      expected = function(layer('kernel') + params['bias'])
    np.testing.assert_allclose(value, expected, rtol=1e-4, atol=1e-5)


def test_first_kernels_have_variance_one_over_fan_in():
  for name, fan_in in (('Conv3x3', 9 * 16), ('DepthConv5x5', 25)):
    kernel = operations.parameters(name, 16, 8)['kernel']
    drawn = np.asarray(kernel.init(seeds.key(2), kernel.shape))
    assert drawn.std() == pytest.approx(fan_in**-0.5, rel=0.05)


def test_unknown_operations_are_named():
  with pytest.raises(ValueError, match=r"'Conv7x7'; there are .*'Conv3x3'"):
    operations.get('Conv7x7')
