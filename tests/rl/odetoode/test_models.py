"""Bodies, heads, and parameters that evolution strategies move on manifolds."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rl.envs import pendulum, spaces
from rl.es import estimators, jax_evaluator, policies, shaping, strategy
from rl.odetoode import (
  baselines,
  bodies,
  evolution,
  geometry,
  heads,
  manifolds,
  solvers,
)
from tests import marks, modules, refusals, seeds

D = 6
BODIES = {
  'iso': bodies.ODEtoODE(D),
  'gated': bodies.ODEtoODE(D, kind='gated', gates=2, hidden=(3,)),
  'static': bodies.ODEtoODE(D, kind='static', bias=True),
  'fixed': bodies.ODEtoODE(D, train_w0=False),
  'free': bodies.ODEtoODE(D, orthogonal=False),
  'dense': baselines.Dense(D, depth=3),
  'residual': baselines.Dense(D, depth=3, residual=True),
  'node': baselines.NODE(D),
  'base_ode': baselines.NODE(D, hidden=(D, D)),
  'nanode': baselines.NANODE(D),
  'hyper': baselines.HyperODE(D),
}
# Flow parameters, heads excluded, by the formulas of the specification.
SIZES = {
  'iso': 3 * D * D,
  'gated': D * D + 2 + 2 * ((D * D + 2) * 3 + 4 * D * D),
  'static': D * D + D,
  'fixed': 2 * D * D,
  'free': 3 * D * D,
  'dense': 3 * (D * D + D),
  'residual': 3 * (D * D + D),
  'node': D * D + D,
  'base_ode': 3 * (D * D + D),
  'nanode': 11 * D * D,
  'hyper': (D * D + 1) * 16 + 272 + 17 * D * D,
}


defect = jax.jit(manifolds.orthogonality_defect)


@pytest.fixture
def rng():
  return seeds.rng(0)


@pytest.mark.parametrize(
  'name',
  [
    *('iso', 'gated', 'static', 'fixed', 'residual', 'node', 'nanode', 'hyper'),
    *marks.slow('free', 'dense', 'base_ode'),
  ],
)
def test_bodies(name, rng):
  body = BODIES[name]
  x = rng.normal(size=(3, D)).astype(np.float32)

  @jax.jit
  def run(x):
    variables = body.init(seeds.key(0), x)
    weights, _ = body.apply(variables, method='weights')
    alone = body.apply(variables, weights, x[1], method='advance')
    path = body.apply(variables, weights, x, method='states')
    return variables, body.apply(variables, x), alone, path

  variables, (found, aux), alone, path = run(x)
  assert (
    sum(p.size for p in jax.tree.leaves(variables['params'])) == SIZES[name]
  )
  np.testing.assert_allclose(found[1], alone, rtol=1e-4, atol=1e-5)
  assert np.abs(found - x).max() > 1e-2
  np.testing.assert_array_equal(path[0], x)
  np.testing.assert_allclose(path[-1], found, rtol=1e-4, atol=1e-5)
  if name in ('iso', 'gated', 'static', 'fixed'):
    assert aux['orthogonality_defect'] < 1e-5
  if name == 'iso':
    assert aux['lyapunov_gain'] > 0


def test_gated_flows_start_small():
  body = bodies.ODEtoODE(16, kind='gated')

  @jax.jit
  def start(key):
    bound = body.bind(body.init(key, jnp.zeros(16)))
    bound.weights()
    return bound.generator()(jnp.zeros(()), bound.w0)

  assert 0.1 < np.linalg.norm(start(seeds.key(1)), 2) < 1


def test_nanode_is_its_polynomial(rng):
  body = baselines.NANODE(2, degree=2, n_steps=4, time=2.0)
  variables = modules.init(body, seeds.key(0), jnp.zeros(2))
  matrices, _ = jax.jit(lambda v: body.apply(v, method='weights'))(variables)
  c = np.asarray(variables['params']['coefficients'])
  t = 1.5
  expected = c[0]
  for j in (1, 2):
    angle = 2 * np.pi * j * t / 2.0
    expected = expected + np.cos(angle) * c[j] + np.sin(angle) * c[2 + j]
  np.testing.assert_allclose(matrices[3], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('kind', ['nanode', *marks.slow('hyper'), 'node'])
def test_adaptive_solutions_are_limits_of_fixed_ones(kind, rng):
  pytest.importorskip('diffrax')
  make = {
    'nanode': lambda **k: baselines.NANODE(3, degree=1, f=jnp.tanh, **k),
    'hyper': lambda **k: baselines.HyperODE(3, f=jnp.tanh, **k),
    'node': lambda n_steps=None, adaptive=None: baselines.NODE(
      3, solver=adaptive or solvers.Fixed(n_steps)
    ),
  }[kind]
  x = jnp.asarray(rng.normal(size=(2, 3)), jnp.float32)
  fixed = make(n_steps=4000)
  variables = modules.init(fixed, seeds.key(0), x)
  exact = make(adaptive=solvers.Adaptive(1e-5, 1e-7))
  np.testing.assert_allclose(
    modules.apply(fixed, variables, x)[0],
    modules.apply(exact, variables, x)[0],
    atol=2e-3,
  )
  adaptive = make(adaptive=solvers.Adaptive())
  assert fixed.layered
  assert not adaptive.layered
  with pytest.raises(ValueError, match='depend on x'):
    adaptive.apply(variables, None, x, method='states')


@pytest.mark.parametrize(
  ('method', 'order'), [('euler', 1), ('midpoint', 2), ('rk4', 4)]
)
def test_orders_of_fixed_steps(method, order):
  field = lambda t, x: {'a': x['a'] * jnp.cos(t)}
  with jax.enable_x64(True):
    start = {'a': jnp.ones(())}
    run = lambda n: jax.jit(
      lambda x: solvers.integrate(field, x, n_steps=n, time=1.0, method=method)[
        'a'
      ]
    )(start)
    errors = [abs(run(n) - np.exp(np.sin(1.0))) for n in (16, 32)]
  assert errors[0] / errors[1] == pytest.approx(2**order, rel=0.2)


def test_classifier_drops_states_only():
  model = heads.Classifier(BODIES['iso'], num_classes=3, dropout=0.5)
  s = jnp.ones((4, 2, 2))
  variables = modules.init(model, seeds.key(0), s)
  logits, aux = modules.apply(model, variables, s)
  assert logits.shape == (4, 3)
  run = jax.jit(
    lambda key: model.apply(variables, s, train=True, rngs={'dropout': key})
  )
  (first, aux_1), (second, aux_2) = run(seeds.key(1)), run(seeds.key(2))
  assert jnp.abs(first - second).max() > 1e-3
  assert aux_1 == aux_2 == aux


SPACES = spaces.Box((3,), -1.0, 1.0), spaces.Box((2,), -0.5, 0.5)


def make_policy(**kwargs):
  return heads.Policy(*SPACES, BODIES['iso'], **kwargs)


def test_policy_is_its_formula(rng):
  policy = make_policy()
  s = jnp.asarray(rng.normal(size=3), jnp.float32)

  @jax.jit
  def run(key):
    theta = policy.init(key)
    params = policy.params(theta)
    body = {'params': params['body']}
    x, _ = BODIES['iso'].apply(body, params['input'] @ s)
    defects = [defect(params[name]) for name in ('input', 'readout')]
    action = policy.act(policy.unravel(theta), (), s)[1]
    return theta, action, params['readout'] @ x, jnp.stack(defects)

  theta, action, free, defects = run(seeds.key(4))
  assert theta.shape == (policy.size,)
  assert defects.max() < 1e-5
  expected = np.clip(free, -0.5, 0.5)
  np.testing.assert_allclose(action, expected, rtol=1e-4, atol=1e-6)
  assert isinstance(policy, policies.Policy)
  counts = {b.kind: b.dimension for b in policy.geometry.blocks}
  assert counts['orthogonal'] == D * (D - 1) // 2


def test_policies_may_begin_alike(rng):
  """A readout of zero gives the middle of the box; else its scale counts."""
  s = jnp.asarray(rng.normal(size=3), jnp.float32)
  scales = (1.0, 0.0, 0.25)
  make = functools.partial(make_policy, constrain_io=False, squash='tanh')

  @jax.jit
  def begin(key):
    policy = make()
    thetas = jnp.stack([make(readout_scale=x).init(key) for x in scales])
    act = lambda theta: policy.act(policy.unravel(theta), (), s)[1]
    return jax.vmap(policy.params)(thetas), jax.vmap(act)(thetas)

  found, actions = jax.device_get(begin(seeds.key(5)))
  for i, scale in enumerate(scales):
    whole, begun = (jax.tree.map(lambda x, j=j: x[j], found) for j in (0, i))
    expected = whole | {'readout': np.float32(scale) * whole['readout']}
    jax.tree.map(np.testing.assert_array_equal, begun, expected)
    assert (np.abs(actions[i]).max() > 0) == (scale > 0)


@pytest.mark.parametrize('perturb', geometry.PERTURBATIONS)
def test_members_and_updates(perturb, rng):
  """Members are on the manifold if tangent; theta stays there either way."""
  policy = make_policy(perturb=perturb)
  where = policy.geometry
  tangents = 0.3 * rng.normal(size=(5, where.size(policy.size)))

  @jax.jit
  def run(key, tangents):
    theta = policy.init(key)
    moved = where.step(theta, tangents[0])
    members = where.perturb(theta, tangents)
    parts = jax.vmap(policy.params)(
      jnp.concatenate([theta[None], moved[None], members])
    )
    parts = {**parts, **parts['body']}
    return [(parts[x], defect(parts[x])) for x in ('input', 'readout', 'w0')]

  for part, defects in run(seeds.key(4), np.float32(tangents)):
    assert (defects[2:].max() < 1e-5) == (perturb == 'tangent')
    assert defects[1] < 1e-5
    assert np.abs(part[1] - part[0]).max() > 1e-3


@pytest.mark.parametrize('perturb', geometry.PERTURBATIONS)
def test_estimates_tend_to_the_riemannian_gradient(perturb, rng):
  key = jax.random.key(int(rng.integers(1 << 30)))
  draw = lambda *shape: rng.normal(size=shape).astype(np.float32)
  w, p = (np.linalg.qr(draw(*shape))[0] for shape in ((3, 3), (4, 2)))
  c, gw, gp = draw(2), draw(3, 3), draw(4, 2)
  params = {'c': c, 'p': p, 'w0': w}
  where = geometry.Manifold.of(
    params, {'w0': 'orthogonal', 'p': 'stiefel'}, perturb=perturb
  )
  theta = np.concatenate([x.ravel() for x in jax.tree.leaves(params)])
  rate = 1e-3

  def objective(theta):
    q = geometry.unflatten(params, theta)
    return jnp.sum(q['w0'] * gw) + jnp.sum(q['p'] * gp) + jnp.sum(q['c'] ** 2)

  @jax.jit
  def run(theta):
    gradient = evolution.es_gradient(
      objective, theta, key, num_pairs=16384, sigma=0.01, geometry=where
    )
    new = geometry.unflatten(params, where.step(theta, rate * gradient))
    turned, moved = (
      function(*map(jnp.asarray, pair))
      for function, *pair in (
        (manifolds.riemannian_gradient, w, gw),
        (manifolds.stiefel_gradient, p, gp),
      )
    )
    return gradient, new, turned, moved

  gradient, new, omega, moved = jax.device_get(run(theta))
  slope = lambda name: (new[name] - params[name]) / rate
  scale = 6 * np.linalg.norm(gradient) / 128
  np.testing.assert_allclose(slope('w0'), w @ omega, atol=scale)
  np.testing.assert_allclose(slope('p'), moved, atol=scale)
  np.testing.assert_allclose(slope('c'), 2 * c, atol=scale)


def test_strategy_keeps_theta_on_its_manifold():
  env = pendulum.Pendulum(max_steps=10)
  policy = heads.Policy(env.observation_space, env.action_space, BODIES['iso'])
  config = strategy.ESConfig(
    num_pairs=4, estimator=estimators.Antithetic(shaping.z_score)
  )
  algorithm = strategy.Strategy(config, optax.adam(0.1), policy.geometry)
  evaluator = jax_evaluator.JaxEvaluator(env, policy)

  @jax.jit
  def run(key):
    theta = policy.init(key)
    step = lambda state, _: algorithm.step(state, evaluator)
    state = algorithm.init(theta, seeds.key(1), (3,))
    state, metrics = jax.lax.scan(step, state, length=5)
    params = policy.params(state.theta)
    defects = defect(params['body']['w0']), defect(params['input'])
    return metrics, defects, jnp.abs(state.theta - theta).max()

  metrics, defects, moved = run(seeds.key(0))
  assert np.isfinite(metrics['episode_return']).all()
  assert max(defects) < 1e-5
  assert moved > 0.05


def built(body):
  return body.init(seeds.key(0), jnp.zeros(D))


def classified(**settings):
  classifier = heads.Classifier(bodies.ODEtoODE(D), **settings)
  return classifier.init(seeds.key(0), jnp.ones((1, D)))


test_bad_settings_are_named = refusals.table(
  (lambda: built(bodies.ODEtoODE(D, kind='isometric')), 'kind'),
  (lambda: make_policy(squash='sigmoid'), 'squash'),
  (lambda: make_policy(perturb='sideways'), 'perturb'),
  (lambda: make_policy(readout_scale=0.0), 'readout_scale'),
  (
    lambda: make_policy(constrain_io=False, readout_scale=-1.0),
    'readout_scale',
  ),
  (
    lambda: solvers.integrate(
      lambda t, x: x, jnp.ones(1), n_steps=1, method='rk5'
    ),
    'method',
  ),
  (lambda: solvers.Adaptive(rtol=-1.0), 'tolerances'),
  (lambda: solvers.Adaptive(atol=np.nan), 'tolerances'),
  (lambda: geometry.Block('orthogonal', (2, 3)), 'square'),
  (lambda: classified(num_classes=0, dropout=1.5), 'classes'),
  (lambda: classified(num_classes=3, dropout=1.5), 'dropout'),
)


@pytest.mark.parametrize(
  ('make', 'settings'),
  [
    (bodies.ODEtoODE, {'width': 0}),
    (bodies.ODEtoODE, {'kind': 'static', 'n_steps': -2}),
    (bodies.ODEtoODE, {'kind': 'gated', 'gates': 0}),
    (bodies.ODEtoODE, {'kind': 'gated', 'hidden': (0,)}),
    (bodies.ODEtoODE, {'time': np.nan}),
    (baselines.Dense, {'width': 0}),
    (baselines.NODE, {'hidden': (-1,)}),
    (baselines.NANODE, {'n_steps': 0}),
    (baselines.HyperODE, {'hidden': (0,)}),
    (baselines.HyperODE, {'time': np.nan}),
  ],
)
def test_settings_out_of_range_are_named(make, settings):
  *_, word = settings
  with pytest.raises(ValueError, match=f'^{word} must be'):
    built(make(**{'width': D} | settings))


@pytest.mark.parametrize(
  'body',
  [
    bodies.ODEtoODE(D, kind='static'),
    baselines.Dense(D, depth=2),
    baselines.NODE(D, hidden=(3,)),
    *marks.slow(baselines.NODE(D, solver=solvers.Adaptive())),
  ],
)
def test_states_keep_half_precision_and_must_fit(body):
  variables = modules.init(body, seeds.key(0), jnp.zeros(D))
  x = jnp.linspace(-1.0, 1.0, D)
  half = modules.apply(body, variables, x.astype(jnp.bfloat16))[0]
  assert half.dtype == jnp.bfloat16
  np.testing.assert_allclose(
    half.astype(jnp.float32), modules.apply(body, variables, x)[0], atol=0.1
  )
  with pytest.raises(ValueError, match='states must be floats'):
    body.apply(variables, jnp.ones(D + 1))


test_integration_of_whole_numbers_is_refused = refusals.all_with(
  'x0 must be floats',
  lambda: solvers.integrate(lambda t, x: x, jnp.ones(2, int), n_steps=2),
  lambda: solvers.Adaptive()(lambda t, x: x, jnp.ones(2, int), time=1.0),
)


def test_strategies_refuse_what_does_not_fit():
  shapes = {'w0': jnp.eye(3)}
  with pytest.raises(ValueError, match='orthogonl'):
    geometry.Manifold.of(shapes, {'w0': 'orthogonl'})
  for mode in geometry.PERTURBATIONS:
    where = geometry.Manifold((geometry.Block('orthogonal', (3, 3)),), mode)
    estimate = functools.partial(
      evolution.es_gradient, jnp.sum, key=seeds.key(0), geometry=where
    )
    for theta, pairs, sigma, word in (
      (jnp.ones(10), 2, 0.1, 'theta must have 9 entries'),
      (jnp.ones(9), 0, 0.1, 'num_pairs must be positive'),
      (jnp.ones(9), 2, 0.0, 'sigma must be positive'),
      (jnp.ones(9), 2, -0.1, 'sigma must be positive'),
    ):
      with pytest.raises(ValueError, match=word):
        estimate(theta, num_pairs=pairs, sigma=sigma)
