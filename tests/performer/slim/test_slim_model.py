"""The SLiM model against its equations, written out in numpy and float64."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from performer import attention
from performer.models import decoding
from performer.slim import model as model_lib
from tests import marks, seeds
from tests.performer.attention import attention_cases as cases
from tests.performer.models import model_cases

VOCAB, LENGTH, B, LAYERS, HEADS, WIDTH, FF = 11, 13, 2, 2, 2, 16, 24
CUTS = (6, 12)
EPSILON = 1e-6
ACTIVATIONS = {
  'square': np.square,
  'relu': lambda x: np.maximum(x, 0),
  'elu1': lambda x: np.where(x > 0, x + 1, np.exp(np.minimum(x, 0))),
  'abs': np.abs,
}


def favor(kernel='square'):
  if kernel == 'softmax_pos':
    return cases.favor(kernel, chunk=4)
  return attention.Favor(
    kernel=kernel,
    projection=False,
    features=None,
    kernel_epsilon=EPSILON,
    chunk=4,
  )


def make(kernel='square', **kwargs):
  sizes = {'num_layers': LAYERS, 'num_heads': HEADS, 'd_model': WIDTH} | kwargs
  mechanism = sizes.pop('attention', None) or favor(kernel)
  return model_lib.SlimTransformer(VOCAB, mechanism, d_ff=FF, **sizes)


@functools.cache
def init(model):
  params, w = model_cases.init(model, 0.3)
  params['tokens']['embedding'] *= 3
  return params, w


@functools.partial(jax.jit, static_argnums=0)
def run(model, params, w, tokens, mask):
  return model.apply({'params': params}, tokens, mask=mask, projections=w)


@functools.partial(jax.jit, static_argnums=0)
def extend(model, params, w, tokens, positions, mask, state):
  return model.apply(
    {'params': params},
    tokens,
    positions=positions,
    mask=mask,
    projections=w,
    state=state,
    method='extend',
  )


def inputs(seed=0):
  tokens = seeds.rng(seed).integers(0, VOCAB, (B, LENGTH), np.int32)
  positions = np.broadcast_to(np.arange(LENGTH, dtype=np.int32), (B, LENGTH))
  return tokens, positions, positions < np.array([[13], [9]])


def read(model, params, w, arrays, cuts, state=None):
  pieces = [np.split(x, cuts, axis=1) for x in arrays]
  logits = []
  for piece in zip(*pieces, strict=True):
    out, state = extend(model, params, w, *piece, state)
    logits.append(out)
  return jnp.concatenate(logits, axis=1), state


def reference(params, w, tokens, mask, *, kernel, norm, interleaved=False):
  """The model's equations, one position and one head at a time."""
  params, w = jax.tree.map(lambda x: np.asarray(x, float), (params, w))
  erf = np.vectorize(math.erf)

  def normalised(x, p):
    x = x - x.mean(-1, keepdims=True)
    x = x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-5)
    return x * p['scale'] + p['bias']

  def linear(x, p):
    return x @ p['kernel'].reshape(x.shape[-1], -1) + p['bias'].ravel()

  def features(x, layer):
    if kernel != 'softmax_pos':
      return ACTIVATIONS[kernel](x) + EPSILON
    x = x * x.shape[-1] ** -0.25
    return np.exp(w[layer] @ x - x @ x / 2)

  def attended(x, p, layer):
    size = WIDTH // HEADS
    q, k, v = (linear(x, p[name]) for name in ('query', 'key', 'value'))
    out = np.zeros_like(x)
    for b in range(B):
      for h in range(HEADS):
        part = slice(h * size, (h + 1) * size)
        numerator, denominator = 0.0, 0.0
        for i in range(LENGTH):
          if mask[b, i]:
            phi = features(k[b, i, part], layer)
            numerator = numerator + np.outer(phi, v[b, i, part])
            denominator = denominator + phi
          phi = features(q[b, i, part], layer)
          out[b, i, part] = (phi @ numerator) / (phi @ denominator)
    return linear(out, p['out']) if 'out' in p else out

  def mlp(x, p):
    h = linear(x, p['mlp_in'])
    h = 0.5 * h * (1 + erf(h / math.sqrt(2)))
    return linear(h, p['mlp_out'])

  rates = [10000 ** (-2 * j / (WIDTH / 2)) for j in range(WIDTH // 4)]
  angles = np.arange(LENGTH)[:, None] * np.array(rates)
  codes = np.concatenate([np.sin(angles), np.cos(angles)], axis=-1)
  if interleaved:
    codes = np.stack([np.sin(angles), np.cos(angles)], -1).reshape(LENGTH, -1)
  x = params['tokens']['embedding'][tokens]
  x = np.concatenate([x, np.broadcast_to(codes, x.shape)], axis=-1)
  for layer in range(LAYERS):
    p = jax.tree.map(lambda x: x[layer], params['blocks'])  # noqa: B023
    if norm == 'post_branch':
      x = x + normalised(attended(x, p['attention'], layer), p['ln_attention'])
      x = x + normalised(mlp(x, p), p['ln_mlp'])
    else:
      h = normalised(x, p['ln_attention'])
      x = x + attended(h, p['attention'], layer)
      x = x + mlp(normalised(x, p['ln_mlp']), p)
  return linear(x, params['logits'])


@pytest.mark.parametrize(
  ('kernel', 'norm', 'output_projection'),
  [
    ('square', 'pre', True),
    *marks.slow(
      ('square', 'post_branch', False), ('softmax_pos', 'pre', False)
    ),
  ],
)
def test_computes_its_equations(kernel, norm, output_projection):
  """In float64, whole and in pieces; other recipes do not pass."""
  with jax.enable_x64(True):
    model = make(
      kernel, norm=norm, output_projection=output_projection, dtype=jnp.float64
    )
    params, w = jax.tree.map(lambda x: x.astype(jnp.float64), init(model))
    tokens, positions, mask = inputs()
    expected = functools.partial(
      reference, params, w, tokens, mask, kernel=kernel
    )
    found = run(model, params, w, tokens, mask)
    assert found.dtype == jnp.float64
    outputs = [np.asarray(found)]
    if norm == 'post_branch':
      arrays = (tokens, positions, mask)
      outputs += [np.asarray(read(model, params, w, arrays, CUTS)[0])]
  truth = expected(norm=norm)
  for out in outputs:
    np.testing.assert_allclose(out, truth, atol=1e-11)
  other = {'pre': 'post_branch', 'post_branch': 'pre'}[norm]
  for wrong in (expected(norm=other), expected(norm=norm, interleaved=True)):
    assert np.abs(outputs[0] - wrong).max() > 1e-2


@pytest.mark.parametrize(
  'kernel', ['elu1', *marks.slow('abs', 'relu', 'square')]
)
def test_maps_of_the_published_runs(kernel):
  model = make(kernel, num_layers=LAYERS)
  params, w = init(model)
  tokens, _, mask = inputs(1)
  found = run(model, params, w, tokens, mask)
  truth = reference(params, w, tokens, mask, kernel=kernel, norm='post_branch')
  np.testing.assert_allclose(found, truth, atol=2e-4)


def test_pieces_are_the_whole():
  model = make('elu1', norm='pre')
  params, w = init(model)
  arrays = inputs()
  whole = run(model, params, w, arrays[0], arrays[2])
  found, _ = read(model, params, w, arrays, CUTS)
  np.testing.assert_allclose(found, whole, atol=3e-5)
  again, _ = read(model, params, w, arrays, CUTS, model.empty_state(B))
  np.testing.assert_array_equal(again, found)


def test_gradients_cross_a_border_in_one_direction():
  """In embeddings that only the later piece uses they are exactly 0."""
  model = make()
  params, w = init(model)
  tokens = np.arange(8)[None]
  arrays = (tokens, tokens, tokens >= 0)

  @jax.jit
  def slopes(params, at):
    def loss(params):
      logits, _ = read(model, params, w, arrays, (4,))
      return jnp.sin(logits[:, at]).sum()

    return jax.grad(loss)(params)['tokens']['embedding']

  before, after = slopes(params, 3), slopes(params, 7)
  assert np.all(before[4:] == 0)
  assert np.all(np.abs(before[:4]).max(axis=1) > 0)
  assert np.all(np.abs(after[:8]).max(axis=1) > 0)


def test_writes_what_it_would_say_itself():
  model = make('elu1')
  params, w = init(model)
  lengths, new = np.array([5, 2]), 6
  prompts = inputs(2)[0][:, :5]
  write = jax.jit(
    functools.partial(decoding.generate, model, max_new_tokens=new)
  )
  written = np.asarray(write(params, prompts, lengths, projections=w).tokens)
  for prompt, length, tokens in zip(prompts, lengths, written, strict=True):
    text = np.concatenate([prompt[:length], tokens, np.zeros(4, np.int32)])
    text = text[None, :11]  # One shape; what follows is not seen.
    logits = np.asarray(run(model, params, w, text, text >= 0))[0]
    expected = logits[length - 1 : length - 1 + new].argmax(-1)
    np.testing.assert_array_equal(tokens, expected)


PUBLISHED = {  # num_layers, num_heads, d_model, d_ff; parameters, numbers.
  'penn': (3, 8, 512, 2048, 8_866_048, 0.381),
  'enwik8': (3, 16, 1024, 4096, 35_033_344, 0.762),
  'copying': (1, 4, 256, 1024, 822_528, 0.063),
}


@pytest.mark.parametrize('name', PUBLISHED)
def test_sizes_of_the_published_models(name):
  depth, heads, width, inner, parameters, mebibytes = PUBLISHED[name]
  model = model_lib.SlimTransformer(256, favor(), depth, heads, width, inner)
  token = jax.ShapeDtypeStruct((1, 1), jnp.int32)
  variables = jax.eval_shape(
    lambda token: model.init(
      seeds.key(0), token, mask=token == 0, projections=None
    ),
    token,
  )
  count = sum(x.size for x in jax.tree.leaves(variables))
  assert count == parameters
  state = jax.eval_shape(lambda: model.empty_state(1))
  features = width // heads
  sums = state.S.size + state.z.size
  assert sums == depth * features * (width + heads)
  assert 4 * sums / 2**20 == pytest.approx(mebibytes, abs=5e-4)
  assert state.c.size == depth * heads


def test_parameters_start_as_in_pytorch():
  model = make(num_layers=4, d_model=64, output_projection=True)
  token = jnp.zeros((1, 1), jnp.int32)
  boxed = jax.jit(
    lambda: model.init(seeds.key(2), token, mask=token == 0, projections=None)
  )()['params']
  boxes = jax.tree.leaves(
    boxed, is_leaf=lambda x: isinstance(x, nn.LogicallyPartitioned)
  )
  assert all(len(x.names) == x.value.ndim for x in boxes)
  params = nn.unbox(boxed)
  embedding = np.asarray(params['tokens']['embedding'])
  assert abs(embedding.std() - 1) < 4 / math.sqrt(2 * embedding.size)
  attend = params['blocks']['attention']
  maps = {
    'query': (attend['query'], 64),
    'out': (attend['out'], 64),
    'mlp_in': (params['blocks']['mlp_in'], 64),
    'mlp_out': (params['blocks']['mlp_out'], FF),
    'logits': (params['logits'], 64),
  }
  for name, (leaf, fan_in) in maps.items():
    for x in (leaf['kernel'], leaf['bias']):
      x = np.ravel(x) * math.sqrt(fan_in)
      assert np.abs(x).max() <= 1, name
      # The variance of a uniform variable in [-1, 1] is 1 / 3, and that of
      # its square 4 / 45.
      z = ((x**2).mean() - 1 / 3) / math.sqrt(4 / 45 / x.size)
      assert abs(z) < 4, (name, z)
  layers = attend['query']['bias']
  assert not np.array_equal(layers[0], layers[1])


def program(model):
  params, w = jax.eval_shape(lambda: init(model))
  tokens, _, mask = inputs()
  return str(jax.make_jaxpr(lambda p: run(model, p, w, tokens, mask))(params))


def test_depth_does_not_grow_the_program():
  one, two = (program(make(num_layers=layers)) for layers in (2, 6))
  assert one.count('\n') == two.count('\n')


def test_low_precision_keeps_parameters_logits_and_state_float32():
  model = make('elu1', dtype=jnp.bfloat16)
  params, w = init(model)
  arrays = inputs()
  found, state = extend(model, params, w, *arrays, None)
  leaves = jax.tree.leaves((params, found, state))
  assert {x.dtype for x in leaves} == {jnp.dtype('float32')}
  full = run(make('elu1'), params, w, arrays[0], arrays[2])
  gap = np.abs(found - full).max()
  assert 1e-4 < gap < 0.3


def test_remat_wraps_the_blocks():
  plain, other = (program(make(remat=remat)) for remat in (False, True))
  assert other.count('remat') > plain.count('remat')


def test_any_length_unless_it_is_bounded():
  tokens, positions, mask = inputs()
  bounded = make(max_length=LENGTH - 1)
  params, w = init(bounded)
  with pytest.raises(ValueError, match='length=13 max_length=12'):
    run(bounded, params, w, tokens, mask)
  logits, _ = extend(bounded, params, w, tokens, positions, mask, None)
  free = run(make(), params, w, tokens, mask)
  logits, free = np.asarray(logits), np.asarray(free)
  np.testing.assert_allclose(logits[:, :-1], free[:, :-1], atol=3e-5)
  assert np.isnan(logits[:, -1]).all()
  with pytest.raises(ValueError, match='max_length=12'):
    decoding.generate(
      bounded,
      params,
      jnp.asarray(tokens[:, :9]),
      jnp.array([9, 9]),
      projections=w,
      max_new_tokens=4,
    )


def test_codes_of_far_positions():
  far = np.array([[0, 1, 4095, 131071]])
  codes = model_lib.position_codes(jnp.asarray(far), 8, jnp.float32)
  angles = far[..., None] * 1e4 ** (-np.arange(4) / 4)
  truth = np.concatenate([np.sin(angles), np.cos(angles)], axis=-1)
  assert np.all(np.abs(codes - truth) <= 2e-7 * far[..., None] + 1e-6)


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    ({'norm': 'post'}, r"'post_branch', 'pre'.*'post'"),
    ({'d_model': 18}, 'd_model=18'),
    ({'d_model': 4, 'num_layers': 0}, "'num_layers': 0"),
    ({'max_length': 0}, "'max_length': 0"),
    ({'num_heads': 3, 'd_model': 8}, r'num_heads=3 .*d_model=8'),
  ],
)
def test_bad_options_are_refused(change, message):
  with pytest.raises(ValueError, match=message):
    make(**change)


def test_exact_attention_has_no_state():
  model = make(attention=attention.Exact())
  params, w = init(model)
  with pytest.raises(ValueError, match='Exact, which has no `extend`'):
    extend(model, params, w, *inputs(), None)
  with pytest.raises(ValueError, match='Exact, which has no `empty_state`'):
    model.empty_state(1)
