"""Programs: seeds that do not meddle, runs that resume, bandits that choose."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hpo.autorl import bandits, drift_mdp, inner, programs, tuned
from runtime import loop as loop_lib
from runtime import trainer as trainer_lib
from tests import experiments, seeds

TASK = drift_mdp.DriftMDP(
  length=40, cells=3, horizon=2, episodes=4, period=5, noise=1.0
)
ARMS = tuple(
  (('learning_rate', rate), ('entropy_cost', 0.01)) for rate in (0.1, 5.0)
)
PROGRAM = tuned.BanditTuned(TASK, ARMS, bandits.SlidingWindow(2), updates=5)


def test_a_seed_s_run_is_its_own_alone():
  both = programs.run(PROGRAM, (3, 4), 8, records=4)
  alone = programs.run(PROGRAM, (4,), 8, records=4)
  for name, x in alone.items():
    assert x.shape == (1, 4)
    np.testing.assert_allclose(x[0], both[name][1], rtol=1e-5, atol=1e-6)
  steps = both[f'train/{programs.STEPS}']
  np.testing.assert_allclose(steps, [[80 * (i + 1) for i in range(4)]] * 2)


def test_records_must_divide_the_run():
  with pytest.raises(ValueError, match='multiple of records'):
    programs.run(PROGRAM, (0,), 8, records=3)


def test_the_loop_gives_what_run_gives():
  trainer = programs.ProgramTrainer(PROGRAM, num_seeds=2, iterations_per_step=2)
  experiment = experiments.of(trainer)
  driven = loop_lib.drive(experiment, 4, records=4)
  fold = jax.random.fold_in

  @jax.jit
  def expected(key):
    step = lambda state, time: PROGRAM.step(state, fold(fold(key, 1), time))
    state = PROGRAM.init(fold(key, 0))
    return jax.lax.scan(step, state, jnp.arange(8))[0].inner.logits

  for i, logits in enumerate(driven.state.program.inner.logits):
    np.testing.assert_allclose(
      logits, expected(fold(jax.random.key(0), i)), rtol=1e-5, atol=1e-6
    )
  np.testing.assert_allclose(
    driven.column(f'train/{programs.STEPS}'), [160, 320, 480, 640]
  )


@pytest.mark.slow
def test_a_stopped_run_continues(tmp_path):
  trainer = programs.ProgramTrainer(PROGRAM, num_seeds=2)

  def train(steps, workdir):
    config = experiments.loop_of(steps, every=1, log_every=1)
    return trainer_lib.train(
      workdir=str(workdir), trainer=trainer, loop=config, seed=1
    ).state

  rows = experiments.check_resumes(train, tmp_path)
  judged = next(row for row in rows if 'eval/test/score' in row)
  experiments.check_declared(trainer, judged)
  assert (tmp_path / 'whole' / 'report' / 'scores.csv').is_file()


def test_the_bandit_is_told_the_mean_score_of_its_arm():
  state = PROGRAM.init(seeds.key(1))
  step = jax.jit(PROGRAM.step)
  for arm, rate in ((0, 0.1), (1, 5.0)):
    state, metrics = step(state, jax.random.fold_in(seeds.key(2), arm))
    np.testing.assert_allclose(metrics['learning_rate'], rate, rtol=1e-6)
    np.testing.assert_allclose(
      state.bandit.score[arm], metrics['tuned_score'], rtol=1e-6
    )
  assert state.inner.updates == 10


def test_the_drifting_task_is_an_inner_loop_with_exact_returns():
  assert isinstance(TASK, inner.Inner)
  task = drift_mdp.DriftMDP(episodes=20_000)
  logits = jax.random.normal(seeds.key(3), (7, 2))
  _, _, reward = jax.jit(task.play)(logits, jnp.int32(0), seeds.key(4))
  returns = np.asarray(reward).sum(0)
  want = float(jax.jit(task.exact)(logits, task.side(jnp.int32(0))))
  error = returns.std() / np.sqrt(returns.size)
  assert abs(returns.mean() - want) < 4 * error
  side = jax.jit(jax.vmap(task.side))
  sides = side(jnp.array([0, 39, 40, 79, 80, 1199, 1200, 2399]))
  np.testing.assert_array_equal(sides, [1, 1, -1, -1, 1, -1, 1, 1])


def test_gradients_of_the_drifting_task_are_those_of_its_exact_return():
  """On average over many batches, without entropy and noise."""
  task = drift_mdp.DriftMDP(episodes=4000)
  logits = 0.5 * jax.random.normal(seeds.key(5), (7, 2))
  slope = jax.jit(
    lambda key: jax.grad(task.loss)(
      logits, task.play(logits, jnp.int32(0), key), 0.0
    )
  )
  keys = jax.random.split(seeds.key(6), 20)
  found = np.mean([slope(key) for key in keys], axis=0)
  # The loss is a mean over the steps, the return a sum.
  exact = jax.jit(jax.grad(task.exact))(logits, jnp.float32(1))
  want = -np.asarray(exact) / task.horizon
  np.testing.assert_allclose(found, want, atol=0.01)
  assert np.abs(want).max() > 0.1


@pytest.mark.slow
def test_the_best_settings_flip():
  task = drift_mdp.DriftMDP(length=800)

  def run(rate, cost, key):
    def update(state, key):
      zeta = jax.tree.map(
        jnp.float32, {'learning_rate': rate, 'entropy_cost': cost}
      )
      found = task.update(state, zeta, key)
      return found.state, found.metrics['exact']

    keys = jax.random.split(key, task.length)
    return jax.lax.scan(update, task.init(key), keys)[1]

  keys = jax.random.split(seeds.key(7), 8)
  fast = jax.vmap(run, (None, None, 0))(10.0, 0.03, keys)
  slow = jax.vmap(run, (None, None, 0))(0.3, 0.001, keys)
  assert fast[:, :400].mean() > slow[:, :400].mean() + 0.5
  assert slow[:, 400:].mean() > fast[:, 400:].mean() + 0.5


def test_arms_must_fit_the_bandit():
  with pytest.raises(ValueError, match='3 arms, got settings of 2'):
    tuned.BanditTuned(TASK, ARMS, bandits.SlidingWindow(3))
  with pytest.raises(ValueError, match='same names'):
    tuned.BanditTuned(
      TASK, (ARMS[0], (('clip', 0.1),)), bandits.SlidingWindow(2)
    )
