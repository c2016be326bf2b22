import jax
import numpy as np
import pytest

from rl.envs import lanes, pendulum
from rl.es import jax_evaluator
from rl.odetoode import accounting, bodies
from runtime.data import images as images_lib
from runtime.record import ledger

SEEDS = range(4)
COMMON = {
  'paper': 'paper',
  'scale': 'tiny',
  'hardware': 'none',
  'command': 'none',
  'commit': '0' * 7,
  'minutes': 0.0,
}


def check_rows(findings, folder, seeds=SEEDS):
  """Findings make rows of the ledger with pictures; verdicts by id."""
  for finding in findings:
    row = ledger.Row(seeds=tuple(seeds), **finding.fields, **COMMON)
    ledger.write(row, folder)
    if row.verdict == 'holds':  # Pictures take most of the time.
      finding.draw(folder / f'{row.id}.png')
      assert (folder / f'{row.id}.png').stat().st_size > 5_000
  return {f.fields['id']: f.fields['verdict'] for f in findings}


def noisy(value, spread=0.3, seed=0):
  rng = np.random.default_rng(seed)
  return value + spread * rng.standard_normal(len(SEEDS))


# Pictures.


def table(load, changed):
  """Percent by model: ODEtoODE ahead of all by three points."""
  digits = load('reproduce_odetoode_digits')
  found = {}
  for i, name in enumerate(digits.models(4, 2)):
    clean, harmed = (97, 75) if name.startswith('ODEtoODE') else (97, 72)
    clean, harmed = changed.get(name, (clean, harmed))
    found[name] = {
      'test': noisy(clean, 0.1, i),
      'fog': noisy(harmed + 5, 0.3, i),
      'stripe': noisy(harmed - 5, 0.3, i),
    }
  return found


@pytest.mark.parametrize(
  ('changed', 'first', 'second'),
  [
    ({}, 'holds', 'holds'),
    ({'NODE |.|': (97, 75)}, 'fails', 'holds'),
    ({'NODE usual': (97, 78)}, 'holds', 'holds'),
    ({'Dense-1 usual': (99, 70)}, 'fails', 'holds'),
    ({'static W': (97, 78)}, 'holds', 'fails'),
  ],
)
def test_pictures_are_judged(load, tmp_path, changed, first, second):
  digits = load('reproduce_odetoode_digits')
  setting = digits.Setting('digits', images_lib.digits, 4, 2, 1)
  scores = table(load, changed)
  found = digits.findings(scores, dict.fromkeys(scores, 7), setting)
  assert check_rows(found, tmp_path) == {
    'digits-corruptions': first,
    'digits-ablations': second,
  }


def test_classifiers_are_trained(load):
  digits = load('reproduce_odetoode_digits')
  rng = np.random.default_rng(3)
  labels = rng.integers(0, 2, 40).astype(np.int32)
  images = np.tile(labels[:, None, None], (1, 4, 4)).astype(np.float32)
  part = images_lib.ImageSet(images=images, labels=labels)
  pictures = images_lib.Images(train=part, test=part, num_classes=2)
  setting = digits.Setting('x', lambda: pictures, 4, 2, 30, batch=8, rate=0.05)
  body = bodies.ODEtoODE(4, kind='static', n_steps=2)
  found = digits.train(body, pictures, setting, 2)
  assert found['test'].shape == (2,)
  assert found['test'].min() > 90
  assert len(found) == 16


# Control.


def trained(load, changed):
  """Runs that end at 100, but for those that are changed."""
  rl = load('reproduce_odetoode_rl')
  curve = np.linspace(0, 90, 5)
  found = {}
  for name in rl.models(4):
    finals = noisy(changed.get(name, 100.0), 2.0)
    runs = [rl.Run(curve + i, value) for i, value in enumerate(finals)]
    found[name] = rl.Trained(runs, 0.1, {0.1: 70.0, 0.2: 60.0}, 0.0)
  return found


@pytest.mark.parametrize(
  ('changed', 'verdict'),
  [
    ({}, 'holds'),
    ({'ODEtoODE-ISO': 50.0}, 'fails'),
    ({'ODEtoODE-ISO, half width': 50.0}, 'fails'),
    ({'DeepNet': 10.0, 'HyperODE': 105.0}, 'holds'),
  ],
)
def test_returns_are_judged(load, tmp_path, changed, verdict):
  rl = load('reproduce_odetoode_rl')
  params = {
    name: accounting.count_params(body) for name, body in rl.models(16).items()
  }
  setting = rl.Setting('task', None, None, 5, 4, (0.1, 0.2), True, trial=3)
  found = rl.finding(trained(load, changed), params, 13.0, setting)
  assert check_rows([found], tmp_path) == {'task-returns': verdict}
  assert found.fields['ours']['best constant action'] == (13.0,)
  assert 'DeepNet 0.1 (70 / 60)' in found.fields['explanation']
  if verdict == 'holds':
    curves = (tmp_path / 'task-returns-curves.csv').read_text().splitlines()
    assert len(curves) == 1 + 7 * len(SEEDS) * 5
  heavy = params | {'ODEtoODE-ISO': 2000}
  found = rl.finding(trained(load, {}), heavy, 13.0, setting)
  assert found.fields['verdict'] == 'fails'


def pendulum_setting(load, **changed):
  rl = load('reproduce_odetoode_rl')
  options = {
    'generations': 2,
    'pairs': 2,
    'rates': (0.1,),
    'constrain_io': False,
    'episodes': 2,
  }
  return rl.Setting(
    'task',
    lambda: pendulum.Pendulum(max_steps=4),
    jax_evaluator.JaxEvaluator,
    **options | changed,
  )


BODY = bodies.ODEtoODE(3, kind='static', n_steps=2)


@pytest.mark.slow
def test_policies_are_trained(load):
  rl = load('reproduce_odetoode_rl')
  found = rl.train(BODY, pendulum_setting(load), (0, 1))
  assert [run.returns.shape for run in found.runs] == [(2,), (2,)]
  assert found.random < 0
  assert found.runs[0].final != found.runs[1].final
  assert (found.rate, found.tried) == (0.1, {})


def test_a_step_size_is_chosen(load, monkeypatch):
  """By the last generations of one run each; reported seeds take no part."""
  rl = load('reproduce_odetoode_rl')
  setting = pendulum_setting(load, rates=(0.1, 0.3, 0.2), trial=4)
  seen = []

  def run(trainer, seed, generations):
    theta = jax.numpy.ones(1)
    update, _ = trainer.optimizer.update(theta, trainer.optimizer.init(theta))
    rate = round(-float(update[0]), 3)
    seen.append((seed, generations, rate))
    early = 100.0 if rate == 0.2 else 0.0
    return np.array([early, rate, rate, rate]), lambda: rate

  monkeypatch.setattr(rl, '_run', run)
  found = rl.train(BODY, setting, (0, 1))
  assert found.rate == 0.3
  assert found.tried == pytest.approx({0.1: 0.1, 0.3: 0.3, 0.2: 0.2})
  trials = [(1000, 4, rate) for rate in setting.rates]
  assert seen == [*trials, (0, 2, 0.3), (1, 2, 0.3)]


def test_the_best_constant_action(load):
  """Of a pendulum's three, by hand."""
  rl = load('reproduce_odetoode_rl')
  setting = pendulum_setting(load)
  env = setting.env()
  keys = jax.random.split(jax.random.key(0), 9)
  found = []
  for i, key in enumerate(keys):
    key = jax.random.fold_in(key, 0)
    state, _ = env.reset(lanes.reset_key(key, 0))
    total = 0.0
    for t in range(4):
      action = jax.numpy.full((1,), (-2.0, 0.0, 2.0)[i % 3])
      state, step = env.step(state, action, lanes.step_key(key, t))
      total += float(step.reward)
    found.append(total)
  best = np.reshape(found, (3, 3)).mean(0).max()
  assert rl.constant_return(setting) == pytest.approx(best, rel=1e-4)


# Flows.


def ratios(load, beyond, free):
  band = load('reproduce_odetoode_band')
  inside = {(16, 25, t): [band.Ratios(2.0, beyond)] * 2 for t in (1.0, 10.0)}
  outside = {
    (16, 25, t): [band.Ratios(free**t, 1.0 if free > 1 else -1.0)] * 2
    for t in (1.0, 10.0)
  }
  return inside, outside


@pytest.mark.parametrize(
  ('beyond', 'free', 'top', 'verdict'),
  [
    (-0.5, 3.0, 2.0, 'holds'),
    (1e-6, 3.0, 2.0, 'fails'),
    (-0.5, 0.9, 2.0, 'fails'),
    (-0.5, 1.5, 2.0, 'fails'),
    (-0.5, 3.0, 3.0, 'fails'),
  ],
)
def test_the_band_is_judged(load, tmp_path, beyond, free, top, verdict):
  """A ratio of 3 at T = 1 is beyond e."""
  band = load('reproduce_odetoode_band')
  norms = np.geomspace(top, 1.0, 26)[None, :, None].repeat(2, 0)
  found = band.band_finding(
    *ratios(load, beyond, free), {'trained, T=1': (norms, 1.0)}
  )
  rows = check_rows([found], tmp_path, range(2))
  assert rows == {'gradient-band': verdict}


def test_random_nets_are_in_the_band(load):
  band = load('reproduce_odetoode_band')
  cases = ((4, 30, 1.0), (4, 30, 10.0))
  (found,) = band.band_rows('tiny', range(2), cases=cases, steps=0)
  ours = found.fields['ours']
  assert ours['orthogonal, log beyond'][0] < 1e-9
  assert max(ours['free, T=10, greatest ratio']) > 100


@pytest.mark.slow
def test_orders_are_measured_and_judged(load, tmp_path):
  retractions = load('reproduce_odetoode_retractions')
  (found,) = retractions.retraction_rows('tiny', SEEDS, steps=(25, 50))
  assert check_rows([found], tmp_path) == {'retraction-orders': 'holds'}
  known = found.fields['ours']['exp, order 1: error at N=25']
  assert known[0] == pytest.approx(5.67e-3, rel=2e-3)
  errors = {'exp, order 2': [1e-2, 5e-3], 'Euler': [1e-2, 5e-3]}
  wrong = retractions.retraction_finding(
    errors, {'exp, order 2': 1e-15, 'Euler': 1e-2}, (25, 50)
  )
  assert wrong.fields['verdict'] == 'fails'


def test_parameters_are_counted_and_judged(load, tmp_path):
  parameters = load('reproduce_odetoode_parameters')
  (found,) = parameters.params_rows('tiny', SEEDS, widths=(16,))
  assert check_rows([found], tmp_path) == {'flow-parameters': 'holds'}
  cost = accounting.Cost(391, 1, 1)
  wrong = parameters.params_finding({16: {'ODEtoODE-ISO': (cost, 392)}})
  assert wrong.fields['verdict'] == 'fails'


def test_arguments_are_checked(load, capsys):
  script = load('reproduce_odetoode')
  for flags in (['mnist'], ['digits', '--mnist', 'x'], ['table']):
    with pytest.raises(SystemExit):
      script.main(flags)
  assert 'needs --mnist' in capsys.readouterr().err
