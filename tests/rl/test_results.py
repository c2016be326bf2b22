"""Tables, curves and films of finished runs."""

import functools
import json

import numpy as np
import optax
import pytest
from PIL import Image

from rl import evaluation, film, results, train_lib
from rl.envs import cartpole, lane_following, lanes, pendulum, pixels, rendering
from rl.es import policies, strategy, training
from runtime import loop
from runtime.loop import durations
from runtime.record import pictures
from tests.rl import agent_cases


def test_the_last_returns_beside_random_ones():
  rows = [
    {'step': 1, 'eval/test/episode_return': 1.0},
    {
      'step': 5,
      'eval/test/episode_return': 4.0,
      'eval/test/episode_return_error': 0.5,
    },
  ]
  random = np.array([1.0, 2.0, 3.0, 6.0])
  ours, other = results.score_rows(rows, {'test': random})
  assert ours['returns'] == 'eval/test'
  assert (ours['step'], ours['mean'], ours['error']) == (5, 4.0, 0.5)
  assert (other['mean'], other['median']) == (3.0, 2.5)
  np.testing.assert_allclose(other['error'], np.std(random) / 2)
  # Before the first evaluation there are these only.
  assert results.score_rows([], {'test': random}) == [other]


def test_agents_are_the_spread():
  values = np.array([[1.0, 5.0], [2.0, 6.0], [6.0, 10.0]])
  rows = []
  for step, column in zip((2, 4), values.T, strict=True):
    row = {'step': step, 'eval/test/episode_return': column.mean()}
    for agent, value in enumerate(column):
      row[f'eval/test/episode_return_agent0{agent}'] = value
    rows.append(row)
  steps, found = results.returns(rows, 'eval/test/episode_return')
  np.testing.assert_array_equal(steps, [2, 4])
  np.testing.assert_array_equal(found, values)
  (line,) = results.score_rows(rows, {})
  assert line['over'] == '3 agents'
  assert (line['median'], line['mean']) == (6.0, 7.0)
  assert (line['lower quartile'], line['upper quartile']) == (5.5, 8.0)


def test_agents_that_finish_no_episode_are_left_out():
  """Agents end episodes at different steps, in training and in evaluation."""
  rows = [
    {'step': 1, 'x/episode_return': 3.0, 'x/episode_return_agent00': 3.0},
    {'step': 2, 'x/episode_return': 4.0, 'x/episode_return_agent01': 4.0},
    {'step': 3, 'x/episode_return': 6.0, 'x/episode_return_agent01': 6.0},
  ]
  steps, found = results.returns(rows, 'x/episode_return')
  nan = np.nan
  np.testing.assert_array_equal(steps, [1, 2, 3])
  np.testing.assert_array_equal(found, [[3, nan, nan], [nan, 4, 6]])
  (line,) = results.score_rows(rows, {})
  assert (line['mean'], line['error']) == (6.0, 0.0)


TASK = pendulum.Pendulum(max_steps=5)


def _train(workdir, shown, *, steps, **settings):
  trainer = training.ESTrainer(
    TASK,
    functools.partial(policies.MLP, hidden=()),
    strategy.ESConfig(num_pairs=2),
    optax.sgd(0.1),
    film=shown,
    **settings,
  )
  config = loop.LoopConfig(durations.Duration(steps=steps), log_every=1)
  train_lib.train(workdir=str(workdir), trainer=trainer, loop=config)


@pytest.mark.slow
@pytest.mark.pictures
def test_a_run_leaves_a_table_curves_and_a_film(tmp_path, capsys):
  shown = film.Film(
    lanes.Lanes(TASK, 2), pixels.pendulum_scene, num_frames=7, size=16
  )
  _train(tmp_path, shown, steps=2, eval_episodes=4)
  assert 'random actions, center' in capsys.readouterr().out
  folder = tmp_path / 'report'
  assert (folder / 'returns.png').stat().st_size > 1000
  lines = (tmp_path / 'metrics.jsonl').read_text().splitlines()
  assert 'eval/center/episode_return' in json.loads(lines[-1])
  with Image.open(folder / 'film.gif') as gif:
    assert gif.size == (2 * 18, 18)
    assert gif.info['loop'] == 0
  with Image.open(folder / 'film.png') as strip:
    assert strip.size == (2 * 18, 6 * 18)


@pytest.mark.slow
def test_frames_are_what_the_lanes_showed():
  env = lanes.Lanes(lane_following.LaneFollowing(size=16), 2)
  shot = film.Film(env, num_frames=3, every=2, size=40)
  player = _Constant(env.action_space)
  frames = shot.shoot(player, agent_cases.KEY)
  assert frames.shape == (3, 34, 68, 3)
  assert frames.dtype == np.uint8
  assert (frames[0] != frames[2]).any()
  # A frame of black around each lane.
  assert not frames[:, 0].any()
  assert not frames[:, :, 34].any()
  np.testing.assert_array_equal(frames[:, 1:33:2], frames[:, 2:33:2])


class _Constant(evaluation.RandomPlayer):
  def act(self, memory, observation, first, key):
    chosen = self.greedy((), memory, observation, first, key)
    return chosen.memory, chosen.action


def test_what_cannot_be_shown_does_not_fail_the_run(
  tmp_path, caplog, monkeypatch
):
  """There is no renderer."""

  class Blind(lanes.Lanes):
    def render(self, state):
      raise rendering.RendererError('no renderer')

  # Curves of all metrics take long; `runtime` has their tests.
  monkeypatch.setattr(pictures, 'curves', lambda *_, **__: None)
  shown = film.Film(Blind(TASK, 2), num_frames=1)
  _train(tmp_path, shown, steps=1, eval_episodes=0)
  assert 'film.gif: RendererError: no renderer' in caplog.text
  written = {path.name for path in (tmp_path / 'report').iterdir()}
  assert 'film.gif' not in written
  assert {'scores.md', 'returns.png', 'summary.md'} <= written


def test_what_cannot_be_filmed_is_refused():
  balance = lanes.Lanes(cartpole.CartPoleBalance(), 2)
  with pytest.raises(ValueError, match='needs draw'):
    film.Film(balance)
  with pytest.raises(ValueError, match='Lanes of a JAX environment'):
    film.Film(agent_cases.Host(balance), pixels.balance_scene)
  with pytest.raises(ValueError, match='must be positive'):
    film.Film(balance, pixels.balance_scene, size=0)
