"""Bi-level runs: telemetry, budgets, bit-exact resumption, reports."""

import jax
import numpy as np
import optax

from hpo import ufom
from hpo.ufom import train_lib, training
from hpo.ufom.tasks import toy
from runtime.devices import mesh
from tests import experiments, refusals, trees

INNER = ufom.Inner(10, 0.1, mode='store')


def trainer(**options):
  defaults = {
    'optimizer': optax.sgd(0.5),
    'q': ufom.AdaptiveRule(r=10, q_min=0.3),
    'tasks_per_step': 2,
  }
  return training.Trainer(toy.Toy(), INNER, **{**defaults, **options})


def test_resumed_runs_are_the_same(tmp_path, capsys):
  made, eight = trainer(tasks_per_step=8), mesh.MeshConfig(data=8)
  workdir = tmp_path / 'whole'
  whole = train_lib.train(
    workdir=str(workdir),
    trainer=made,
    loop=experiments.loop_of(8),
    seed=3,
    mesh=eight,
  )
  for steps in (4, 8):  # Without a report.
    parts = experiments.run(
      made, tmp_path / 'parts', steps, mesh=eight, devices=8
    )
  trees.check_same(whole.state, parts)
  rows = experiments.rows(workdir)
  assert rows == experiments.rows(tmp_path / 'parts')
  experiments.check_declared(made, rows[-1])
  last = rows[-2]
  assert last['train/first_order_tasks'] == 64
  price = made.price
  spent = 64 * price.det + last['train/exact_tasks'] * price.rnd
  assert last['train/gradients'] == spent
  assert last['train/V_hat'] > 0
  names = {path.name for path in (workdir / 'report').iterdir()}
  assert names >= {'scores.md', 'cost.md', 'curves.png', 'cost.png'}
  assert 'share of exact' in capsys.readouterr().out


def after(made, steps=12):
  state = jax.jit(made.init, static_argnums=0)(1)
  batches = training.task_batches(
    made.family, count=made.tasks_per_step, seed=1
  )
  step = jax.jit(made.step)
  thetas = []
  for _ in range(steps):
    state, _ = step(state, next(batches))
    thetas.append(float(state.theta))
  return state, np.array(thetas)


def test_a_budget_shortens_steps_to_nothing():
  # First order costs 11 of the 21 of a stored exact gradient.
  _, found = after(trainer(q=0, budget=4))
  _, free = after(trainer(q=0), steps=1)
  assert found[0] == free[0]
  moves = np.abs(np.diff(found)) > 0
  assert moves[:6].all()
  assert not moves[7:].any()


def test_variance_is_matched():
  made = trainer(match_variance=True)
  state = made.init(1)
  assert made._factor(state, 0.5) == 1
  averages = ufom.AdaptiveQ(*map(np.float32, (0.2, 2.0)), np.int32(5))
  known = state.replace(averages=averages)
  np.testing.assert_allclose(made._factor(known, 0.5), 2 / 2.2, rtol=1e-5)


def test_batches_are_functions_of_seed_and_number():
  draw = lambda share: training.task_batches(
    toy.Toy(), count=64, seed=5, share=share
  )
  whole, half = draw((0, 1)), draw((1, 2))
  first = [next(whole)['number'] for _ in range(3)]
  np.testing.assert_array_equal(next(half)['number'], first[0][32:])
  again = draw((0, 1))
  again.set_state({'next_index': 2})
  np.testing.assert_array_equal(next(again)['number'], first[2])
  assert again.get_state() == {'next_index': 3}
  assert (first[0] != first[1]).any()


def test_fewer_devices_work_where_tasks_do_not_divide():
  for tasks, devices in ((1, 1), (6, 2), (8, 8), (16, 8)):
    made = experiments.of(trainer(tasks_per_step=tasks))
    assert made.mesh.size == devices


test_what_does_not_fit_is_refused = refusals.table(
  (lambda: trainer(q=-0.1), 'q must lie'),
  (lambda: trainer(q=0.1, match_variance=True), 'match_variance'),
  (lambda: trainer(q=ufom.AdaptiveRule(r=9)), 'r of the inner loop'),
  (lambda: trainer(budget=0), 'budget'),
  (lambda: toy.Toy().evaluators(ufom.Inner(3, 0.1)), 'that of the tasks'),
)
