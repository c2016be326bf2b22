"""Searches as they ship: learn, resume bit by bit, and leave genotypes."""

import pytest

from nas.rl_darts import data, networks, train_lib, training
from rl import ppo
from rl.envs import grid_levels, lanes, procgen
from runtime.config import sessions
from tests import experiments

SHORT = [
  'LOG_EVERY = 2',  # Rows are means since the last: no interval may be cut.
  'EVAL_EVERY = 2',
  'ITERATIONS_PER_STEP = 1',
  'ITERATIONS = 4',
  'DEPTHS = (2,)',
  'train_levels/lanes.Lanes.num_lanes = 8',
  'test_levels/lanes.Lanes.num_lanes = 8',
]
PPO = ['ppo.PPO.unroll_length = 8', 'DENSE = 4']
CASES = {
  'joint': (['rl_darts_grid_tiny'], PPO),
  'bilevel': (['rl_darts_grid_tiny', 'rl_darts_bilevel'], PPO),
  'rainbow': (['rl_darts_rainbow_tiny'], ['rainbow.Rainbow.min_replay = 8']),
}


def _train(case, steps, workdir, more=()):
  names, params = CASES[case]
  files = [f'configs/nas/{name}.gin' for name in names]
  params = [*SHORT, *params, f'STEPS = {steps}', *more]
  with sessions.session(train_lib.train, files, params) as parsed:
    return parsed.build(workdir=str(workdir), seed=3).state


@pytest.mark.slow
@pytest.mark.parametrize('case', list(CASES))
@pytest.mark.pictures
def test_a_run_that_was_stopped_is_the_whole_run(case, tmp_path):
  train = lambda steps, workdir: _train(case, steps, workdir)
  rows = experiments.check_resumes(train, tmp_path)
  assert any('train/alpha_entropy' in row for row in rows)
  gap = 'eval/test_levels_discrete/episode_return'
  assert any(gap in row for row in rows) == (case != 'rainbow')
  report = tmp_path / 'parts' / 'report'
  last = data.genotype_file(report / 'genotype.json')
  assert set(dict(last.cells)) == {'normal'}
  # Snapshots after the iterations that the search names; the last is the last.
  files = sorted((report / 'genotypes').iterdir())
  assert [path.stem for path in files] == [
    f'iteration_{i:06d}' for i in (2, 3, 4)
  ]
  assert data.genotype_file(files[-1]) == last
  for name in ('genotype.png', 'alpha.png', 'edges.csv', 'snapshots.csv'):
    assert (report / name).stat().st_size > 100, name


@pytest.mark.slow
def test_a_genotype_file_is_trained_again(tmp_path):
  _train('joint', 1, tmp_path / 'search')
  path = tmp_path / 'search' / 'report' / 'genotype.json'
  params = [*SHORT, *PPO, 'STEPS = 1', f"GENOTYPE = '{path}'"]
  params = [p for p in params if not p.startswith('ITERATIONS =')]
  with sessions.session(
    train_lib.train, ['configs/nas/evaluate_genotype.gin'], params
  ) as parsed:
    state = parsed.build(workdir=str(tmp_path / 'again'), seed=0).state
  encoder = state.learner.params['params']['trunk']['encoder']
  assert 'alpha' not in encoder


def test_a_trainer_without_a_search_is_told():
  env = lanes.Lanes(grid_levels.GridLevels(3, 8), 2)
  agent = ppo.PPO(encoder=networks.Micro())
  with pytest.raises(ValueError, match=r'must be a search\.Search'):
    training.SearchTrainer(agent, env)


def _operative(name, params=()):
  with sessions.session(
    train_lib.train, [f'configs/nas/{name}.gin'], params
  ) as parsed:
    return parsed.text


def test_published_settings_avoid_the_published_mistakes():
  """Reward scales by mode; support; discounts; two evaluators; enough episodes."""
  rainbow = _operative('rl_darts_procgen_rainbow')
  assert 'REWARD_SCALE = @procgen.reward_scale()' in rainbow
  assert 'distribution_mode = %MODE_OF_LEVELS' in rainbow
  for game in procgen.GAMES:
    scale = procgen.reward_scale(game, 'easy')
    assert scale * procgen.EASY_RANGES[game][1] == pytest.approx(1)
  text = _operative('rl_darts_procgen_ppo')
  assert 'reward_discount = %DISCOUNT' in text
  for config in (rainbow, text):
    assert "'train_levels'" in config
    assert "'all_levels'" in config
    assert 'EVAL_LANES = 64' in config  # Times 2 episodes per lane: 128.
    assert 'EVAL_EPISODES = 2' in config
