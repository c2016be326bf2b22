"""The rows of ODEtoODE: what is measured and judged, at sizes of a second."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from papers import rows
from papers.odetoode import band, control, flows, pictures
from rl.envs import lanes, pendulum
from rl.es import jax_evaluator
from rl.odetoode import bodies
from runtime.data import images as images_lib
from tests.papers import planted

SYSTEM = rows.find()['odetoode']
publish = functools.partial(planted.publish, SYSTEM)
ISO, MEAN = pictures.ISO, 'mean of 15 corruptions'


# Pictures.


@pytest.mark.parametrize(
  ('changed', 'first', 'second'),
  [
    ({}, 'holds', 'holds'),
    ({'NODE |.|': (97, 75)}, 'fails', 'holds'),
    ({'NODE usual': (97, 78)}, 'holds', 'holds'),
    ({'Dense-1 usual': (99, 70)}, 'fails', 'holds'),
    ({'static W': (97, 78)}, 'holds', 'fails'),
    ({'W_0 free': (99, 70)}, 'fails', 'holds'),  # Best on clean pictures.
  ],
)
def test_pictures_are_judged(changed, first, second):
  """ODEtoODE ahead of all by three points but for what is changed."""
  corruptions, ablations = pictures.ROWS[:2]
  study = corruptions.at_scale('tiny')
  records = {}
  for i, name in enumerate(study.arms):
    clean, harmed = (97, 75) if name.startswith('ODEtoODE') else (97, 72)
    clean, harmed = changed.get(name, (clean, harmed))
    records[name] = [
      {'test': c, 'fog': h + 5, 'stripe': h - 5, MEAN: h}
      for c, h in zip(
        planted.noisy(clean, 0.1, i), planted.noisy(harmed, 0.3, i), strict=True
      )
    ]
  found = planted.results(study, records)
  assert planted.verdict(corruptions, found) == first
  assert planted.verdict(ablations, found) == second


def images():
  rng = np.random.default_rng(3)
  labels = rng.integers(0, 2, 40).astype(np.int32)
  pixels = np.tile(labels[:, None, None], (1, 4, 4)).astype(np.float32)
  part = images_lib.ImageSet(images=pixels, labels=labels)
  return images_lib.Images(train=part, test=part, num_classes=2)


def test_classifiers_are_trained_side_by_side():
  body = bodies.ODEtoODE(4, kind='static', n_steps=2)
  setting = pictures.Setting(images, 4, 2, 30, batch=8, rate=0.05, body=body)
  found = pictures.run(setting, seeds=(0, 1))
  assert len(found) == 2
  assert min(record['test'] for record in found) > 90
  assert len(found[0]) == 17  # Clean, fifteen corruptions and their mean.
  (alone,) = pictures.run(setting, seeds=(1,))
  assert alone == pytest.approx(found[1], abs=3)  # A picture is 2.5 %.


# Control.


@pytest.mark.parametrize(
  ('changed', 'verdict'),
  [
    ({}, 'holds'),
    ({'ODEtoODE-ISO': 50.0}, 'fails'),
    ({'ODEtoODE-ISO, half width': 50.0}, 'fails'),
    ({'DeepNet': 10.0, 'HyperODE': 105.0}, 'holds'),
  ],
)
def test_returns_are_judged(changed, verdict):
  """Runs that end at 100, but for those that are changed."""
  row = SYSTEM.rows['swimmer-returns']
  study = row.at_scale('tiny')
  records = {
    arm: [
      {'returns': np.linspace(0, 90, 5) + i, 'final': value}
      for i, value in enumerate(planted.noisy(changed.get(arm, 100.0), 2.0))
    ]
    for arm in study.arms
  }
  records |= {'random actions': {'final': 0.0}}
  records |= {'best constant action': {'final': 13.0}}
  found = planted.results(study, records)
  assert planted.verdict(row, found) == verdict
  assert row.ours(found)['best constant action'] == [13.0]
  heavy = dict(study.arms)
  heavy['ODEtoODE-ISO'] = dataclasses.replace(
    heavy['ODEtoODE-ISO'], body=bodies.ODEtoODE(64)
  )
  assert (
    planted.verdict(row, dataclasses.replace(found, settings=heavy)) == 'fails'
  )


SETTING = control.Setting(
  functools.partial(pendulum.Pendulum, max_steps=4),
  jax_evaluator.JaxEvaluator,
  generations=2,
  pairs=2,
  rate=0.1,
  episodes=2,
  body=bodies.ODEtoODE(3, kind='static', n_steps=2),
)


@pytest.mark.slow
def test_policies_are_trained():
  found = [control.run(SETTING, seed=seed) for seed in (0, 1)]
  assert [record['returns'].shape for record in found] == [(2,), (2,)]
  assert found[0]['final'] != found[1]['final']
  assert control.random_return(SETTING)['final'] < 0


def test_a_step_size_is_chosen_by_the_last_generations():
  trials = control.studies(SETTING, rates=(0.1, 0.3, 0.2), trial=4).trials
  assert trials.seeds == (1000,)
  short = trials.shorten(trials.options(SETTING)[0.3])
  assert (short.generations, short.rate) == (4, 0.3)
  assert trials.score({'returns': [100.0, 0.1, 0.2, 0.3]}) == pytest.approx(0.2)


def test_the_best_constant_action():
  """Of a pendulum's three, by hand."""
  env = SETTING.env()
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
  measured = control.constant_return(SETTING)['final']
  assert measured == pytest.approx(best, rel=1e-4)


@pytest.mark.slow
def test_a_row_of_returns(tmp_path):
  study = control.studies(SETTING, rates=(0.1, 0.2), trial=2)
  arms = {
    name: dataclasses.replace(setting, generations=2)
    for name, setting in study.arms.items()
    if name in sum(control.LEVELS, ())
  }
  study = dataclasses.replace(study, arms=arms)
  row = SYSTEM.rows['pendulum-returns']
  written = publish(row, study, tmp_path)
  assert len(written.ours['BaseODE, final return']) == 2
  assert 'Short runs with seeds (1000,) chose the' in written.explanation
  curves = tmp_path / f'results/{SYSTEM.paper}/pendulum-returns-curves.csv'
  assert len(curves.read_text().splitlines()) == 1 + 4 * 2 * 2


# Flows.


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
def test_the_band_is_judged(beyond, free, top, verdict):
  """A ratio of 3 at T = 1 is beyond e."""
  row = SYSTEM.rows['gradient-band']
  norms = np.geomspace(top, 1.0, 26)[:, None]
  records = {}
  for arm, net in row.study.arms.items():
    if isinstance(net, band.Trained):
      records[arm] = [band.ratios(norms, net.time)] * 2
    else:
      record = {'orthogonal greatest': 2.0, 'orthogonal beyond': beyond}
      record |= {'free greatest': free**net.time}
      records[arm] = [record | {'free beyond': 1.0 if free > 1 else -1.0}] * 2
  assert planted.verdict(row, planted.results(row.study, records, 2)) == verdict


def test_random_nets_are_in_the_band():
  for time, greatest in ((1.0, 1.0), (10.0, 100.0)):
    for record in band.band(band.Random(4, 30, time), seeds=(0, 1)):
      assert record['orthogonal beyond'] < 1e-9
      assert record['free greatest'] > greatest


def test_orders_are_measured_and_judged():
  row = SYSTEM.rows['retraction-orders']
  method = row.study.arms['exp, order 1']
  known = flows.converge(method, at=25)
  assert known['error'] == pytest.approx(5.67e-3, rel=2e-3)

  def verdict(**changes):
    records = {}
    for arm, (_, order) in row.study.arms.items():
      defect = changes.get('euler', 1e-2) if arm == 'Euler' else 1e-15
      falls = changes.get(arm.replace(' ', ''), order)
      for n in row.study.at:
        error = float(n) ** -falls
        records[arm, n] = {'error': error, 'defect': defect}
    found = planted.results(row.study, records, 1)
    return planted.verdict(row, dataclasses.replace(found, seeds=None))

  assert verdict() == 'holds'
  assert verdict(euler=1e-15) == 'fails'
  assert verdict(**{'exp,order2': 1.5}) == 'fails'


def test_parameters_are_counted_and_judged(tmp_path):
  row = SYSTEM.rows['flow-parameters']
  study = row.study
  assert publish(row, study, tmp_path, seeds=None).verdict == 'holds'
  records = {arm: flows.count(body) for arm, body in study.arms.items()}
  records[f'{ISO}, d=16']['parameters'] = 391.0
  found = planted.results(study, records, 1)
  found = dataclasses.replace(found, seeds=None)
  assert planted.verdict(row, found) == 'fails'
