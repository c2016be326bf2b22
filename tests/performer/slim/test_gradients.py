"""All strategies give the value and the gradients of the dense model."""

import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from performer import slim
from performer.slim import drift, reversal, strategies
from tests import marks, seeds
from tests.performer.slim import slim_cases as cases

STRATEGIES = ['subtract', 'anchored', 'checkpoint2', 'full', 'checkpoint']
KERNELS = {
  'elu1': {},
  'square': {},
  'relu': {},
  'softmax_pos': {'stabilizer': 'none'},
}


@functools.partial(
  jax.jit, static_argnames=('kernel', 'options', 'chunk', 'strategy', 'dtype')
)
def _gradients(params, inputs, w, *, kernel, options, chunk, strategy, dtype):
  mechanism = cases.favor(kernel, **dict(options))
  return slim.slim_value_and_grad(
    cases.problem(mechanism, dtype),
    params,
    inputs,
    chunk=chunk,
    strategy=strategy,
    constants=w,
    normalizer=normalizer(inputs),
    wrt_inputs=True,
  )


def normalizer(inputs):
  return inputs['weights'].sum()


def gradients(
  kernel, chunk, strategy, *, wide, params=None, inputs=None, **options
):
  options = {**KERNELS.get(kernel, {}), **options}
  mechanism = cases.favor(kernel, **options)
  params, inputs = params or cases.params(), inputs or cases.inputs()
  w = cases.projections(mechanism)
  if wide:
    params, inputs, w = cases.double((params, inputs, w))
  return _gradients(
    params,
    inputs,
    w,
    kernel=kernel,
    options=tuple(options.items()),
    chunk=chunk,
    strategy=strategy,
    dtype=jnp.float64 if wide else jnp.float32,
  )


def dense(kernel):
  """Loss and gradients of the quadratic twin, float64."""
  w = cases.projections(cases.favor(kernel, **KERNELS.get(kernel, {})))
  params, inputs, w = cases.double((cases.params(), cases.inputs(), w))

  def loss(params, weights):
    batch = {**inputs, 'weights': weights}
    total = cases.dense_loss(params, batch, w, kernel)
    return total / normalizer(inputs)

  return jax.jit(jax.value_and_grad(loss, (0, 1)))(params, inputs['weights'])


QUICK = ((21, 'full'), (5, 'subtract'))
OTHERS = ((4, 'anchored'), (5, 'checkpoint'), (5, 'checkpoint2'))


@pytest.mark.parametrize(
  ('kernel', 'runs'),
  [
    ('elu1', QUICK),
    *marks.slow(('elu1', OTHERS)),
    *marks.slow(*((k, QUICK + OTHERS) for k in KERNELS if k != 'elu1')),
  ],
)
def test_equal_to_the_dense_model_in_float64(kernel, runs):
  with jax.enable_x64(True):
    value, (grads, weights) = dense(kernel)
    for chunk, strategy in runs:
      ours = gradients(kernel, chunk, strategy, wide=True)
      case = f'{chunk=} {strategy=}'
      np.testing.assert_allclose(ours.loss, value, rtol=1e-13, err_msg=case)
      assert cases.apart(ours.params, grads) < 1e-12, case
      assert cases.apart(ours.inputs['weights'], weights) < 1e-12, case
      assert ours.inputs['tokens'] is None
    assert max(jax.tree.leaves(jax.tree.map(np.max, ours.drift)) or [0]) < 1e-12


@pytest.mark.parametrize(
  ('chunk', 'strategy'),
  [(64, 'subtract'), *marks.slow((1, 'subtract'), (64, 'checkpoint'))],
)
def test_any_chunk(chunk, strategy):
  """Also larger than the sequence; the same state at its end."""
  with jax.enable_x64(True):
    full = gradients('elu1', 21, 'full', wide=True)
    ours = gradients('elu1', chunk, strategy, wide=True)
    assert cases.apart(ours.params, full.params) < 1e-12
    assert cases.apart(ours.start, full.start) < 1e-12
    one, two = ([x.state.S, x.state.z] for x in (ours, full))
    assert cases.apart(one, two) < 1e-13
    assert cases.apart(ours.metrics, full.metrics) < 1e-13


@pytest.mark.slow
@pytest.mark.parametrize('strategy', ['checkpoint', 'checkpoint2'])
def test_stabilised_features_by_stored_states(strategy):
  with jax.enable_x64(True):
    full = gradients('softmax_hyp', 21, 'full', wide=True)
    ours = gradients('softmax_hyp', 5, strategy, wide=True)
    assert cases.apart(ours.params, full.params) < 1e-12
  narrow = gradients('softmax_hyp', 5, strategy, wide=False)
  assert cases.apart(narrow.params, full.params) < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize('strategy', STRATEGIES)
def test_float32(strategy):
  with jax.enable_x64(True):
    truth = gradients('elu1', 21, 'full', wide=True)
  ours = gradients('elu1', 5, strategy, wide=False)
  assert cases.apart(ours.params, truth.params) < 1e-5
  assert ours.loss.dtype == jnp.float32


@pytest.mark.slow
@pytest.mark.parametrize('strategy', STRATEGIES)
def test_gradient_in_the_first_state_by_differences(strategy):
  """The start is not empty, and the loss also looks at the last state."""
  mechanism = cases.favor('elu1')
  with jax.enable_x64(True):
    problem = cases.problem(mechanism, jnp.float64)
    params, inputs = cases.double((cases.params(), cases.inputs()))
    before = cases.double(cases.inputs(5, length=9))
    state = slim.slim_apply(problem, params, before, chunk=9).state

    @jax.jit
    @functools.partial(jax.value_and_grad, argnums=(0, 1))
    def value_and_grad(params, sums):
      start = state._replace(S=sums[0], z=sums[1])
      options = {'chunk': 8, 'strategy': strategy, 'on_drift': None}
      out = slim.slim_apply(problem, params, inputs, state=start, **options)
      return out.loss + jnp.sin(out.state.S).sum() + jnp.cos(out.state.z).sum()

    point = (params, (state.S, state.z))
    _, slopes = value_and_grad(*point)
    rng = seeds.rng(3)
    way = jax.tree.map(
      lambda x: jnp.asarray(rng.standard_normal(x.shape)), point
    )
    ahead, behind = (
      value_and_grad(*jax.tree.map(lambda x, d, e=e: x + e * d, point, way))[0]
      for e in (1e-6, -1e-6)
    )
    found = float(sum(jax.tree.leaves(jax.tree.map(jnp.vdot, slopes, way))))
    expected = float(ahead - behind) / 2e-6
  assert abs(found - expected) < 1e-6 * abs(expected)


@pytest.mark.slow
def test_losses_of_a_sequence_do_not_depend_on_later_tokens():
  inputs = cases.inputs()
  later = jnp.arange(21) >= 10

  @functools.partial(jax.jit, static_argnames='strategy')
  def early(params, strategy):
    weights = jnp.where(later, 0.0, inputs['weights'])
    mixed = {**inputs, 'weights': weights}
    problem = cases.problem(cases.favor())
    moved = {**mixed, 'tokens': jnp.where(later, 3, mixed['tokens'])}
    options = {'chunk': 4, 'strategy': strategy, 'on_drift': None}
    grad = jax.grad(slim.slim_loss, argnums=1)
    return [grad(problem, params, x, **options) for x in (mixed, moved)]

  for strategy in ('subtract', 'checkpoint2'):
    one, two = early(cases.params(), strategy)
    assert cases.apart(one['layers'], two['layers']) < 1e-6
    assert cases.apart(one['out'], two['out']) < 1e-6


@pytest.mark.slow
def test_second_derivatives():
  """Of `checkpoint`, by differences; `subtract` refuses."""
  with jax.enable_x64(True):
    params, inputs = cases.double((cases.params(), cases.inputs(length=9)))
    problem = cases.problem(cases.favor(), jnp.float64)

    def loss(scale, strategy):
      moved = jax.tree.map(lambda x: x * scale, params)
      return slim.slim_loss(
        problem, moved, inputs, chunk=4, strategy=strategy, on_drift=None
      )

    slope = jax.jit(jax.grad(loss), static_argnames='strategy')
    second = jax.jit(jax.grad(jax.grad(loss)), static_argnames='strategy')
    ahead, behind = (slope(1.0 + e, 'checkpoint') for e in (1e-5, -1e-5))
    expected = (ahead - behind) / 2e-5
    np.testing.assert_allclose(second(1.0, 'checkpoint'), expected, rtol=1e-7)
    forward = jax.jit(
      lambda s: jax.jvp(lambda s: loss(s, 'checkpoint'), (s,), (1.0,))[1]
    )(1.0)
    np.testing.assert_allclose(forward, slope(1.0, 'checkpoint'), rtol=1e-9)
    for strategy in ('subtract', 'anchored'):
      with pytest.raises(NotImplementedError, match='first derivatives only'):
        second(1.0, strategy)
    with pytest.raises(TypeError, match='forward-mode'):
      jax.jvp(lambda s: loss(s, 'subtract'), (1.0,), (1.0,))


@pytest.mark.slow
def test_differentiating_through_the_subtraction_would_be_wrong(monkeypatch):
  """What is added and taken away again cancels, and its gradient with it."""

  def gradient():
    problem, inputs = cases.problem(cases.favor()), cases.inputs()
    return jax.jit(
      lambda params: (
        slim.slim_value_and_grad(
          problem, params, inputs, chunk=5, strategy='subtract'
        ).params
      )
    )(cases.params())

  right = gradient()
  lax = types.SimpleNamespace(stop_gradient=lambda x: x)
  fake = types.SimpleNamespace(lax=lax, tree=jax.tree)
  monkeypatch.setattr(reversal, 'jax', fake)
  assert cases.apart(gradient(), right) > 0.01


def test_anchors_stop_what_subtraction_loses():
  """A late key of great norm loses the states before it, up to an anchor."""
  problem = cases.problem(cases.favor('square'))
  size, length = 4, 60
  run = strategies.run_length(length, size)
  last = length - run * size  # First position of the last run.
  inputs = cases.inputs(seeds.rng(0).integers(2**31), length=length)
  inputs, params = jax.tree.map(np.array, (inputs, cases.params()))
  tokens = np.maximum(inputs['tokens'], 1)
  tokens[:, -2] = 0
  weights = np.where(np.arange(length) < last, inputs['weights'], 0)
  inputs |= {'tokens': tokens, 'weights': weights}
  inputs['mask'] |= tokens == 0
  params['embed'][0] *= 1e3

  @functools.partial(jax.jit, static_argnames='strategy')
  def gradient(params, strategy):
    return slim.slim_value_and_grad(
      problem, params, inputs, chunk=size, strategy=strategy
    )

  truth = gradient(params, 'checkpoint').params
  lost, saved = (gradient(params, name) for name in ('subtract', 'anchored'))
  assert cases.apart(lost.params, truth) > 1e-2
  assert cases.apart(saved.params, truth) < 1e-5
  # It is seen where it happens.
  assert lost.drift.max() > drift.THRESHOLD
  assert saved.drift.max() > 1e-3


def test_runs_are_about_as_many_as_their_chunks():
  """Any chunk belongs to one; few are filled up."""
  for count in (*range(1, 300), 1000, 4099):
    run = strategies.run_length(count * 7 - 3, 7)
    runs = -(-count // run)
    assert 1 <= run <= count
    assert run + runs <= 2.4 * count**0.5
    assert run * runs - count <= max(2, 0.1 * count)
  assert strategies.run_length(32, 1) == 4


@pytest.mark.slow
@pytest.mark.parametrize('strategy', STRATEGIES)
def test_narrow_parameters_have_wide_sums(strategy):
  params = cases.params()
  narrow = jax.tree.map(lambda x: x.astype(jnp.bfloat16), params)
  rounded = jax.tree.map(lambda x: x.astype(jnp.float32), narrow)
  inputs = cases.inputs(length=61)
  options = {'wide': False, 'inputs': inputs}
  truth = gradients('elu1', 64, 'full', params=rounded, **options)
  ours = gradients('elu1', 4, strategy, params=narrow, **options)
  dtypes = {x.dtype for x in jax.tree.leaves(ours.params)}
  assert dtypes == {jnp.dtype(jnp.bfloat16)}
  assert ours.state.S.dtype == jnp.float32
  assert cases.apart(ours.params, truth.params) < 0.05


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    ({'chunk': 0}, 'chunk must be a positive integer, got chunk=0'),
    ({'chunk': 4, 'strategy': 'magic'}, "one of .*'checkpoint2'.*'magic'"),
  ],
)
def test_bad_requests(options, message):
  problem = cases.problem(cases.favor())
  with pytest.raises(ValueError, match=message):
    slim.slim_loss(problem, cases.params(), cases.inputs(), **options)


ONLINE = r"plain sums.*Got.*'softmax_hyp'.*'online'"


def vector(*args):
  loss, state, metrics = cases.chunk_loss(*args)
  return loss[None], state, metrics


def drops(*args):
  loss, _, metrics = cases.chunk_loss(*args)
  return loss, jax.tree.map(lambda x: x + 0, args[2]), metrics


@pytest.mark.parametrize(
  ('call', 'kernel', 'loss', 'message'),
  [
    (slim.slim_loss, 'softmax_hyp', cases.chunk_loss, ONLINE),
    (
      slim.slim_loss,
      'elu1',
      vector,
      r'must be a sum, a scalar; got shape \(1,\)',
    ),
    (slim.slim_value_and_grad, 'elu1', drops, 'must pass through'),
  ],
)
def test_bad_problems(call, kernel, loss, message):
  problem = cases.problem(cases.favor(kernel), loss=loss)
  options = {'chunk': 4, 'strategy': 'subtract'}
  with pytest.raises(ValueError, match=message):
    call(problem, cases.params(), cases.inputs(), **options)


def test_inputs_of_several_lengths_are_refused():
  inputs = cases.inputs()
  inputs['mask'] = inputs['mask'][:, :-1]
  problem = cases.problem(cases.favor())
  with pytest.raises(ValueError, match=r'same b and l.*\(2, 20\), \(2, 21\)'):
    slim.slim_loss(problem, cases.params(), inputs, chunk=4)


def test_auto_is_the_plan_for_the_budget():
  problem = cases.problem(cases.favor())
  params, inputs = cases.params(), cases.inputs(batch=1, length=300)
  plans = []

  @functools.partial(jax.jit, static_argnames=('options',))
  def gradient(params, options):
    loss = functools.partial(
      slim.slim_loss, problem, inputs=inputs, on_plan=plans.append
    )
    return jax.grad(lambda p: loss(p, **dict(options)))(params)

  known = gradient(params, (('strategy', 'full'), ('chunk', 300)))
  assert not plans
  considered = slim.plan(problem, params, inputs).candidates
  budget = 0.6 * next(
    c.temporary_bytes for c in considered if c.strategy == 'full'
  )
  found = gradient(params, (('strategy', 'auto'), ('memory_budget', budget)))
  (chosen,) = plans
  assert chosen == next(c for c in considered if c.temporary_bytes <= budget)
  assert chosen.strategy == 'checkpoint'
  assert chosen.temporary_bytes <= budget
  assert cases.apart(found, known) < 1e-5
  with pytest.raises(ValueError, match='no plan fits memory_budget'):
    gradient(params, (('strategy', 'auto'), ('memory_budget', 1.0)))
  with pytest.raises(ValueError, match='chunk must be a positive integer'):
    gradient(params, (('strategy', 'auto'), ('chunk', 0)))
