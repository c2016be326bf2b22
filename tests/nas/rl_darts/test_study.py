"""The study of a search: its parts, its table, and its resumption."""

import json

import pytest

from nas.rl_darts import genotype, spaces, study
from tests.nas.rl_darts import darts_cases

SHORT = [
  'LOG_EVERY = 1',
  'EVAL_EVERY = 1',
  'STEPS = 1',
  'ITERATIONS_PER_STEP = 1',
  'DEPTHS = (2,)',
  'DENSE = 4',
  'train_levels/lanes.Lanes.num_lanes = 8',
  'test_levels/lanes.Lanes.num_lanes = 8',
  'ppo.PPO.unroll_length = 8',
]


def _write_genotypes(folder, numbers):
  folder.mkdir(parents=True)
  for time, number in numbers.items():
    cell = genotype.discretise(
      darts_cases.logits(spaces.MICRO, number), spaces.MICRO
    )
    text = genotype.Genotype.of({'normal': cell}).to_json()
    (folder / f'iteration_{time:06d}.json').write_text(text)


def test_equal_cells_of_a_search_are_trained_once(tmp_path):
  folder = tmp_path / 'search-seed1'
  _write_genotypes(folder / 'report' / 'genotypes', {2: 0, 4: 0, 8: 1})
  parts = list(study.cells('cell.gin', 1, ('STEPS = 3',), folder))
  assert [part.name for part in parts] == ['cell_000002', 'cell_000008']
  assert {part.seed for part in parts} == {1}
  first = f"GENOTYPE = '{folder}/report/genotypes/iteration_000002.json'"
  assert parts[0].gin_params == ('STEPS = 3', first)


def test_a_row_is_the_last_evaluation(tmp_path):
  part = study.Part('random', 'random.gin', 2)
  name = 'eval/test/episode_return'
  rows = [
    {'step': 1, name: 1.0, f'{name}_agent00': 0.0, f'{name}_agent01': 2.0},
    {'step': 2, name: 3.0, f'{name}_agent00': 5.0, f'{name}_agent01': 1.0},
    {'step': 3, 'train/loss': 9.0},
  ]
  part.folder(tmp_path).mkdir()
  lines = '\n'.join(json.dumps(row) for row in rows)
  (part.folder(tmp_path) / 'metrics.jsonl').write_text(lines + '\n')
  assert study.score(part, tmp_path) == {
    'part': 'random',
    'seed': 2,
    'test': 3.0,
    'test, best': 5.0,
  }


def test_a_study_needs_a_seed(tmp_path):
  with pytest.raises(ValueError, match='seeds must be positive, got 0'):
    study.main(['--workdir', str(tmp_path), '--seeds', '0'])


@pytest.mark.slow
def test_the_same_command_continues(tmp_path, capsys):
  """Of a finished part nothing is trained again; the rest follows."""
  params = [word for text in SHORT for word in ('--gin_param', text)]
  command = [
    *('--workdir', str(tmp_path), '--seeds', '1', *params),
    *('--search_param', 'ITERATIONS = 1'),
    *('--baseline', 'configs/nas/rl_darts_impala_tiny.gin'),
  ]
  study.main(command)
  table = (tmp_path / 'study.md').read_text()
  parts = ['search', 'cell_000001', 'rl_darts_impala_tiny']
  assert [part for part in parts if part in table] == parts
  metrics = sorted(tmp_path.glob('*/metrics.jsonl'))
  before = [path.read_text() for path in metrics]
  assert len(before) == 3
  # As if the study had been interrupted after the search.
  lost = tmp_path / 'cell_000001-seed0'
  lost.rename(tmp_path / 'lost')
  study.main(command)
  assert (tmp_path / 'study.md').read_text() == table
  drop = lambda text: [
    {k: v for k, v in json.loads(line).items() if not k.startswith('time/')}
    for line in text.splitlines()
  ]
  for path, text in zip(metrics, before, strict=True):
    assert drop(path.read_text()) == drop(text), path
  assert 'study.md' in capsys.readouterr().out
